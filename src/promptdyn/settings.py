"""Check the values of settings by their annotations: `num_states: int`, `emission: Literal["binomial", ...]`."""

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


# A plain type -> its name in messages, and whether a value is of the type.
_PLAIN: dict[type, tuple[str, Callable[[object], bool]]] = {
    int: ("a whole number", lambda value: _is_number(value) and isinstance(value, Integral)),
    float: ("a finite number", _is_number),
    bool: ("true or false", lambda value: isinstance(value, bool)),
    str: ("a word", lambda value: isinstance(value, str)),
    NoneType: ("none", lambda value: value is None),
}


def kinds_of(cls: type, fields: Mapping[str, Field[Any]]) -> dict[str, Any]:
    """Return the annotation of each setting, by name.

    An annotation is `Any` if it uses a name that does not exist at run time: one that is local to a function, or that
    is imported for type checkers alone.

    Args:
        cls: a dataclass.
        fields: its settings, by name.
    """
    kinds = _annotations(cls)
    if kinds is None:  # some annotation cannot be resolved, so each is tried by itself
        alone = {name: _annotations(_with_one(cls, name, field.type)) for name, field in fields.items()}
        kinds = {name: kind[name] for name, kind in alone.items() if kind}
    return {name: kinds.get(name, Any) for name in fields}


def _annotations(cls: type) -> dict[str, Any] | None:
    try:
        return get_type_hints(cls)
    except (NameError, AttributeError, TypeError):
        return None


def _with_one(cls: type, name: str, annotation: object) -> type:
    """Return a class of the same module with a single annotation."""
    return type(cls.__name__, (), {"__annotations__": {name: annotation}, "__module__": cls.__module__})


def check_setting(setting: str, value: object, kind: Any) -> None:
    """Raise InputError unless a setting's value fits its annotation.

    Args:
        setting: name of the setting in messages, such as "model 'hmm': num_states".
        value: the value to check.
        kind: the setting's annotation.
    """
    if get_origin(kind) is Literal:
        check_choice(setting, value, get_args(kind))
    elif not _fits(value, kind):
        raise InputError(f"{setting}={value!r} is not {_describe(kind)}")


def _fits(value: object, kind: Any) -> bool:
    if kind in _PLAIN:
        return _PLAIN[kind][1](value)
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return isinstance(value, str | int) and value in parts
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    cls = origin or kind
    if cls in (Sequence, tuple, list):  # one kind of list will do for another, but a text for none
        return isinstance(value, Sequence) and not isinstance(value, str)
    if cls in (Mapping, dict):
        return isinstance(value, Mapping)
    if cls is np.ndarray:
        return isinstance(value, np.ndarray)
    return callable(value) if cls is Callable else True  # the class of the settings must check any other kind itself


def _describe(kind: Any) -> str:
    if kind in _PLAIN:
        return _PLAIN[kind][0]
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if origin in (Union, UnionType):
        return " or ".join(map(_describe, parts))
    cls = origin or kind
    names: dict[object, str] = {
        **dict.fromkeys((Sequence, tuple, list), "a list"),
        **dict.fromkeys((Mapping, dict), "a mapping"),
        np.ndarray: "an array",
        Callable: "a function",
    }
    return names.get(cls, f"a {getattr(cls, '__name__', cls)}")
