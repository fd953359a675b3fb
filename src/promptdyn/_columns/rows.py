"""Checking of rows: values become columns, and what is wrong is told by its place in the source."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from promptdyn._columns.names import NO_LABEL, no_rows
from promptdyn._columns.repeats import first_of_each
from promptdyn._columns.values import as_float, factorize, filled, hashable, is_missing, is_text, is_whole, item, short
from promptdyn.errors import InputError, PromptdynWarning


class Fault(NamedTuple):
    """One kind of what is wrong with rows of a source, by the first that has it."""

    place: str  # of the first row, as "log.csv line 3"
    whose: str  # its prompt and step, as " (prompt 'a', step 3)"; "" where the row could not be read
    what: str
    mend: str
    rows: int = 1  # that have it


def num_rows(faults: Sequence[Fault]) -> int:
    """How many rows have one of faults that no row has two of."""
    return sum(fault.rows for fault in faults)


def as_error(source: str, faults: Sequence[Fault], bad: int, rows: int) -> InputError:
    """One line that tells all kinds of what is wrong with `bad` of the `rows` rows of a source."""
    if len(faults) > 1:
        kinds = _kinds(source, faults)
        return InputError(
            f"{source}: {bad:,} of {rows:,} rows are bad: {kinds}: mend them, or leave them out (skip_bad)"
        )
    fault = faults[0]
    where = f"{fault.place}{fault.whose}: {fault.what}"
    if fault.rows == 1:
        return InputError(f"{where}: {fault.mend}")
    return InputError(f"{where} ({fault.rows:,} such rows): {fault.mend}, or leave bad rows out (skip_bad)")


def nothing_read(source: str, faults: Sequence[Fault]) -> InputError:
    """The error about a source of which no line could be read as a row."""
    return as_error(source, faults, num_rows(faults), num_rows(faults)) if faults else no_rows(source)


def tell_skipped(source: str, faults: Sequence[Fault], bad: int, rows: int) -> None:
    """Warn of rows that are left out since they are bad."""
    told = f"{source}: skipped {bad:,} bad of {rows:,} rows: {_kinds(source, faults)}"
    warnings.warn(told, PromptdynWarning, stacklevel=4)


def _kinds(source: str, faults: Sequence[Fault]) -> str:
    def words(fault: Fault) -> str:
        place = fault.place.removeprefix(source).lstrip("/\\ ")
        return f"{place}: {fault.what}" + (f" ({fault.rows:,} rows)" if fault.rows > 1 else "")

    return "; ".join(map(words, faults))


class Rows:
    """The rows of a source while they are checked: turns values into columns, and notes which rows are bad and why.

    `integers`, `numbers` and `booleans` keep the order of the source; the others follow `order`. What they give for a
    bad row means nothing.
    """

    def __init__(self, place: Callable[[int], str], prompt_id: NDArray, step: NDArray) -> None:
        self.place, self.prompt_id, self.step = place, prompt_id, step
        self.good = np.ones(len(step), bool)
        self._noted: list[tuple[int, Fault]] = []  # with the first row
        self.order = np.arange(len(step))

    def note(self, rows: NDArray[np.intp], what: Callable[[int], str], mend: str) -> None:
        """Note that rows, by their numbers in the source, are bad; `what` words the first of them."""
        if len(rows):
            first = int(rows[0])
            self.good[rows] = False
            fault = Fault(self.place(first), self.whose(first), what(first), mend, len(rows))
            self._noted.append((first, fault))

    @property
    def faults(self) -> list[Fault]:
        """What was noted, in the order of the source."""
        return [fault for _, fault in sorted(self._noted, key=lambda noted: noted[0])]

    def whose(self, row: int) -> str:
        prompt, step = (item(values, row) for values in (self.prompt_id, self.step))
        return f" (prompt {short(prompt)}, step {short(step)})"

    def integers(self, name: str, values: NDArray, least: int, most: int = np.iinfo(np.int32).max) -> NDArray[np.int32]:
        if values.dtype.kind == "O":
            whole = np.fromiter(map(is_whole, values), bool, len(values))
        elif values.dtype.kind == "f":
            values = values.astype(np.float64)  # the bounds below are beyond half precision
            whole = np.isfinite(values) & (values == np.trunc(values))
        else:
            whole = np.full(len(values), values.dtype.kind in "iu")
        self._note(name, values, ~whole, "is not an integer", f"give an integer >= {least}")
        fits = filled(values, whole, least)
        inside = np.asarray((fits >= least) & (fits <= most), bool)
        self._note(name, values, ~inside, "is out of range", f"give an integer from {least} to {most}")
        return filled(fits, inside, least).astype(np.int32)

    def numbers(
        self, name: str, values: NDArray, least: float = -np.inf, dtype: type[np.floating[Any]] = np.float32
    ) -> NDArray[np.floating[Any]]:
        """(row,) finite numbers, NaN where one is missing."""
        if values.dtype.kind == "O":
            number = np.fromiter((isinstance(v, Real) and not isinstance(v, bool) for v in values), bool, len(values))
            missing = np.fromiter(map(is_missing, values), bool, len(values))
            floats = np.fromiter(map(as_float, np.where(number & ~missing, values, np.nan)), np.float64, len(values))
        else:
            number = np.full(len(values), values.dtype.kind in "iuf")
            missing = np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), bool)
            floats = values.astype(np.float64) if values.dtype.kind in "iuf" else np.full(len(values), np.nan)
        self._note(name, values, ~(number | missing), "is not a number", "give a number, or leave it empty")
        with np.errstate(over="ignore"):
            stored = floats.astype(dtype)
        self._note(name, values, np.isinf(stored), "is out of range", "give a finite number")
        self._note(name, values, ~np.isinf(stored) & (stored < least), "is out of range", f"give a number >= {least:g}")
        return stored

    def booleans(self, name: str, values: NDArray) -> NDArray[np.bool_]:
        if values.dtype.kind == "O":
            boolean = np.fromiter((isinstance(v, int | np.bool_) and v in (0, 1) for v in values), bool, len(values))
        else:
            boolean = np.isin(values, (0, 1)) if values.dtype.kind in "biuf" else np.zeros(len(values), bool)
        self._note(name, values, ~boolean, "is not a boolean", "give true or false")
        return filled(values, boolean, False).astype(bool)

    def labels(
        self, name: str, values: NDArray, missing_as: str | None = None, mend: str = ""
    ) -> tuple[NDArray[np.int32], NDArray[np.object_]]:
        """(row,) codes and (label,) distinct labels as strings, numbered by first appearance.

        A missing one is the label `missing_as`; where that is None, its row is bad, with a `mend` to tell.
        """
        ordered = values[self.order]
        try:
            raw_codes, distinct = factorize(ordered.tolist())
        except TypeError:  # unhashable
            fits = np.fromiter(map(hashable, ordered), bool, len(ordered))
            self._note(name, values, self.order[~fits], "is no label", "give a string or a number, or drop the column")
            raw_codes, distinct = factorize(np.where(fits, ordered, NO_LABEL).tolist())
        missing = [code for code, value in enumerate(distinct) if is_missing(value)]
        empty = [code for code, value in enumerate(distinct) if isinstance(value, str) and value == ""]
        if missing_as is not None:
            unlabelled = {*missing, *empty}
            distinct = [missing_as if code in unlabelled else value for code, value in enumerate(distinct)]
        else:
            for gone in filter(None, (missing, empty)):
                rows = self.order[np.isin(raw_codes, gone)]
                self._note(name, values, rows, "is empty", mend or f"give every row its {name}, or drop the row")
        # Different values may share a string, as 1 and "1" do.
        codes, labels = factorize([str(value) for value in distinct])
        try:
            "".join(labels).encode()
        except UnicodeEncodeError:
            odd = [code for code, value in enumerate(distinct) if not is_text(str(value))]
            rows = self.order[np.isin(raw_codes, odd)]
            self._note(name, values, rows, "is no valid text", "give text that UTF-8 can hold")
        return codes[raw_codes], np.fromiter(labels, object, len(labels))

    def trial(self) -> Rows:
        """The same rows, of which nothing is noted yet."""
        rows = Rows(self.place, self.prompt_id, self.step)
        rows.order = self.order
        return rows

    def labels_of_prompts(self, name: str, values: NDArray, prompt: NDArray[np.int32]) -> NDArray[np.object_]:
        """(prompt,) labels of a label column; a missing one is a level of its own."""
        codes, labels = self.labels(name, values, missing_as=NO_LABEL)
        good = self.good[self.order]
        code = np.zeros(prompt.max(initial=-1) + 1, np.int32)
        # Backwards, so that the label of a prompt's first good row stays.
        code[prompt[good][::-1]] = codes[good][::-1]
        at = np.flatnonzero(good & (code[prompt] != codes))
        if len(at):
            first, second = short(labels[code[prompt[at[0]]]]), short(labels[codes[at[0]]])
            self.note(
                self.order[at],
                lambda _: f"label column {name!r} changes from {first} to {second}",
                "give all rows of a prompt one label, or drop the column",
            )
        return labels[code]

    def note_repeats(self, prompt: NDArray[np.int32], step: NDArray[np.int32], counts: NDArray) -> None:
        """Note rows whose prompt has a row of their step before them; `counts` (row, column) is what they may share."""
        good = self.good[self.order]
        rows, counts = self.order[good], counts[good]
        before, earlier = first_of_each(prompt[good], step[good])
        at = np.flatnonzero(earlier)
        if len(at):
            same = int((counts[at] == counts[before[at]]).all(axis=1).sum())
            alike = (
                "the same" if same == len(at) else "other" if not same else f"in {same:,} of {len(at):,} cases the same"
            )
            self.note(
                rows[at],
                lambda _: (
                    f"the prompt has a row of this step already, {self.place(int(rows[before[at[0]]]))}, "
                    f"with {alike} counts"
                ),
                "keep the last (repeated='last') if it was logged twice or done again after a restart, add them up "
                "(repeated='merge') or make them steps of their own (repeated='apart') if it was rolled out anew",
            )

    def _note(self, name: str, values: NDArray, bad: NDArray, what: str, mend: str) -> None:
        """Note bad values of a column, given as a mask or as row numbers: those that are missing apart from others."""
        rows = np.flatnonzero(bad) if bad.dtype == bool else bad
        if not len(rows):
            return
        missing = np.array([is_missing(item(values, int(row))) for row in rows])
        self.note(rows[missing], lambda _: f"{name} is missing", mend)
        self.note(rows[~missing], lambda row: f"{name}={short(item(values, row))} {what}", mend)
