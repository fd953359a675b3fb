"""What a setting may be, told by its annotation: `num_states: int`, `emission: Literal["binomial", ...]`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field
from math import isfinite
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from promptdyn.errors import InputError, check_choice

__all__ = ["check_setting", "kinds_of"]


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and isfinite(value)


# Kinds of plain values: in words, and which values are of the kind.
_PLAIN: dict[type, tuple[str, Callable[[object], bool]]] = {
    int: ("a whole number", lambda value: _is_number(value) and isinstance(value, Integral)),
    float: ("a finite number", _is_number),
    bool: ("true or false", lambda value: isinstance(value, bool)),
    str: ("a word", lambda value: isinstance(value, str)),
    NoneType: ("none", lambda value: value is None),
}


def kinds_of(cls: type, fields: Mapping[str, Field[Any]]) -> dict[str, Any]:
    """Name of a setting -> its annotation; `Any` where it uses a name that is not there when the class runs.

    Such names are those of a function, or of a block for type checkers.

    Args:
        cls: a dataclass.
        fields: its settings.
    """
    kinds = _annotations(cls)
    if kinds is None:  # some of them are not known: each by itself
        alone = {name: _annotations(_with_one(cls, name, field.type)) for name, field in fields.items()}
        kinds = {name: kind[name] for name, kind in alone.items() if kind}
    return {name: kinds.get(name, Any) for name in fields}


def _annotations(cls: type) -> dict[str, Any] | None:
    try:
        return get_type_hints(cls)
    except (NameError, AttributeError, TypeError):
        return None


def _with_one(cls: type, name: str, annotation: object) -> type:
    """A class of the same module with a single annotation."""
    return type(cls.__name__, (), {"__annotations__": {name: annotation}, "__module__": cls.__module__})


def check_setting(setting: str, value: object, kind: Any) -> None:
    """Raise InputError unless a value is of a setting's kind.

    Args:
        setting: what to call it: "model 'hmm': num_states".
        value: what was given.
        kind: its annotation.
    """
    if get_origin(kind) is Literal:
        check_choice(setting, value, get_args(kind))
    elif not _is_of(value, kind):
        raise InputError(f"{setting}={value!r} is not {_in_words(kind)}")


def _is_of(value: object, kind: Any) -> bool:
    if kind in _PLAIN:
        return _PLAIN[kind][1](value)
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return isinstance(value, str | int) and value in parts
    if origin in (Union, UnionType):
        return any(_is_of(value, part) for part in parts)
    cls = origin or kind
    if cls in (Sequence, tuple, list):  # any will do for another, but a text for none
        return isinstance(value, Sequence) and not isinstance(value, str)
    if cls in (Mapping, dict):
        return isinstance(value, Mapping)
    if cls is np.ndarray:
        return isinstance(value, np.ndarray)
    return callable(value) if cls is Callable else True  # the class itself tells of what is none of these


def _in_words(kind: Any) -> str:
    if kind in _PLAIN:
        return _PLAIN[kind][0]
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if origin in (Union, UnionType):
        return " or ".join(map(_in_words, parts))
    cls = origin or kind
    named: dict[object, str] = {
        **dict.fromkeys((Sequence, tuple, list), "a list"),
        **dict.fromkeys((Mapping, dict), "a mapping"),
        np.ndarray: "an array",
        Callable: "a function",
    }
    return named.get(cls, f"a {getattr(cls, '__name__', cls)}")
