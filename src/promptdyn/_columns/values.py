"""Tell the kinds of single values, and quote them in errors."""

from __future__ import annotations

import math
import reprlib
from collections import defaultdict
from itertools import count
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray


def as_array(values: Any) -> NDArray:
    """Return values as a 1-D array in which each keeps its type (NumPy would turn [8, "x"] into two strings)."""
    return np.asarray(values) if hasattr(values, "__array__") else np.fromiter(values, object)


def is_missing(value: Any) -> bool:
    """Whether a value is None, NaN, or a missing value of pandas."""
    # NAType and NaTType are pandas' types, recognized here without an import of pandas.
    return (
        value is None or (isinstance(value, float) and value != value) or type(value).__name__ in ("NAType", "NaTType")
    )


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number; a boolean is none."""
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_text(label: str) -> bool:
    """Whether UTF-8 can hold a string (it cannot hold lone surrogates)."""
    try:
        label.encode()
    except UnicodeEncodeError:
        return False
    return True


def hashable(value: Any) -> bool:
    """Whether a value has a hash."""
    try:
        hash(value)
    except TypeError:
        return False
    return True


def as_float(value: Any) -> float:
    """Return a number as a float, infinity if it is too large."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def filled(values: NDArray, keep: NDArray[np.bool_], fill: Any) -> NDArray:
    """Return values with `fill` in place of those that the mask `keep` does not keep."""
    if keep.all():
        return values
    if values.dtype.kind not in "biufO":
        return np.full(len(values), fill)
    copied = values.copy()
    copied[~keep] = fill
    return copied


def item(values: NDArray, row: int) -> Any:
    """Return one value of an array as a Python object."""
    return values[row : row + 1].tolist()[0]


def factorize(values: list[Any]) -> tuple[NDArray[np.int32], list[Any]]:
    """Return (value,) codes and the distinct values, numbered by first appearance."""
    # The dict numbers new values itself, in C: this is the costliest loop of reading a history.
    index: defaultdict[Any, int] = defaultdict(count().__next__)
    codes = np.fromiter(map(index.__getitem__, values), np.int32, len(values))
    return codes, list(index)


_shortener = reprlib.Repr()
_shortener.maxstring = _shortener.maxother = 60


def quote(value: Any) -> str:
    """Return a value's `repr` for an error, shortened: a prompt that serves as its own id may be pages long."""
    return _shortener.repr(value)
