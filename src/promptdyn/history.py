"""Reward histories: how many of its rollouts each prompt solved, step by step, checked and stored as columns.

The sparse form (`RewardHistory`) has one row per prompt and step that was rolled out; the dense form (`DenseHistory`)
is what array kernels run on. Knows nothing of log formats other than its own Parquet file, of models, or of trainers.
"""

from __future__ import annotations

import reprlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from promptdyn.errors import InputError
from promptdyn.storage import atomic

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["DenseHistory", "RewardHistory"]

REQUIRED = ("step", "prompt_id", "num_rollouts", "num_successes")
VERSION = 1
VERSION_KEY = b"promptdyn.history.version"


class DenseHistory(NamedTuple):
    """A history as arrays over (step, prompt).

    The time axis has the steps that have a row, in order: a step that was never logged takes no place on it, so a model
    moves once from each logged step to the next.
    """

    symbols: NDArray[np.unsignedinteger[Any]]  # (step prompt) index into counts; 0 = not observed
    exposure: NDArray[np.bool_]  # (step prompt) observed and trained on
    counts: NDArray[np.int32]  # (symbol, 2) num_rollouts, num_successes; (0, 0) for symbol 0
    cluster: NDArray[np.int32]  # (prompt,) index into cluster_names
    cluster_names: tuple[str, ...]  # sorted labels; ("all",) without a cluster column
    prompt_ids: NDArray[np.object_]  # (prompt,)
    steps: NDArray[np.int32]  # (step,)


@dataclass(frozen=True, eq=False, repr=False)
class RewardHistory:
    """Success counts of a pool of prompts, one row per prompt and step, sorted by step.

    Make one with `from_columns`, `from_table`, `from_records` or `from_parquet`, which check it; the plain constructor
    does not.

    Attributes:
        prompt_ids: (prompt,) unique ids, in the order of their first rows.
        prompt: (row,) index into `prompt_ids`.
        step: (row,) training step, ascending; rows of a step keep the order of their source.
        num_rollouts: (row,) n, at least 1.
        num_successes: (row,) k, 0 <= k <= n.
        trained: (row,) whether the row fed the gradient.
        clusters: column name -> (prompt,) labels.
    """

    prompt_ids: NDArray[np.object_]
    prompt: NDArray[np.int32]
    step: NDArray[np.int32]
    num_rollouts: NDArray[np.int32]
    num_successes: NDArray[np.int32]
    trained: NDArray[np.bool_]
    clusters: Mapping[str, NDArray[np.object_]]

    @classmethod
    def from_columns(
        cls,
        step: ArrayLike,
        prompt_id: ArrayLike,
        num_rollouts: ArrayLike,
        num_successes: ArrayLike,
        trained: ArrayLike | None = None,
        clusters: Mapping[str, ArrayLike] | None = None,
        source: str = "history",
        place: Callable[[int], str] | None = None,
    ) -> RewardHistory:
        """Check columns of equal length and build a history of them.

        Args:
            step: (row,) integers >= 0, in any order.
            prompt_id: (row,) strings, or anything that `str` makes unique.
            num_rollouts: (row,) integers >= 1.
            num_successes: (row,) integers from 0 to `num_rollouts`.
            trained: (row,) booleans or 0/1. Default: all true.
            clusters: column name -> (row,) labels, the same in every row of a prompt. Default: none.
            source: what errors call the whole, such as a file name.
            place: what errors call a row, given its number from 0. Default: "SOURCE row NUMBER".

        Raises:
            InputError: no rows; columns of different lengths; a value that is missing, out of range or of another
                type; two rows of a prompt in one step; a prompt with two labels in a cluster column.
        """
        columns = {
            "step": _array(step),
            "prompt_id": _array(prompt_id),
            "num_rollouts": _array(num_rollouts),
            "num_successes": _array(num_successes),
        }
        if trained is not None:
            columns["trained"] = _array(trained)
        labels = {name: _array(values) for name, values in (clusters or {}).items()}
        _check_lengths(source, columns | labels)

        rows = _Rows(place or (lambda row: f"{source} row {row}"), columns["prompt_id"], columns["step"])
        steps = rows.integers("step", columns["step"], least=0)
        n = rows.integers("num_rollouts", columns["num_rollouts"], least=1)
        k = rows.integers("num_successes", columns["num_successes"], least=0)
        for row in np.flatnonzero(k > n)[:1]:
            what = f"num_successes={k[row]} exceeds num_rollouts={n[row]}"
            raise rows.error(row, what, "count the successes among the rollouts")
        exposed = rows.booleans("trained", columns["trained"]) if trained is not None else np.ones(len(n), bool)

        order = rows.order = np.argsort(steps, kind="stable")
        prompt, prompt_ids = rows.labels("prompt_id", columns["prompt_id"])
        rows.check_unique(prompt, steps[order])
        return cls(
            prompt_ids=prompt_ids,
            prompt=prompt,
            step=steps[order],
            num_rollouts=n[order],
            num_successes=k[order],
            trained=exposed[order],
            clusters={name: rows.labels_of_prompts(name, values, prompt) for name, values in labels.items()},
        )

    @classmethod
    def from_table(
        cls,
        table: Mapping[str, ArrayLike],
        source: str = "history",
        place: Callable[[int], str] | None = None,
    ) -> RewardHistory:
        """Build a history of named columns: a dict of arrays or a data frame.

        Args:
            table: holds `step`, `prompt_id`, `num_rollouts`, `num_successes`, optionally `trained`; every other column
                is a cluster column. See `from_columns`.
            source: what errors call the whole.
            place: what errors call a row, given its number from 0.

        Raises:
            InputError: a column is missing, or as `from_columns`.
        """
        _check_names(source, list(table))
        named = {name: table[name] for name in (*REQUIRED, "trained") if name in table}
        clusters = {name: table[name] for name in table if name not in named}
        return cls.from_columns(**named, clusters=clusters, source=source, place=place)

    @classmethod
    def from_records(
        cls,
        records: Iterable[Mapping[str, Any]],
        source: str = "records",
        place: Callable[[int], str] | None = None,
    ) -> RewardHistory:
        """Build a history of one mapping per row, with the names of `from_table`.

        Raises:
            InputError: as `from_table`; a key that only some records have counts as missing in the others.
        """
        records = list(records)
        names = dict.fromkeys(chain.from_iterable(records))
        if not records:
            raise _empty(source)
        table = {name: _array([record.get(name) for record in records]) for name in names}
        return cls.from_table(table, source, place)

    @classmethod
    def from_parquet(cls, path: str | Path) -> RewardHistory:
        """Read a history file, or any Parquet file with the columns of `from_table`.

        Raises:
            InputError: no such file, not a Parquet file, written by a newer version, or as `from_table`.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not Path(path).is_file():
            raise InputError(f"{path}: no such file: give a history's Parquet file")
        try:
            with pq.ParquetFile(path) as file:
                schema = file.schema_arrow
                _check_version(path, schema.metadata or {})
                # pandas keeps the row numbers of a filtered frame as a column of that name.
                names = [name for name in schema.names if not name.startswith("__index_level_")]
                _check_names(str(path), names)
                nested = [name for name in names if pa.types.is_nested(schema.field(name).type)]
                if nested:
                    raise InputError(
                        f"{path}: column {nested[0]!r} of type {schema.field(nested[0]).type} holds no labels: drop it"
                    )
                table = file.read(columns=names)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{path}: not a Parquet file, or damaged ({_one_line(error)}): write it again") from None
        return cls.from_table({name: _numpy(table[name]) for name in names}, source=str(path))

    def to_parquet(self, path: str | Path) -> None:
        """Write a Parquet file with the columns of `from_table`, in place of one that is there.

        The file appears whole or not at all. Prompts without a row, which only a part of a history has (`select`),
        are not written.

        Raises:
            InputError: a cluster column has the name of another column.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        clash = [name for name in self.clusters if name in (*REQUIRED, "trained")]
        if clash:
            raise InputError(f"cluster column {clash[0]!r} has the name of a history's own column: rename it")
        columns = {
            "step": pa.array(self.step),
            "prompt_id": pa.array(self.prompt_ids, pa.string()).take(pa.array(self.prompt)),
            "num_rollouts": pa.array(self.num_rollouts),
            "num_successes": pa.array(self.num_successes),
            "trained": pa.array(self.trained),
        }
        for name, labels in self.clusters.items():
            columns[name] = pa.array(labels, pa.string()).take(pa.array(self.prompt))
        table = pa.table(columns).replace_schema_metadata({VERSION_KEY: str(VERSION)})
        with atomic(path) as part:
            pq.write_table(table, part, compression="zstd")

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.step)

    def __repr__(self) -> str:
        clusters = f", clusters {', '.join(self.clusters)}" if self.clusters else ""
        return f"RewardHistory({len(self)} rows, {self.num_prompts} prompts, {len(self.steps)} steps{clusters})"

    @property
    def num_prompts(self) -> int:
        """Number of prompts in the pool, with or without rows."""
        return len(self.prompt_ids)

    @property
    def steps(self) -> NDArray[np.int32]:
        """(step,) distinct steps that have a row, ascending."""
        return self.step[np.diff(self.step, prepend=-1) > 0]

    @property
    def informative(self) -> NDArray[np.bool_]:
        """(row,) whether some rollouts succeeded and some failed, 0 < k < n."""
        return (self.num_successes > 0) & (self.num_successes < self.num_rollouts)

    def select(self, mask: ArrayLike) -> RewardHistory:
        """The rows where a (row,) boolean mask is true, with the whole pool of prompts.

        Raises:
            InputError: the mask has another shape or type.
        """
        keep = np.asarray(mask)
        if keep.shape != self.step.shape or keep.dtype != bool:
            raise InputError(
                f"mask of shape {keep.shape} and type {keep.dtype} does not fit: give one boolean for each of "
                f"{len(self)} rows"
            )
        return replace(
            self,
            prompt=self.prompt[keep],
            step=self.step[keep],
            num_rollouts=self.num_rollouts[keep],
            num_successes=self.num_successes[keep],
            trained=self.trained[keep],
        )

    def before(self, step: int) -> RewardHistory:
        """The rows of steps below `step`, with the whole pool of prompts."""
        return self.select(self.step < step)

    def observed_rows(self, observed: str = "trained") -> NDArray[np.bool_]:
        """(row,) what a forecaster may see: the "trained" rows (as live training would have), or "all".

        Raises:
            InputError: `observed` is neither.
        """
        if observed not in ("trained", "all"):
            raise InputError(f"observed={observed!r} is none of: trained, all")
        return self.trained if observed == "trained" else np.ones(len(self), bool)

    def observed(self, observed: str = "trained") -> RewardHistory:
        """The rows of `observed_rows`, with the whole pool of prompts; raises as it does."""
        return self.select(self.observed_rows(observed))

    def labels(self, cluster: str | Sequence[str]) -> NDArray[np.object_]:
        """(prompt,) labels of a cluster column, or of several, crossed and joined by "|".

        Raises:
            InputError: no such column.
        """
        names = [cluster] if isinstance(cluster, str) else list(cluster)
        for name in names:
            if name not in self.clusters:
                there = f"give one of: {', '.join(self.clusters)}" if self.clusters else "the history has none"
                raise InputError(f"cluster column {name!r} is not in the history: {there}")
        if len(names) == 1:
            return self.clusters[names[0]]
        crossed = zip(*(self.clusters[name] for name in names), strict=True)
        return np.fromiter(map("|".join, crossed), object, self.num_prompts)

    def dense(self, cluster: str | Sequence[str] | None = None) -> DenseHistory:
        """The history as arrays over (step, prompt), with prompts coded by cluster.

        Args:
            cluster: column name, or several to cross. Default: all prompts in one cluster.

        Raises:
            InputError: no such cluster column.
        """
        steps = self.steps
        at = (np.searchsorted(steps, self.step), self.prompt)
        shape = (len(steps), self.num_prompts)

        base = int(self.num_rollouts.max(initial=0)) + 1
        pairs, symbol = np.unique(self.num_rollouts * np.int64(base) + self.num_successes, return_inverse=True)
        symbols = np.zeros(shape, np.min_scalar_type(len(pairs)))
        symbols[at] = symbol + 1
        exposure = np.zeros(shape, bool)
        exposure[at] = self.trained

        if cluster is None:
            names, codes = ["all"], np.zeros(self.num_prompts, np.int32)
        else:
            labels = self.labels(cluster)
            names = sorted(set(labels))
            code = {name: index for index, name in enumerate(names)}
            codes = np.fromiter((code[label] for label in labels), np.int32, self.num_prompts)
        return DenseHistory(
            symbols=symbols,
            exposure=exposure,
            counts=np.stack(np.divmod(np.append(0, pairs), base), axis=1).astype(np.int32),
            cluster=codes,
            cluster_names=tuple(names),
            prompt_ids=self.prompt_ids,
            steps=steps,
        )

    def summary(self) -> dict[str, Any]:
        """JSON-able facts. Shares are of rows, from 0 to 1; what no row can tell is None.

        `coverage` is the share of (prompt, step) cells that have a row, `clusters` the number of labels by column.
        """
        rows, cells = len(self), self.num_prompts * len(self.steps)
        rollouts, successes = (
            int(self.num_rollouts.sum(dtype=np.int64)),
            int(self.num_successes.sum(dtype=np.int64)),
        )
        trained = int(np.count_nonzero(self.trained))
        return {
            "rows": rows,
            "prompts": self.num_prompts,
            "steps": len(self.steps),
            "first_step": int(self.step[0]) if rows else None,
            "last_step": int(self.step[-1]) if rows else None,
            "rollouts": rollouts,
            "rollouts_per_row": [int(self.num_rollouts.min()), int(self.num_rollouts.max())] if rows else None,
            "success_rate": _share(successes, rollouts),
            "unsolved": _share((self.num_successes == 0).sum(), rows),
            "partial": _share(self.informative.sum(), rows),
            "solved": _share((self.num_successes == self.num_rollouts).sum(), rows),
            "trained_rows": trained,
            "trained": _share(trained, rows),
            "coverage": _share(rows, cells),
            "clusters": {name: len(set(labels)) for name, labels in self.clusters.items()},
        }


class _Rows:
    """The rows of a source while they are checked: turns values into columns, or says which row is wrong.

    `integers` and `booleans` keep the order of the source; the others follow `order`.
    """

    def __init__(self, place: Callable[[int], str], prompt_id: NDArray, step: NDArray) -> None:
        self.place, self.prompt_id, self.step = place, prompt_id, step
        self.order = np.arange(len(step))

    def error(self, row: int, what: str, mend: str) -> InputError:
        """The error about a row, by its number in the source."""
        prompt, step = self.prompt_id[row : row + 1].tolist()[0], self.step[row : row + 1].tolist()[0]
        return InputError(f"{self.place(int(row))} (prompt {_short(prompt)}, step {_short(step)}): {what}: {mend}")

    def integers(self, name: str, values: NDArray, least: int) -> NDArray[np.int32]:
        most = np.iinfo(np.int32).max
        if values.dtype.kind == "O":
            whole = np.fromiter(map(_is_whole, values), bool, len(values))
        elif values.dtype.kind == "f":
            whole = np.isfinite(values) & (values == np.trunc(values))
        else:
            whole = np.full(len(values), values.dtype.kind in "iu")
        for row in np.flatnonzero(~whole)[:1]:
            raise self._wrong(name, row, values, "is not an integer", f"give an integer >= {least}")
        for row in np.flatnonzero((values < least) | (values > most))[:1]:
            raise self._wrong(name, row, values, "is out of range", f"give an integer from {least} to {most}")
        return values.astype(np.int32)

    def booleans(self, name: str, values: NDArray) -> NDArray[np.bool_]:
        if values.dtype.kind == "O":
            boolean = np.fromiter((isinstance(v, int | np.bool_) and v in (0, 1) for v in values), bool, len(values))
        else:
            boolean = np.isin(values, (0, 1)) if values.dtype.kind in "biuf" else np.zeros(len(values), bool)
        for row in np.flatnonzero(~boolean)[:1]:
            raise self._wrong(name, row, values, "is not a boolean", "give true or false")
        return values.astype(bool)

    def labels(self, name: str, values: NDArray) -> tuple[NDArray[np.int32], NDArray[np.object_]]:
        """(row,) codes and (label,) distinct labels as strings, numbered by first appearance."""
        try:
            raw_codes, distinct = _factorise(values[self.order].tolist())
        except TypeError:  # unhashable
            row = next(row for row, value in enumerate(values) if isinstance(value, list | dict | set))
            raise self._wrong(
                name, row, values, "is no label", "give a string or a number, or drop the column"
            ) from None
        missing = [code for code, value in enumerate(distinct) if _is_missing(value) or value == ""]
        for at in np.flatnonzero(np.isin(raw_codes, missing))[:1] if missing else ():
            raise self._wrong(name, self.order[at], values, "is empty", f"give every row its {name}, or drop the row")
        # Different values may share a string, as 1 and "1" do.
        codes, labels = _factorise([str(value) for value in distinct])
        return codes[raw_codes], np.fromiter(labels, object, len(labels))

    def labels_of_prompts(self, name: str, values: NDArray, prompt: NDArray[np.int32]) -> NDArray[np.object_]:
        """(prompt,) labels of a cluster column."""
        codes, labels = self.labels(name, values)
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
        found = f"{name} is missing" if _is_missing(value) else f"{name}={_short(value)} {what}"
        return self.error(row, found, mend)


def _array(values: Any) -> NDArray:
    """Values as a 1-D array in which each keeps its own type: NumPy would turn [8, "x"] into two strings."""
    return np.asarray(values) if hasattr(values, "__array__") else np.fromiter(values, object)


def _numpy(column: pa.ChunkedArray) -> NDArray:
    import pyarrow as pa

    return column.cast(column.type.value_type).to_numpy() if pa.types.is_dictionary(column.type) else column.to_numpy()


def _factorise(values: list[Any]) -> tuple[NDArray[np.int32], list[Any]]:
    """(value,) codes and the distinct values, numbered by first appearance."""
    # A lookup that numbers what it has not met, and runs in C: the costliest loop of reading a history.
    index: defaultdict[Any, int] = defaultdict(count().__next__)
    codes = np.fromiter(map(index.__getitem__, values), np.int32, len(values))
    return codes, list(index)


def _is_whole(value: Any) -> bool:
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_missing(value: Any) -> bool:
    # NAType and NaTType are pandas' missing values, known here without importing pandas.
    return (
        value is None or (isinstance(value, float) and value != value) or type(value).__name__ in ("NAType", "NaTType")
    )


def _check_names(source: str, names: list[str]) -> None:
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise InputError(f"{source}: {names.count(repeated[0])} columns {repeated[0]!r}: keep one")
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        raise InputError(
            f"{source}: no column {', '.join(map(repr, missing))} among {', '.join(map(str, names)) or 'none'}: "
            f"name the columns {', '.join(REQUIRED)}"
        )


def _check_lengths(source: str, columns: Mapping[str, NDArray]) -> None:
    for name, values in columns.items():
        if values.ndim != 1:
            raise InputError(f"{source}: column {name!r} has shape {values.shape}: give one value a row")
        if len(values) != len(columns["step"]):
            raise InputError(
                f"{source}: column {name!r} has {len(values)} values and 'step' has {len(columns['step'])}: "
                "give columns of equal length"
            )
    if len(columns["step"]) == 0:
        raise _empty(source)


def _check_version(path: str | Path, metadata: Mapping[bytes, bytes]) -> None:
    version = int(metadata.get(VERSION_KEY, b"0"))
    if version > VERSION:
        raise InputError(
            f"{path}: history format {version} is newer than the {VERSION} that this promptdyn reads: upgrade promptdyn"
        )


def _empty(source: str) -> InputError:
    return InputError(f"{source}: the history has no rows: give at least one rolled-out prompt")


def _share(part: Any, whole: int) -> float | None:
    return float(part / whole) if whole else None


_shortener = reprlib.Repr()
_shortener.maxstring = _shortener.maxother = 60


def _short(value: Any) -> str:
    """A value as one line of an error quotes it: prompts that serve as their own id may be pages long."""
    return _shortener.repr(value)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
