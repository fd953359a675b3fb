"""Names for things that people choose by name, with settings, in code and on the command line: models, strategies."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import is_dataclass
from math import isfinite
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np

from promptdyn.errors import InputError
from promptdyn.plugins import load_object, same_text, where

__all__ = ["Registry", "describe"]

_LITERALS = {"true": True, "false": False, "none": None}


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and isfinite(value)


# Annotations of settings that are one plain value: what the value must be.
_PLAIN: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "int": ("a whole number", lambda value: _is_number(value) and isinstance(value, Integral)),
    "float": ("a finite number", _is_number),
    "bool": ("true or false", lambda value: isinstance(value, bool)),
    "str": ("a word", lambda value: isinstance(value, str)),
}


# What stands in a text: a file's or module's class, then settings; and a file saved of such a thing.
_DECLARED = re.compile(r"(?P<place>[^:]+\.py|[\w.]+):(?P<name>[A-Za-z_]\w*)(?:[:,](?P<settings>.*))?")
_SAVED = re.compile(r"(?:(?P<of>.+)@)?(?P<path>[^@]+\.npz)")
Class = TypeVar("Class", bound=type[Any])


def describe(thing: Any, exact: bool = False) -> dict[str, Any]:
    """JSON-able name and settings of a dataclass, from which its registry makes it again.

    Args:
        thing: what is described.
        exact: True: raise InputError where a setting would not come back as it is. Default: it is told as printed.
    """
    if exact and not is_dataclass(thing):
        raise InputError(f"{type(thing).__name__} is no dataclass, so its settings cannot be kept: make it one")
    described = {"name": thing.name}
    for setting in getattr(thing, "__dataclass_fields__", ()):

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


def _tuples(value: Any) -> Any:
    """Lists as tuples, within one another too."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


class Registry(Mapping[str, type[Any]]):
    """Dataclasses by their `name`.

    Args:
        kind: what they are ("model"), for messages.
        *classes: dataclasses with a class attribute `name`.
        lacks: what a class has not that it needs, in words; "" where nothing is missing.
    """

    def __init__(self, kind: str, *classes: type[Any], lacks: Callable[[type[Any]], str] = lambda cls: "") -> None:
        self.kind = kind
        self._lacks = lacks
        self._classes = {cls.name: cls for cls in classes}

    def __getitem__(self, name: str) -> type[Any]:
        return self._classes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)

    def register(self, cls: Class) -> Class:
        """Enter a class of your own, also as a decorator. Declared anew, as in a notebook, it replaces itself.

        Raises:
            InputError: it is no dataclass, has no name that can be written in a text, lacks what is needed, or another
                class has its name.
        """
        label = f"{self.kind} {getattr(cls, '__qualname__', repr(cls))}"
        if not isinstance(cls, type):
            raise InputError(f"{label} is a {type(cls).__name__}: register the class, not what it makes")
        if not is_dataclass(cls):
            raise InputError(f"{label} is no dataclass: put @dataclass(frozen=True) above it")
        name = getattr(cls, "name", None)
        if not isinstance(name, str) or not re.fullmatch(r"[\w-]+", name):
            raise InputError(f"{label} has name {name!r}: give it one of letters, digits, _ and -, as in name = 'mine'")
        if missing := self._lacks(cls):
            raise InputError(f"{label} {missing}")
        there = self._classes.get(name, cls)
        if not same_text(there, cls):
            raise InputError(f"{label} has the name of {where(there)}, {name!r}: give it another")
        self._classes[name] = cls
        return cls

    def _find(self, name: str) -> type[Any]:
        if name not in self._classes:
            raise InputError(f"{self.kind} {name!r} is none of {', '.join(self._classes)}, nor FILE.py:CLASS")
        return self._classes[name]

    def create(self, name: str, settings: Mapping[str, Any] | None = None) -> Any:
        """Make one from its name and settings; InputError lists what there is, or says which value is off."""
        known = self._find(name).__dataclass_fields__
        for setting, value in (settings or {}).items():
            if setting not in known:
                there = f"it has {', '.join(known)}" if known else "it has none"
                raise InputError(f"{self.kind} {name!r} has no setting {setting!r}; {there}")
            word, fits = _PLAIN.get(_annotation(known[setting]), ("", None))
            if fits and not fits(value):
                raise InputError(f"{self.kind} {name!r}: {setting}={value!r} is not {word}")
        try:
            return self[name](**(settings or {}))
        except (TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{self.kind} {name!r} with {dict(settings or {})}: {error}") from None

    def made_of(self, described: Mapping[str, Any]) -> Any:
        """Make one of what `describe` gave; raises as `create`."""
        settings = {name: _tuples(value) for name, value in described.items() if name != "name"}
        return self.create(described["name"], settings)

    def parse(self, text: str, load: Callable[[str, type[Any] | None], Any] | None = None) -> dict[str, Any]:
        """Read a comma-separated list, each item `name` or `name:setting=value,setting=value`.

        "dps,mopps:decay=0.5,hmm:num_states=6,cluster=task" gives three models keyed by the text of each; a
        value "a+b" is the tuple ("a", "b"). Instead of a name an item may have a class of one's own, which is then
        registered: "mine.py:Mine:rate=0.5", "package.module:Mine".

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
            raise InputError(f"{self.kind} {text!r}: name at least one of {', '.join(self._classes)}")
        made: dict[str, Any] = {}
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
        """Name and settings of an item. A class of a file or module is registered."""
        name, _, settings = item.partition(":")
        declared = _DECLARED.fullmatch(item)
        if declared is None or name in self._classes:
            return name, settings
        cls = load_object(f"{declared['place']}:{declared['name']}", self.kind)
        return self.register(cls).name, declared["settings"] or ""

    def _value(self, name: str, setting: str, text: str) -> Any:
        """A Python literal (0.5, true), else words joined by "+", else the text itself."""
        if text.lower() in _LITERALS:
            return _LITERALS[text.lower()]
        field = self._find(name).__dataclass_fields__.get(setting)
        if field is None or not _annotation(field).startswith("str"):  # a label such as 007 is no number
            try:
                return ast.literal_eval(text)
            except (ValueError, SyntaxError):
                pass
        return tuple(text.split("+")) if "+" in text else text

    def parse_one(self, text: str, load: Callable[[str, type[Any] | None], Any] | None = None) -> Any:
        """Read a single item, as `parse` does; InputError too where there are several."""
        made = self.parse(text, load)
        if len(made) != 1:
            raise InputError(f"{self.kind} {text!r}: name one {self.kind}, not {len(made)}")
        return next(iter(made.values()))


def _annotation(field: Any) -> str:
    """A setting's annotation as text, whether or not its file has `from __future__ import annotations`."""
    kind = field.type
    return kind if isinstance(kind, str) else kind.__name__ if isinstance(kind, type) else str(kind)
