"""What people choose by name, with settings, in code and on the command line: models, methods, strategies, ..."""

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
from promptdyn.plugins import load_object, same_text, where
from promptdyn.settings import check_setting, kinds_of

__all__ = ["Registry", "describe", "inherits", "settings_of", "text_of"]

_LITERALS = {"true": True, "false": False, "none": None}

# What stands in a text: a name in a file or module, then settings; and a file saved of such a thing.
_DECLARED = re.compile(r"(?P<place>[^:]+\.py|[\w.]+):(?P<name>[A-Za-z_]\w*)(?:[:,](?P<settings>.*))?")
_SAVED = re.compile(r"(?:(?P<of>.+)@)?(?P<path>[^@]+\.npz)")
Entry = TypeVar("Entry")
Made = TypeVar("Made")
Loaded = TypeVar("Loaded")
Declared = TypeVar("Declared")


def settings_of(thing: object) -> dict[str, Field[Any]]:
    """The settings of a dataclass, or of what one makes: name -> field. None for all else."""
    return {field.name: field for field in fields(thing) if field.init} if is_dataclass(thing) else {}


def describe(thing: object, exact: bool = False) -> dict[str, Any]:
    """JSON-able name and settings of a dataclass, from which its registry makes it again.

    Args:
        thing: what is described.
        exact: True: raise InputError where a setting would not come back as it is. Default: it is told as printed.
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
    """Name and settings, the same in every process: "gumbel(temperature=0.1)"; of a function "informative"."""
    name = _name_of(thing)
    if isfunction(thing) or name is None:
        return name or type(thing).__name__
    values = {setting: getattr(thing, setting) for setting in settings_of(thing)} or getattr(thing, "__dict__", {})
    return f"{name}({', '.join(f'{setting}={value!r}' for setting, value in values.items())})"


def inherits(noun: str, base: type[Any], home: str) -> Callable[[Any], str]:
    """A check for `Registry`: that an entry inherits from a base class, has all of its abstract methods, and a name.

    Args:
        noun: what such a class makes ("strategy"), for messages.
        base: the base class.
        home: the module where people find it.
    """

    def lacks(entry: Any) -> str:
        if not (isinstance(entry, type) and issubclass(entry, base)):
            return f"is no {noun}: let it inherit from {home}.{base.__name__}"
        if missing := sorted(getattr(entry, "__abstractmethods__", ())):
            return f"is no {noun} yet: of the methods of {base.__name__} it lacks {', '.join(missing)}"
        return "" if isinstance(getattr(entry, "name", None), str) else "has no name: give the class one, name = 'mine'"

    return lacks


def _tuples(value: Any) -> Any:
    """Lists as tuples, within one another too."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _name_of(entry: object) -> Any:
    """What an entry is called: a class by its attribute `name`, a function as it was defined."""
    return entry.__name__ if isfunction(entry) else getattr(entry, "name", None)


class Registry(Mapping[str, Entry], Generic[Entry, Made]):
    """Things to choose from, by name: frozen dataclasses, whose fields are settings, or functions, which have none.

        @STRATEGIES.register
        @dataclass(frozen=True)
        class Mine(Strategy):
            rest: int = 5

            name = "mine"
            ...

        STRATEGIES.parse_one("mine:rest=10")  # Mine(rest=10), and so does --strategy mine.py:Mine:rest=10

    For type checkers, `Registry[Callable[..., Strategy], Strategy]` has classes of strategies, and makes strategies.

    Args:
        kind: what they are ("model"), for messages.
        *entries: dataclasses with a class attribute `name`, or functions.
        lacks: what an entry has not that it needs, in words; "" where nothing is missing. Default: nothing ever is.
        functions: whether a function will do for an entry; default False.
    """

    def __init__(
        self, kind: str, *entries: Entry, lacks: Callable[[Any], str] = lambda entry: "", functions: bool = False
    ) -> None:
        self.kind = kind
        self._lacks = lacks
        self._functions = functions
        self._entries = {_name_of(entry): entry for entry in entries}

    def __getitem__(self, name: str) -> Entry:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def register(self, entry: Declared) -> Declared:
        """Enter a class or function, also as a decorator. Declared anew, as in a notebook, it replaces itself.

        Raises:
            InputError: it is neither a dataclass nor, where these will do, a function; it has no name that can be
                written in a text; it lacks what is needed; or another has its name.
        """
        label = f"{self.kind} {getattr(entry, '__qualname__', repr(entry))}"
        is_function = isfunction(entry)
        if is_function and not self._functions:
            raise InputError(f"{label} is a function: register a class")
        if not is_function and not isinstance(entry, type):
            what = "the class, not what it makes" + (", or a function" if self._functions else "")
            raise InputError(f"{label} is a {type(entry).__name__}: register {what}")
        if not is_function and not is_dataclass(entry):
            raise InputError(f"{label} is no dataclass: put @dataclass(frozen=True) above it")
        name = _name_of(entry)
        if not isinstance(name, str) or not re.fullmatch(r"[\w-]+", name):
            raise InputError(f"{label} has name {name!r}: give it one of letters, digits, _ and -, as in name = 'mine'")
        if missing := self._lacks(entry):
            raise InputError(f"{label} {missing}")
        there = self._entries.get(name, entry)
        if not same_text(there, entry):
            raise InputError(f"{label} has the name of {where(there)}, {name!r}: give it another")
        self._entries[name] = cast(Entry, entry)
        return entry

    def _find(self, name: str) -> Entry:
        if name not in self._entries:
            raise InputError(f"{self.kind} {name!r} is none of {', '.join(self._entries)}, nor FILE.py:NAME")
        return self._entries[name]

    def create(self, name: str, settings: Mapping[str, object] | None = None) -> Made:
        """Make one from its name and settings; InputError lists what there is, or says which value is off."""
        return self._create(self._find(name), settings or {})

    def _create(self, entry: Any, settings: Mapping[str, object]) -> Made:
        name, known = _name_of(entry), settings_of(entry)
        kinds = kinds_of(entry, known) if isinstance(entry, type) else {}
        for setting, value in settings.items():
            if setting not in known:
                there = f"it has {', '.join(known)}" if known else "it has none"
                raise InputError(f"{self.kind} {name!r} has no setting {setting!r}; {there}")
            check_setting(f"{self.kind} {name!r}: {setting}", value, kinds[setting])
        if isfunction(entry):
            return cast(Made, entry)
        try:
            made: Made = entry(**settings)
        except (TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{self.kind} {name!r} with {dict(settings)}: {error}") from None
        return made

    def resolve(self, chosen: str | Made, settings: Mapping[str, object] | None = None) -> Made:
        """What a text names, or what is given itself, with some of its settings exchanged.

        Args:
            chosen: a name, with settings as in `parse`, "FILE.py:NAME", or an object of one's own.
            settings: setting -> value, of those to exchange; default none.

        Raises:
            InputError: it is none, or as `parse` and `create`.
        """
        made = self.parse_one(chosen) if isinstance(chosen, str) else self._checked(chosen)
        if not settings:
            return made
        if not is_dataclass(made):
            return self._create(made, settings)
        return self._create(type(made), {**{name: getattr(made, name) for name in settings_of(made)}, **settings})

    def _checked(self, thing: Made) -> Made:
        """An object, if it is of the kind."""
        names = ", ".join(self._entries)
        if isinstance(thing, type):
            raise InputError(
                f"{self.kind} {thing.__name__} is a class: give an object, {thing.__name__}(), or a name ({names})"
            )
        is_function = isfunction(thing) and self._functions
        if missing := self._lacks(thing if is_function else type(thing)):
            raise InputError(f"{self.kind} {thing!r} {missing}, or give a name ({names})")
        return thing

    def made_of(self, described: Mapping[str, Any]) -> Made:
        """Make one of what `describe` gave; raises as `create`."""
        settings = {name: _tuples(value) for name, value in described.items() if name != "name"}
        return self.create(described["name"], settings)

    @overload
    def parse(self, text: str, load: None = None) -> dict[str, Made]: ...

    @overload
    def parse(self, text: str, load: Callable[[str, Any], Loaded]) -> dict[str, Made | Loaded]: ...

    def parse(self, text: str, load: Callable[[str, Any], Loaded] | None = None) -> Mapping[str, Made | Loaded]:
        """Read a comma-separated list, each item `name` or `name:setting=value,setting=value`.

        "dps,mopps:decay=0.5,hmm:num_states=6,cluster=task" gives three models keyed by the text of each; a
        value "a+b" is the tuple ("a", "b"). Instead of a name an item may have a class or function of one's own, which
        is then registered: "mine.py:Mine:rate=0.5", "package.module:Mine".

        Args:
            text: the list.
            load: makes an item of a file and its class (None: the file says which), which is what an item that ends in
                ".npz" is then: "fit.npz", or "mine.py:Mine@fit.npz".

        Raises:
            InputError: an unknown name or setting, a setting before any name, an item or a setting given twice, or
                as `load_object` and `register`.
        """
        items: list[str] = []
        for part in filter(None, (part.strip() for part in text.split(","))):
            if "=" in part and ":" not in part.split("=", 1)[0]:  # a further setting of the item before it
                if not items:
                    raise InputError(f"{self.kind} {text!r}: {part!r} comes before any name")
                items[-1] += ("," if ":" in items[-1] else ":") + part
            else:
                items.append(part)
        if not items:
            raise InputError(f"{self.kind} {text!r}: name at least one of {', '.join(self._entries)}")
        made: dict[str, Made | Loaded] = {}
        for item in items:
            if item in made:
                raise InputError(f"{self.kind} {text!r}: {item!r} is given twice")
            saved = _SAVED.fullmatch(item)
            if load and saved:
                made[item] = load(saved["path"], self._find(self._named(saved["of"])[0]) if saved["of"] else None)
                continue
            name, text_of_settings = self._named(item)
            settings: dict[str, Any] = {}
            for pair in filter(None, text_of_settings.split(",")):
                setting, _, value = (part.strip() for part in pair.partition("="))
                if setting in settings:
                    raise InputError(f"{self.kind} {item!r}: {setting!r} is given twice")
                settings[setting] = self._value(name, setting, value)
            made[item] = self.create(name, settings)
        return made

    def _named(self, item: str) -> tuple[str, str]:
        """Name and settings of an item. What stands in a file or module is registered."""
        name, _, settings = item.partition(":")
        declared = _DECLARED.fullmatch(item)
        if declared is None or name in self._entries:
            return name, settings
        entry = self.register(load_object(f"{declared['place']}:{declared['name']}", self.kind))
        return _name_of(entry), declared["settings"] or ""

    def _value(self, name: str, setting: str, text: str) -> Any:
        """A Python literal (0.5, true), else words joined by "+", else the text itself."""
        if text.lower() in _LITERALS:
            return _LITERALS[text.lower()]
        entry = self._find(name)
        kind = kinds_of(entry, settings_of(entry)).get(setting) if isinstance(entry, type) else None
        if str not in (kind, *get_args(kind)):  # a label such as 007 is no number
            try:
                return ast.literal_eval(text)
            except (ValueError, SyntaxError):
                pass
        return tuple(text.split("+")) if "+" in text else text

    @overload
    def parse_one(self, text: str, load: None = None) -> Made: ...

    @overload
    def parse_one(self, text: str, load: Callable[[str, Any], Loaded]) -> Made | Loaded: ...

    def parse_one(self, text: str, load: Callable[[str, Any], Loaded] | None = None) -> Made | Loaded:
        """Read a single item, as `parse` does; InputError too where there are several."""
        made = self.parse(text, load) if load else self.parse(text)
        if len(made) != 1:
            raise InputError(f"{self.kind} {text!r}: name one {self.kind}, not {len(made)}")
        return next(iter(made.values()))
