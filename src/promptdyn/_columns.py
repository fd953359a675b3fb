"""Checking of a history's columns, with errors that name the row of the source. Knows no file format."""

from __future__ import annotations

import reprlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from itertools import count
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError

__all__ = [
    "INTEGERS",
    "MAX_ROLLOUTS",
    "NO_LABEL",
    "OWN",
    "REQUIRED",
    "REWARDS",
    "Rows",
    "as_array",
    "check_lengths",
    "is_missing",
    "no_rows",
    "renamed",
]

# A history's own columns; every other one is a cluster column.
INTEGERS = ("step", "num_rollouts", "num_successes")
REWARDS = ("reward_mean", "reward_std")
REQUIRED = ("step", "prompt_id", "num_rollouts", "num_successes")
OWN = (*REQUIRED, "trained", *REWARDS)
# The level of prompts whose label is missing.
NO_LABEL = "(none)"
# Of a group; a number beyond is a slip, and models that sum over outcomes would run without end.
MAX_ROLLOUTS = 1_000_000


class Rows:
    """The rows of a source while they are checked: turns values into columns, or says which row is wrong.

    `integers`, `numbers` and `booleans` keep the order of the source; the others follow `order`.
    """

    def __init__(self, place: Callable[[int], str], prompt_id: NDArray, step: NDArray) -> None:
        self.place, self.prompt_id, self.step = place, prompt_id, step
        self.order = np.arange(len(step))

    def error(self, row: int, what: str, mend: str) -> InputError:
        """The error about a row, by its number in the source."""
        prompt, step = self.prompt_id[row : row + 1].tolist()[0], self.step[row : row + 1].tolist()[0]
        return InputError(f"{self.place(int(row))} (prompt {_short(prompt)}, step {_short(step)}): {what}: {mend}")

    def integers(self, name: str, values: NDArray, least: int, most: int = np.iinfo(np.int32).max) -> NDArray[np.int32]:
        if values.dtype.kind == "O":
            whole = np.fromiter(map(_is_whole, values), bool, len(values))
        elif values.dtype.kind == "f":
            values = values.astype(np.float64)  # the bounds below are beyond half precision
            whole = np.isfinite(values) & (values == np.trunc(values))
        else:
            whole = np.full(len(values), values.dtype.kind in "iu")
        for row in np.flatnonzero(~whole)[:1]:
            raise self._wrong(name, row, values, "is not an integer", f"give an integer >= {least}")
        for row in np.flatnonzero((values < least) | (values > most))[:1]:
            raise self._wrong(name, row, values, "is out of range", f"give an integer from {least} to {most}")
        return values.astype(np.int32)

    def numbers(self, name: str, values: NDArray, least: float = -np.inf) -> NDArray[np.float32]:
        """(row,) finite numbers, NaN where one is missing."""
        if values.dtype.kind == "O":
            missing = np.fromiter(map(is_missing, values), bool, len(values))
            number = np.fromiter((isinstance(v, Real) and not isinstance(v, bool) for v in values), bool, len(values))
            for row in np.flatnonzero(~(number | missing))[:1]:
                raise self._wrong(name, row, values, "is not a number", "give a number, or leave it empty")
            floats = np.fromiter((np.nan if gone else v for v, gone in zip(values, missing, strict=True)), np.float64)
        elif values.dtype.kind in "iuf":
            floats = values.astype(np.float64)
        else:
            raise self._wrong(name, 0, values, "is not a number", "give a number, or leave it empty")
        with np.errstate(over="ignore"):
            single = floats.astype(np.float32)
        for row in np.flatnonzero(np.isinf(single) | (single < least))[:1]:
            bound = "a finite number" if np.isinf(single[row]) else f"a number >= {least:g}"
            raise self._wrong(name, row, values, "is out of range", f"give {bound}")
        return single

    def booleans(self, name: str, values: NDArray) -> NDArray[np.bool_]:
        if values.dtype.kind == "O":
            boolean = np.fromiter((isinstance(v, int | np.bool_) and v in (0, 1) for v in values), bool, len(values))
        else:
            boolean = np.isin(values, (0, 1)) if values.dtype.kind in "biuf" else np.zeros(len(values), bool)
        for row in np.flatnonzero(~boolean)[:1]:
            raise self._wrong(name, row, values, "is not a boolean", "give true or false")
        return values.astype(bool)

    def labels(
        self, name: str, values: NDArray, missing_as: str | None = None
    ) -> tuple[NDArray[np.int32], NDArray[np.object_]]:
        """(row,) codes and (label,) distinct labels as strings, numbered by first appearance; refuses missing ones."""
        try:
            raw_codes, distinct = _factorise(values[self.order].tolist())
        except TypeError:  # unhashable
            row = next(row for row, value in enumerate(values) if not _hashable(value))
            raise self._wrong(
                name, row, values, "is no label", "give a string or a number, or drop the column"
            ) from None
        missing = [code for code, value in enumerate(distinct) if is_missing(value) or value == ""]
        if missing_as is not None:
            distinct = [missing_as if code in missing else value for code, value in enumerate(distinct)]
            missing = []
        for at in np.flatnonzero(np.isin(raw_codes, missing))[:1] if missing else ():
            raise self._wrong(name, self.order[at], values, "is empty", f"give every row its {name}, or drop the row")
        # Different values may share a string, as 1 and "1" do.
        codes, labels = _factorise([str(value) for value in distinct])
        try:
            "".join(labels).encode()
        except UnicodeEncodeError:
            code = next(code for code, value in enumerate(distinct) if not _is_text(str(value)))
            row = self.order[np.flatnonzero(raw_codes == code)[0]]
            raise self._wrong(name, row, values, "is no valid text", "give text that UTF-8 can hold") from None
        return codes[raw_codes], np.fromiter(labels, object, len(labels))

    def labels_of_prompts(self, name: str, values: NDArray, prompt: NDArray[np.int32]) -> NDArray[np.object_]:
        """(prompt,) labels of a cluster column; a missing one is a level of its own."""
        codes, labels = self.labels(name, values, missing_as=NO_LABEL)
        # Backwards, so that the label of a prompt's first row stays.
        code = np.empty(prompt.max() + 1, np.int32)
        code[prompt[::-1]] = codes[::-1]
        for at in np.flatnonzero(code[prompt] != codes)[:1]:
            first, second = labels[code[prompt[at]]], labels[codes[at]]
            raise self.error(
                self.order[at],
                f"cluster column {name!r} changes from {_short(first)} to {_short(second)}",
                "give all rows of a prompt one label, or drop the column",
            )
        return labels[code]

    def check_unique(self, prompt: NDArray[np.int32], step: NDArray[np.int32]) -> None:
        key = step.astype(np.int64) * len(step) + prompt
        by_key = np.argsort(key, kind="stable")
        for at in np.flatnonzero(np.diff(key[by_key]) == 0)[:1]:
            first, second = self.order[by_key[at]], self.order[by_key[at + 1]]
            raise self.error(
                second,
                f"the prompt has a row of this step already, {self.place(int(first))}",
                "merge the rows into one, adding rollouts and successes",
            )

    def _wrong(self, name: str, row: int, values: NDArray, what: str, mend: str) -> InputError:
        value = values[row : row + 1].tolist()[0]
        found = f"{name} is missing" if is_missing(value) else f"{name}={_short(value)} {what}"
        return self.error(row, found, mend)


def as_array(values: Any) -> NDArray:
    """Values as a 1-D array in which each keeps its own type: NumPy would turn [8, "x"] into two strings."""
    return np.asarray(values) if hasattr(values, "__array__") else np.fromiter(values, object)


def _factorise(values: list[Any]) -> tuple[NDArray[np.int32], list[Any]]:
    """(value,) codes and the distinct values, numbered by first appearance."""
    # A lookup that numbers what it has not met, and runs in C: the costliest loop of reading a history.
    index: defaultdict[Any, int] = defaultdict(count().__next__)
    codes = np.fromiter(map(index.__getitem__, values), np.int32, len(values))
    return codes, list(index)


def _hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _is_text(label: str) -> bool:
    try:
        label.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_whole(value: Any) -> bool:
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_missing(value: Any) -> bool:
    # NAType and NaTType are pandas' missing values, known here without importing pandas.
    return (
        value is None or (isinstance(value, float) and value != value) or type(value).__name__ in ("NAType", "NaTType")
    )


def renamed(source: str, names: list[str], columns: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a source's columns are to be called -> what it calls them.

    Args:
        source: what errors call it.
        names: of its columns.
        columns: what some are to be called -> what it calls them; a column whose name another one takes is left out.

    Raises:
        InputError: a name that repeats, or one that is asked for or needed and not there.
    """
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise InputError(f"{source}: {names.count(repeated[0])} columns {repeated[0]!r}: keep one")
    columns = columns or {}
    there = ", ".join(map(str, names)) or "none"
    for name, called in columns.items():
        if called not in names:
            raise InputError(f"{source}: no column {called!r}, to be read as {name!r}, among {there}")
    kept = {name: name for name in names if name not in columns and name not in columns.values()}
    missing = [name for name in REQUIRED if name not in kept and name not in columns]
    if missing:
        raise InputError(
            f"{source}: no column {', '.join(map(repr, missing))} among {there}: name the columns "
            f"{', '.join(REQUIRED)}, or say which they are (columns, as in {missing[0]}=NAME)"
        )
    return {**columns, **kept}


def check_lengths(source: str, columns: Mapping[str, NDArray]) -> None:
    for name, values in columns.items():
        if values.ndim != 1:
            raise InputError(f"{source}: column {name!r} has shape {values.shape}: give one value a row")
        if len(values) != len(columns["step"]):
            raise InputError(
                f"{source}: column {name!r} has {len(values)} values and 'step' has {len(columns['step'])}: "
                "give columns of equal length"
            )
    if len(columns["step"]) == 0:
        raise no_rows(source)


def no_rows(source: str) -> InputError:
    return InputError(f"{source}: the history has no rows: give at least one rolled-out prompt")


_shortener = reprlib.Repr()
_shortener.maxstring = _shortener.maxother = 60


def _short(value: Any) -> str:
    """A value as one line of an error quotes it: prompts that serve as their own id may be pages long."""
    return _shortener.repr(value)
