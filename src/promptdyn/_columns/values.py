"""Single values of columns: what they are, and how errors quote them."""

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
    """Values as a 1-D array in which each keeps its own type: NumPy would turn [8, "x"] into two strings."""
    return np.asarray(values) if hasattr(values, "__array__") else np.fromiter(values, object)


def is_missing(value: Any) -> bool:
    # NAType and NaTType are pandas' missing values, known here without importing pandas.
    return (
        value is None or (isinstance(value, float) and value != value) or type(value).__name__ in ("NAType", "NaTType")
    )


def is_whole(value: Any) -> bool:
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_text(label: str) -> bool:
    try:
        label.encode()
    except UnicodeEncodeError:
        return False
    return True


def hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def as_float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def filled(values: NDArray, keep: NDArray[np.bool_], fill: Any) -> NDArray:
    """Values with `fill` for those that are not kept."""
    if keep.all():
        return values
    if values.dtype.kind not in "biufO":
        return np.full(len(values), fill)
    copied = values.copy()
    copied[~keep] = fill
    return copied


def item(values: NDArray, row: int) -> Any:
    """A value as Python's own."""
    return values[row : row + 1].tolist()[0]


def factorize(values: list[Any]) -> tuple[NDArray[np.int32], list[Any]]:
    """(value,) codes and the distinct values, numbered by first appearance."""
    # A lookup that numbers what it has not met, and runs in C: the costliest loop of reading a history.
    index: defaultdict[Any, int] = defaultdict(count().__next__)
    codes = np.fromiter(map(index.__getitem__, values), np.int32, len(values))
    return codes, list(index)


_shortener = reprlib.Repr()
_shortener.maxstring = _shortener.maxother = 60


def short(value: Any) -> str:
    """A value as one line of an error quotes it: prompts that serve as their own id may be pages long."""
    return _shortener.repr(value)
