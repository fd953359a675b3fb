"""Registries of what people choose by name, with settings, in code and on the command line: models, methods, ..."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, fields, is_dataclass
from inspect import isfunction
from typing import Any, Generic, TypeVar, cast, get_args, overload

import numpy as np

from promptdyn.errors import InputError
from promptdyn.plugins import load_object, object_reference, same_source
from promptdyn.settings import check_setting, kinds_of

__all__ = ["Registry", "describe", "settings_of", "subclass_fault", "text_of"]

_LITERALS = {"true": True, "false": False, "none": None}

# A name in a file or module, then settings; and a saved file, with the class of what it holds.
_DECLARED = re.compile(r"(?P<home>[^:]+\.py|[\w.]+):(?P<name>[A-Za-z_]\w*)(?:[:,](?P<settings>.*))?")
_SAVED = re.compile(r"(?:(?P<class>.+)@)?(?P<path>[^@]+\.npz)")
Entry = TypeVar("Entry")
Instance = TypeVar("Instance")
Loaded = TypeVar("Loaded")
Declared = TypeVar("Declared")


def settings_of(thing: object) -> dict[str, Field[Any]]:
    """Return the settings of a dataclass or of its instance, name -> field; empty for anything else."""
    return {field.name: field for field in fields(thing) if field.init} if is_dataclass(thing) else {}


def describe(thing: object, exact: bool = False) -> dict[str, Any]:
    """Return the JSON-able name and settings of a dataclass's instance, from which its registry makes it again.

    Args:
        thing: the instance to describe.
        exact: True raises InputError if JSON cannot hold a setting's value; False (default) writes the value's `repr`.
    """
    if exact and not is_dataclass(thing):
        raise InputError(f"{type(thing).__name__} is no dataclass, so its settings cannot be kept: make it one")
    described: dict[str, Any] = {"name": _name_of(thing)}
    for setting in settings_of(thing):

        def plain(value: Any, setting: str = setting) -> Any:
            if isinstance(value, np.generic):
                return value.item()
            if exact:
                raise InputError(
                    f"{type(thing).__name__}: setting {setting} holds a {type(value).__name__}, which cannot be kept "
                    "in a file: let settings be numbers, words, and tuples of them"
                )
            return repr(value)

        described[setting] = json.loads(json.dumps(getattr(thing, setting), default=plain))
    return described


def text_of(thing: object) -> str:
    """Return name and settings as text, the same in every process: "gumbel(temperature=0.1)", or a function's name."""
    name = _name_of(thing)
    if isfunction(thing) or name is None:
        return name or type(thing).__name__
    values = {setting: getattr(thing, setting) for setting in settings_of(thing)} or getattr(thing, "__dict__", {})
    return f"{name}({', '.join(f'{setting}={value!r}' for setting, value in values.items())})"


def subclass_fault(noun: str, base: type[Any], home: str) -> Callable[[Any], str]:
    """Return a check for `Registry`: an entry must inherit from a base class, with all abstract methods and a name.

    Args:
        noun: what an instance of the class is ("strategy"), for messages.
        base: the base class.
        home: the module from which people import the base class.
    """

    def fault(entry: Any) -> str:
        if not (isinstance(entry, type) and issubclass(entry, base)):
            return f"is no {noun}: let it inherit from {home}.{base.__name__}"
        if missing := sorted(getattr(entry, "__abstractmethods__", ())):
            return f"is no {noun} yet: of the methods of {base.__name__} it lacks {', '.join(missing)}"
        return "" if isinstance(getattr(entry, "name", None), str) else "has no name: give the class one, name = 'mine'"

    return fault


def _tuples(value: Any) -> Any:
    """Return the value with its lists, nested ones too, as tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _name_of(entry: object) -> Any:
    """Return an entry's name: a function's own, or a class's attribute `name`."""
    return entry.__name__ if isfunction(entry) else getattr(entry, "name", None)


class Registry(Mapping[str, Entry], Generic[Entry, Instance]):
    """Things to choose by name: frozen dataclasses, whose fields are their settings, or functions, which have none.

        @STRATEGIES.register
        @dataclass(frozen=True)
        class Mine(Strategy):
            rest: int = 5

            name = "mine"
            ...

        STRATEGIES.parse_one("mine:rest=10")  # Mine(rest=10), and so does --strategy mine.py:Mine:rest=10

    For type checkers, a `Registry[Callable[..., Strategy], Strategy]` holds strategy classes and makes strategies.

    Args:
        kind: what an entry is ("model"), for messages.
        *entries: dataclasses with a class attribute `name`, or functions.
        fault: function that describes the fault of an entry in words, or returns "". Default: no entry has a fault.
        functions: whether an entry may be a function; default False.
    """

    def __init__(
        self, kind: str, *entries: Entry, fault: Callable[[Any], str] = lambda entry: "", functions: bool = False
    ) -> None:
        self.kind = kind
        self._fault = fault
        self._functions = functions
        self._entries = {_name_of(entry): entry for entry in entries}

    def __getitem__(self, name: str) -> Entry:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def register(self, entry: Declared) -> Declared:
        """Add a class or function, also as a decorator. One that is declared again (in a notebook) replaces itself.

        Raises:
            InputError: the entry is neither a dataclass nor, where functions may be entries, a function; its name
                cannot be written in a text; it lacks something that the registry's `fault` asks for; or another entry
                has its name.
        """
        label = f"{self.kind} {getattr(entry, '__qualname__', repr(entry))}"
        is_function = isfunction(entry)
        if is_function and not self._functions:
            raise InputError(f"{label} is a function: register a class")
        if not is_function and not isinstance(entry, type):
            expected = "the class, not what it makes" + (", or a function" if self._functions else "")
            raise InputError(f"{label} is a {type(entry).__name__}: register {expected}")
        if not is_function and not is_dataclass(entry):
            raise InputError(f"{label} is no dataclass: put @dataclass(frozen=True) above it")
        name = _name_of(entry)
        if not isinstance(name, str) or not re.fullmatch(r"[\w-]+", name):
            raise InputError(f"{label} has name {name!r}: give it one of letters, digits, _ and -, as in name = 'mine'")
        if fault := self._fault(entry):
            raise InputError(f"{label} {fault}")
        earlier = self._entries.get(name, entry)
        if not same_source(earlier, entry):
            raise InputError(f"{label} has the name of {object_reference(earlier)}, {name!r}: give it another")
        self._entries[name] = cast(Entry, entry)
        return entry

    def _entry(self, name: str) -> Entry:
        if name not in self._entries:
            raise InputError(f"{self.kind} {name!r} is none of {', '.join(self._entries)}, nor FILE.py:NAME")
        return self._entries[name]

    def create(self, name: str, settings: Mapping[str, object] | None = None) -> Instance:
        """Make an instance from a name and settings.

        Raises:
            InputError: an unknown name or setting, or a bad value; the message lists the choices.
        """
        return self._create(self._entry(name), settings or {})

    def _create(self, entry: Any, settings: Mapping[str, object]) -> Instance:
        name, known = _name_of(entry), settings_of(entry)
        kinds = kinds_of(entry, known) if isinstance(entry, type) else {}
        for setting, value in settings.items():
            if setting not in known:
                choices = f"it has {', '.join(known)}" if known else "it has none"
                raise InputError(f"{self.kind} {name!r} has no setting {setting!r}; {choices}")
            check_setting(f"{self.kind} {name!r}: {setting}", value, kinds[setting])
        if isfunction(entry):
            return cast(Instance, entry)
        try:
            instance: Instance = entry(**settings)
        except (TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{self.kind} {name!r} with {dict(settings)}: {error}") from None
        return instance

    def resolve(self, chosen: str | Instance, settings: Mapping[str, object] | None = None) -> Instance:
        """Return the instance that a text names, or the one given, with some of its settings replaced.

        Args:
            chosen: a name, with settings as in `parse`, "FILE.py:NAME", or an instance.
            settings: setting -> new value; default none.

        Raises:
            InputError: `chosen` is none of these, or as in `parse` and `create`.
        """
        instance = self.parse_one(chosen) if isinstance(chosen, str) else self._checked(chosen)
        if not settings:
            return instance
        if not is_dataclass(instance):
            return self._create(instance, settings)
        own = {name: getattr(instance, name) for name in settings_of(instance)}
        return self._create(type(instance), {**own, **settings})

    def _checked(self, thing: Instance) -> Instance:
        """Return an instance, or raise InputError if it is not of the registry's kind."""
        names = ", ".join(self._entries)
        if isinstance(thing, type):
            raise InputError(
                f"{self.kind} {thing.__name__} is a class: give an object, {thing.__name__}(), or a name ({names})"
            )
        is_function = isfunction(thing) and self._functions
        if fault := self._fault(thing if is_function else type(thing)):
            raise InputError(f"{self.kind} {thing!r} {fault}, or give a name ({names})")
        return thing

    def from_description(self, described: Mapping[str, Any]) -> Instance:
        """Make an instance from what `describe` returned. Raises as `create` does."""
        settings = {name: _tuples(value) for name, value in described.items() if name != "name"}
        return self.create(described["name"], settings)

    @overload
    def parse(self, text: str, load: None = None) -> dict[str, Instance]: ...

    @overload
    def parse(self, text: str, load: Callable[[str, Any], Loaded]) -> dict[str, Instance | Loaded]: ...

    def parse(self, text: str, load: Callable[[str, Any], Loaded] | None = None) -> Mapping[str, Instance | Loaded]:
        """Read a comma-separated list, each item `name` or `name:setting=value,setting=value`.

        "dps,mopps:decay=0.5,hmm:num_states=6,cluster=task" gives three models, each under its own text as key. A value
        "a+b" is the tuple ("a", "b"). Instead of a name an item may give a class or function of your own, which is then
        registered: "mine.py:Mine:rate=0.5", "package.module:Mine".

        Args:
            text: the list.
            load: function of (path, class) that loads an item which ends in ".npz": "fit.npz", for which the class is
                None, or "mine.py:Mine@fit.npz". Default: no item is a file.

        Returns:
            Text of an item -> its instance.

        Raises:
            InputError: an unknown name or setting, a setting before any name, an item or a setting given twice, or
                as in `load_object` and `register`.
        """
        items: list[str] = []
        for part in filter(None, (part.strip() for part in text.split(","))):
            if "=" in part and ":" not in part.split("=", 1)[0]:  # one more setting of the item before it
                if not items:
                    raise InputError(f"{self.kind} {text!r}: {part!r} comes before any name")
                items[-1] += ("," if ":" in items[-1] else ":") + part
            else:
                items.append(part)
        if not items:
            raise InputError(f"{self.kind} {text!r}: name at least one of {', '.join(self._entries)}")
        instances: dict[str, Instance | Loaded] = {}
        for item in items:
            if item in instances:
                raise InputError(f"{self.kind} {text!r}: {item!r} is given twice")
            saved = _SAVED.fullmatch(item)
            if load and saved:
                cls = self._entry(self._split_item(saved["class"])[0]) if saved["class"] else None
                instances[item] = load(saved["path"], cls)
                continue
            name, settings_text = self._split_item(item)
            settings: dict[str, Any] = {}
            for pair in filter(None, settings_text.split(",")):
                setting, _, value = (part.strip() for part in pair.partition("="))
                if setting in settings:
                    raise InputError(f"{self.kind} {item!r}: {setting!r} is given twice")
                settings[setting] = self._value(name, setting, value)
            instances[item] = self.create(name, settings)
        return instances

    def _split_item(self, item: str) -> tuple[str, str]:
        """Split an item into its name and its settings, and register it if it is in a file or module."""
        name, _, settings = item.partition(":")
        declared = _DECLARED.fullmatch(item)
        if declared is None or name in self._entries:
            return name, settings
        entry = self.register(load_object(f"{declared['home']}:{declared['name']}", self.kind))
        return _name_of(entry), declared["settings"] or ""

    def _value(self, name: str, setting: str, text: str) -> Any:
        """Read a setting's value: a Python literal (0.5, true), else words joined by "+", else the text itself."""
        if text.lower() in _LITERALS:
            return _LITERALS[text.lower()]
        entry = self._entry(name)
        kind = kinds_of(entry, settings_of(entry)).get(setting) if isinstance(entry, type) else None
        if str not in (kind, *get_args(kind)):  # a label such as 007 is no number
            try:
                return ast.literal_eval(text)
            except (ValueError, SyntaxError):
                pass
        return tuple(text.split("+")) if "+" in text else text

    @overload
    def parse_one(self, text: str, load: None = None) -> Instance: ...

    @overload
    def parse_one(self, text: str, load: Callable[[str, Any], Loaded]) -> Instance | Loaded: ...

    def parse_one(self, text: str, load: Callable[[str, Any], Loaded] | None = None) -> Instance | Loaded:
        """Read a single item, as `parse` does. Raises InputError if there are several."""
        instances = self.parse(text, load) if load else self.parse(text)
        if len(instances) != 1:
            raise InputError(f"{self.kind} {text!r}: name one {self.kind}, not {len(instances)}")
        return next(iter(instances.values()))
