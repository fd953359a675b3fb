"""Check the rows of a source, turn their values into typed columns, and name each bad row by its place."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from promptdyn._columns.names import NO_LABEL, no_rows
from promptdyn._columns.repeats import first_of_each
from promptdyn._columns.values import as_float, factorize, filled, hashable, is_missing, is_text, is_whole, item, quote
from promptdyn.errors import InputError, PromptdynWarning


class Fault(NamedTuple):
    """One kind of fault in a source, described by the first row that has it."""

    first_row: str  # name of that row: "log.csv line 3"
    cell: str  # its prompt and step: " (prompt 'a', step 3)"; "" if the row could not be read
    problem: str
    mend: str
    num_rows: int = 1  # number of rows with the fault


def merge_faults(faults: Iterable[Fault]) -> list[Fault]:
    """Count together the faults that have the same mend, as those of one kind in several files do."""
    merged: dict[str, Fault] = {}
    for fault in faults:
        before = merged.get(fault.mend)
        merged[fault.mend] = before._replace(num_rows=before.num_rows + fault.num_rows) if before else fault
    return list(merged.values())


def num_rows(faults: Sequence[Fault]) -> int:
    """Return how many rows have a fault, if no row has two."""
    return sum(fault.num_rows for fault in faults)


def error_for(source: str, faults: Sequence[Fault], bad: int, rows: int) -> InputError:
    """Return an error whose one line tells every kind of fault in `bad` of the `rows` rows of a source."""
    if len(faults) > 1:
        kinds = _kinds(source, faults)
        return InputError(
            f"{source}: {bad:,} of {rows:,} rows are bad: {kinds}: mend them, or leave them out (skip_bad)"
        )
    fault = faults[0]
    problem = f"{fault.first_row}{fault.cell}: {fault.problem}"
    if fault.num_rows == 1:
        return InputError(f"{problem}: {fault.mend}")
    return InputError(f"{problem} ({fault.num_rows:,} such rows): {fault.mend}, or leave bad rows out (skip_bad)")


def error_for_no_rows(source: str, faults: Sequence[Fault]) -> InputError:
    """Return the error about a source in which no line could be read as a row."""
    return error_for(source, faults, num_rows(faults), num_rows(faults)) if faults else no_rows(source)


def warn_skipped(source: str, faults: Sequence[Fault], bad: int, rows: int) -> None:
    """Warn that bad rows are left out."""
    message = f"{source}: skipped {bad:,} bad of {rows:,} rows: {_kinds(source, faults)}"
    warnings.warn(message, PromptdynWarning, stacklevel=4)


def _kinds(source: str, faults: Sequence[Fault]) -> str:
    def describe(fault: Fault) -> str:
        row_name = fault.first_row.removeprefix(source).lstrip("/\\ ")
        return f"{row_name}: {fault.problem}" + (f" ({fault.num_rows:,} rows)" if fault.num_rows > 1 else "")

    return "; ".join(map(describe, faults))


class Rows:
    """The rows of a source while they are checked. Methods turn values into typed columns and note bad rows.

    `integers`, `numbers` and `booleans` return values in the source's order; the others follow `order`. The value of a
    bad row means nothing.

    Args:
        row_name: function that gives the name of a row in errors, from its number.
        prompt_id: (row,) ids, for errors.
        step: (row,) steps, for errors.

    Attributes:
        good: (row,) whether no fault was noted for the row.
        order: numbers of the rows that `labels` and the methods after it take, in their order; default all.
    """

    def __init__(self, row_name: Callable[[int], str], prompt_id: NDArray, step: NDArray) -> None:
        self.row_name, self.prompt_id, self.step = row_name, prompt_id, step
        self.good = np.ones(len(step), bool)
        self._noted: list[tuple[int, Fault]] = []  # each with the number of its first row
        self.order = np.arange(len(step))

    def note(self, rows: NDArray[np.intp], problem: Callable[[int], str], mend: str) -> None:
        """Note that rows (numbers in the source) are bad. `problem` describes the problem of the first one."""
        if len(rows):
            first = int(rows[0])
            self.good[rows] = False
            fault = Fault(self.row_name(first), self._cell(first), problem(first), mend, len(rows))
            self._noted.append((first, fault))

    @property
    def faults(self) -> list[Fault]:
        """The faults noted, in the order of their first rows."""
        return [fault for _, fault in sorted(self._noted, key=lambda noted: noted[0])]

    def _cell(self, row: int) -> str:
        prompt, step = (item(values, row) for values in (self.prompt_id, self.step))
        return f" (prompt {quote(prompt)}, step {quote(step)})"

    def integers(self, name: str, values: NDArray, least: int, most: int = np.iinfo(np.int32).max) -> NDArray[np.int32]:
        """Return (row,) integers from `least` to `most`."""
        if values.dtype.kind == "O":
            whole = np.fromiter(map(is_whole, values), bool, len(values))
        elif values.dtype.kind == "f":
            values = values.astype(np.float64)  # half precision cannot hold the bounds below
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
        """Return (row,) finite numbers, NaN for a missing one."""
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
        """Return (row,) booleans, from booleans or 0 and 1."""
        if values.dtype.kind == "O":
            boolean = np.fromiter((isinstance(v, int | np.bool_) and v in (0, 1) for v in values), bool, len(values))
        else:
            boolean = np.isin(values, (0, 1)) if values.dtype.kind in "biuf" else np.zeros(len(values), bool)
        self._note(name, values, ~boolean, "is not a boolean", "give true or false")
        return filled(values, boolean, False).astype(bool)

    def labels(
        self, name: str, values: NDArray, missing_label: str | None = None, mend: str = ""
    ) -> tuple[NDArray[np.int32], NDArray[np.object_]]:
        """Return (row,) codes and the (label,) distinct labels as strings, numbered by first appearance.

        Args:
            name: name of the column, for errors.
            values: (row,) labels.
            missing_label: label of rows without one. Default None: such a row is bad.
            mend: the mend to tell in that case; default a general one.
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
        if missing_label is not None:
            unlabelled = {*missing, *empty}
            distinct = [missing_label if code in unlabelled else value for code, value in enumerate(distinct)]
        else:
            for absent in filter(None, (missing, empty)):
                rows = self.order[np.isin(raw_codes, absent)]
                self._note(name, values, rows, "is empty", mend or f"give every row its {name}, or drop the row")
        # Different values may share a string, as 1 and "1" do.
        codes, labels = factorize([str(value) for value in distinct])
        try:
            "".join(labels).encode()
        except UnicodeEncodeError:
            invalid_codes = [code for code, value in enumerate(distinct) if not is_text(str(value))]
            rows = self.order[np.isin(raw_codes, invalid_codes)]
            self._note(name, values, rows, "is no valid text", "give text that UTF-8 can hold")
        return codes[raw_codes], np.fromiter(labels, object, len(labels))

    def trial(self) -> Rows:
        """Return the same rows without any fault noted, to try a column that may be left out."""
        rows = Rows(self.row_name, self.prompt_id, self.step)
        rows.order = self.order
        return rows

    def labels_of_prompts(self, name: str, values: NDArray, prompt: NDArray[np.int32]) -> NDArray[np.object_]:
        """Return (prompt,) labels of a column of (row,) labels; missing ones are a level of their own."""
        codes, labels = self.labels(name, values, missing_label=NO_LABEL)
        good = self.good[self.order]
        code = np.zeros(prompt.max(initial=-1) + 1, np.int32)
        # Assigned backwards, so that the label of a prompt's first good row stays.
        code[prompt[good][::-1]] = codes[good][::-1]
        differing = np.flatnonzero(good & (code[prompt] != codes))
        if len(differing):
            row = differing[0]
            first, second = quote(labels[code[prompt[row]]]), quote(labels[codes[row]])
            self.note(
                self.order[differing],
                lambda _: f"label column {name!r} changes from {first} to {second}",
                "give all rows of a prompt one label, or drop the column",
            )
        return labels[code]

    def note_repeats(self, prompt: NDArray[np.int32], step: NDArray[np.int32], counts: NDArray) -> None:
        """Note rows whose prompt has an earlier row of the same step, and tell whether their (row, 2) counts agree."""
        good = self.good[self.order]
        rows, counts = self.order[good], counts[good]
        before, earlier = first_of_each(prompt[good], step[good])
        repeats = np.flatnonzero(earlier)
        if len(repeats):
            same = int((counts[repeats] == counts[before[repeats]]).all(axis=1).sum())
            if same == len(repeats):
                agreement = "the same"
            else:
                agreement = f"in {same:,} of {len(repeats):,} cases the same" if same else "other"
            self.note(
                rows[repeats],
                lambda _: (
                    f"the prompt has a row of this step already, {self.row_name(int(rows[before[repeats[0]]]))}, "
                    f"with {agreement} counts"
                ),
                "keep the last (repeated='last') if it was logged twice or done again after a restart, add them up "
                "(repeated='merge') or make them steps of their own (repeated='apart') if it was rolled out anew",
            )

    def _note(self, name: str, values: NDArray, bad: NDArray, problem: str, mend: str) -> None:
        """Note bad values of a column, by a mask or row numbers. Missing values are one fault, the others another."""
        rows = np.flatnonzero(bad) if bad.dtype == bool else bad
        if not len(rows):
            return
        missing = np.array([is_missing(item(values, int(row))) for row in rows])
        self.note(rows[missing], lambda _: f"{name} is missing", mend)
        self.note(rows[~missing], lambda row: f"{name}={quote(item(values, row))} {problem}", mend)
