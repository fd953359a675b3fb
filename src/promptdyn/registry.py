"""Names for things that people choose by name, with settings: models and policies, in code and on the command line."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Any

from promptdyn.errors import InputError

__all__ = ["Registry"]


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
        for setting in settings or {}:
            if setting not in known:
                there = f"it has {', '.join(known)}" if known else "it has none"
                raise InputError(f"{self.kind} {name!r} has no setting {setting!r}; {there}")
        try:
            return self[name](**(settings or {}))
        except TypeError as error:  # a word where a number belongs
            raise InputError(f"{self.kind} {name!r} with {dict(settings or {})}: {error}") from None

    def parse(self, text: str) -> dict[str, Any]:
        """Read a comma-separated list, each item `name` or `name:setting=value,setting=value`.

        "dps,mopps:decay=0.5,hmm:num_states=6,cluster=task" gives three models keyed by the text of each; a
        value "a+b" is the tuple ("a", "b").

        Raises:
            InputError: an unknown name or setting, a setting before any name, or an item given twice.
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
            name, _, settings = item.partition(":")
            pairs = [setting.partition("=") for setting in filter(None, settings.split(","))]
            made[item] = self.create(name, {key.strip(): _value(value.strip()) for key, _, value in pairs})
        return made

    def parse_one(self, text: str) -> Any:
        """Read a single item, as `parse` does; InputError too where there are several."""
        made = self.parse(text)
        if len(made) != 1:
            raise InputError(f"{self.kind} {text!r}: name one {self.kind}, not {len(made)}")
        return next(iter(made.values()))


def _value(text: str) -> Any:
    """A Python literal (0.5, True), else columns joined by "+", else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return tuple(text.split("+")) if "+" in text else text
