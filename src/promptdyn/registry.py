"""Names for things that people choose by name, with settings: models and policies, in code and on the command line."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from math import isfinite
from numbers import Integral, Real
from typing import Any

from promptdyn.errors import InputError

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


def describe(thing: Any) -> dict[str, Any]:
    """JSON-able name and settings of a dataclass, from which its registry makes it again."""
    settings = {name: getattr(thing, name) for name in getattr(thing, "__dataclass_fields__", ())}
    return {"name": thing.name} | {
        name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()
    }


class Registry(Mapping[str, type[Any]]):
    """Dataclasses by their `name`.

    Args:
        kind: what they are ("model"), for messages.
        *classes: dataclasses with a class attribute `name`.
    """

    def __init__(self, kind: str, *classes: type[Any]) -> None:
        self.kind = kind
        self._classes = {cls.name: cls for cls in classes}

    def __getitem__(self, name: str) -> type[Any]:
        if name not in self._classes:
            raise InputError(f"{self.kind} {name!r} is none of {', '.join(self._classes)}")
        return self._classes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)

    def create(self, name: str, settings: Mapping[str, Any] | None = None) -> Any:
        """Make one from its name and settings; InputError lists what there is, or says which value is off."""
        known = self[name].__dataclass_fields__
        for setting, value in (settings or {}).items():
            if setting not in known:
                there = f"it has {', '.join(known)}" if known else "it has none"
                raise InputError(f"{self.kind} {name!r} has no setting {setting!r}; {there}")
            word, fits = _PLAIN.get(known[setting].type, ("", None))
            if fits and not fits(value):
                raise InputError(f"{self.kind} {name!r}: {setting}={value!r} is not {word}")
        try:
            return self[name](**(settings or {}))
        except (TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{self.kind} {name!r} with {dict(settings or {})}: {error}") from None

    def parse(self, text: str, load: Callable[[str], Any] | None = None) -> dict[str, Any]:
        """Read a comma-separated list, each item `name` or `name:setting=value,setting=value`.

        "dps,mopps:decay=0.5,hmm:num_states=6,cluster=task" gives three models keyed by the text of each; a
        value "a+b" is the tuple ("a", "b").

        Args:
            text: the list.
            load: makes an item of a file, which is what an item that ends in ".npz" is then.

        Raises:
            InputError: an unknown name or setting, a setting before any name, an item or a setting given twice.
        """
        items: list[str] = []
        for part in filter(None, (part.strip() for part in text.split(","))):
            if "=" in part and ":" not in part.split("=", 1)[0]:  # a further setting of the item before it
                if not items:
                    raise InputError(f"{self.kind}s {text!r}: {part!r} comes before any name")
                items[-1] += ("," if ":" in items[-1] else ":") + part
            else:
                items.append(part)
        if not items:
            raise InputError(f"{self.kind}s {text!r}: name at least one of {', '.join(self._classes)}")
        made: dict[str, Any] = {}
        for item in items:
            if item in made:
                raise InputError(f"{self.kind}s {text!r}: {item!r} is given twice")
            if load and item.endswith(".npz"):
                made[item] = load(item)
                continue
            name, _, text_of_settings = item.partition(":")
            settings: dict[str, Any] = {}
            for pair in filter(None, text_of_settings.split(",")):
                setting, _, value = (part.strip() for part in pair.partition("="))
                if setting in settings:
                    raise InputError(f"{self.kind} {item!r}: {setting!r} is given twice")
                settings[setting] = self._value(name, setting, value)
            made[item] = self.create(name, settings)
        return made

    def _value(self, name: str, setting: str, text: str) -> Any:
        """A Python literal (0.5, true), else words joined by "+", else the text itself."""
        if text.lower() in _LITERALS:
            return _LITERALS[text.lower()]
        field = self[name].__dataclass_fields__.get(setting)
        if field is None or not field.type.startswith("str"):  # a label such as 007 is no number
            try:
                return ast.literal_eval(text)
            except (ValueError, SyntaxError):
                pass
        return tuple(text.split("+")) if "+" in text else text

    def parse_one(self, text: str, load: Callable[[str], Any] | None = None) -> Any:
        """Read a single item, as `parse` does; InputError too where there are several."""
        made = self.parse(text, load)
        if len(made) != 1:
            raise InputError(f"{self.kind} {text!r}: name one {self.kind}, not {len(made)}")
        return next(iter(made.values()))
