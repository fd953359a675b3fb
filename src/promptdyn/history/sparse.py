"""The sparse form of a history: one row per prompt and step that was rolled out."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from promptdyn._columns import (
    MAX_ROLLOUTS,
    OWN,
    REWARDS,
    Fault,
    Repeated,
    Rows,
    as_array,
    as_columns,
    as_error,
    check_lengths,
    no_rows,
    nothing_read,
    num_rows,
    renamed,
    tell_skipped,
    without_repeats,
)
from promptdyn.errors import InputError, PromptdynWarning, check_choice
from promptdyn.history.dense import DenseHistory, dense
from promptdyn.history.parquet import POOL_SIZE_KEY, SUCCESS_KEY, read_parquet, to_read, write_parquet
from promptdyn.prompts import Prompts

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Observed", "RewardHistory"]

Observed = Literal["trained", "all"]


class TableOptions(TypedDict, total=False):
    """How the columns of a table are read, see `RewardHistory.from_table`."""

    place: Callable[[int], str] | None
    columns: Mapping[str, str] | None
    drop: Sequence[str]
    cluster_columns: Sequence[str] | None
    repeated: Repeated
    skip_bad: bool
    faults: Sequence[Fault]


# Fewer groups that all vary may do so by chance.
FEW_GROUPS = 20


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
        success: the rule by which successes were counted, as `promptdyn.success` writes it; None where it is not known.
        reward_mean: (row,) mean of the group's folded rewards, NaN where it is not known; None where no row has one.
        reward_std: (row,) their standard deviation, of divisor n - 1 as TRL logs it (0 for one rollout), likewise.
        pool_size: prompts that the run could choose from, with those that it never rolled out; None where that is not
            known, as of most logs.
    """

    prompt_ids: NDArray[np.object_]
    prompt: NDArray[np.int32]
    step: NDArray[np.int32]
    num_rollouts: NDArray[np.int32]
    num_successes: NDArray[np.int32]
    trained: NDArray[np.bool_]
    clusters: Mapping[str, NDArray[np.object_]]
    success: str | None = None
    reward_mean: NDArray[np.float32] | None = None
    reward_std: NDArray[np.float32] | None = None
    pool_size: int | None = None

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
        success: str | None = None,
        reward_mean: ArrayLike | None = None,
        reward_std: ArrayLike | None = None,
        pool_size: int | None = None,
        repeated: Repeated = "error",
        skip_bad: bool = False,
    ) -> RewardHistory:
        """Check columns of equal length and build a history of them.

        Args:
            step: (row,) integers >= 0, in any order.
            prompt_id: (row,) strings, or anything that `str` makes unique.
            num_rollouts: (row,) integers from 1 to a million.
            num_successes: (row,) integers from 0 to `num_rollouts`.
            trained: (row,) booleans or 0/1. Default: all true.
            clusters: column name -> (row,) labels, the same in every row of a prompt; a missing one is the level
                "(none)". Default: none.
            source: what errors call the whole, such as a file name.
            place: what errors call a row, given its number from 0. Default: "SOURCE row NUMBER".
            success: the rule by which successes were counted. Default None: not known.
            reward_mean, reward_std: (row,) mean of the group's folded rewards, and their standard deviation of divisor
                n - 1; missing where not known. Default: not known.
            pool_size: prompts that the run could choose from. Default None: not known.
            repeated: what is done with rows of one prompt and step: "error" (default), "merge" (rollouts and successes
                add up), "last" (the last in the source's order stays), or "apart" (they are steps of their own, and
                later steps are numbered anew where there is no number between).
            skip_bad: leave out rows that are wrong, with a warning, instead of raising.

        Warns:
            PromptdynWarning: of bad rows that were skipped, and of rows that repeat, with how many they are.

        Raises:
            InputError: no rows; columns of different lengths; a value that is missing, out of range or of another
                type; two rows of a prompt in one step; a prompt with two labels in a cluster column; a pool smaller
                than the prompts that have rows; a `repeated` that is none. One error tells all kinds of bad rows, how
                many they are, and where the first of each stands.
        """
        columns = {
            "step": as_array(step),
            "prompt_id": as_array(prompt_id),
            "num_rollouts": as_array(num_rollouts),
            "num_successes": as_array(num_successes),
        }
        optional = {"trained": trained, "reward_mean": reward_mean, "reward_std": reward_std}
        columns |= {name: as_array(values) for name, values in optional.items() if values is not None}
        labels = {name: as_array(values) for name, values in (clusters or {}).items()}
        made = cls._checked(columns, labels, source, place, repeated, skip_bad)
        made = replace(made, success=success)
        return made if pool_size is None else made.of_pool(pool_size, source)

    @classmethod
    def _checked(
        cls,
        columns: Mapping[str, NDArray],
        labels: Mapping[str, NDArray],
        source: str,
        place: Callable[[int], str] | None,
        repeated: Repeated,
        skip_bad: bool,
        asked: bool = True,
        faults: Sequence[Fault] = (),
    ) -> RewardHistory:
        """The history of columns, and of those of labels: all of them if they were `asked` for, else those that fit."""
        check_choice("repeated", repeated, get_args(Repeated))
        if faults and len(columns["step"]) == 0:
            raise nothing_read(source, faults)
        check_lengths(source, {**columns, **labels})
        rows = Rows(place or (lambda row: f"{source} row {row}"), columns["prompt_id"], columns["step"])
        steps = rows.integers("step", columns["step"], least=0)
        n = rows.integers("num_rollouts", columns["num_rollouts"], least=1, most=MAX_ROLLOUTS)
        k = rows.integers("num_successes", columns["num_successes"], least=0)
        rows.note(
            np.flatnonzero(rows.good & (k > n)),
            lambda row: f"num_successes={k[row]} exceeds num_rollouts={n[row]}",
            "count the successes among the rollouts",
        )
        exposed = np.ones(len(n), bool)
        if "trained" in columns:
            exposed = rows.booleans("trained", columns["trained"])
        typed: dict[str, NDArray] = {"step": steps, "num_rollouts": n, "num_successes": k, "trained": exposed}
        for name, least in (("reward_mean", -np.inf), ("reward_std", 0.0)):
            if name in columns:
                typed[name] = rows.numbers(name, columns[name], least=least)

        order = np.argsort(steps, kind="stable")
        order = rows.order = order if rows.good.all() else order[rows.good[order]]
        typed = {name: values[order] for name, values in typed.items()}
        typed["prompt"], prompt_ids = rows.labels("prompt_id", columns["prompt_id"])
        if repeated == "error":
            rows.note_repeats(typed["prompt"], typed["step"], np.stack([n[order], k[order]], axis=1))
        clusters: dict[str, NDArray[np.object_]] = {}
        left_out: list[str] = []
        for name, values in labels.items():
            checked = rows if asked else rows.trial()
            clusters[name] = checked.labels_of_prompts(name, values, typed["prompt"])
            if not asked and checked.faults:
                why = f" ({checked.faults[0].place}: {checked.faults[0].what})" if not left_out else ""
                left_out.append(f"{name!r}{why}")
                del clusters[name]

        bad = int((~rows.good).sum())
        found, count, total = [*faults, *rows.faults], num_rows(faults) + bad, num_rows(faults) + len(n)
        if found:
            if not skip_bad or count == total:
                raise as_error(source, found, count, total)
            tell_skipped(source, found, count, total)
        if bad:
            kept = np.flatnonzero(rows.good)
            columns, labels = ({name: values[kept] for name, values in part.items()} for part in (columns, labels))
            return cls._checked(
                columns, labels, source, lambda row: rows.place(int(kept[row])), repeated, skip_bad, asked
            )
        if left_out:
            warnings.warn(
                f"{source}: left out {', '.join(left_out)}: labels are the same in all rows of a prompt; drop such "
                "columns, or name those to keep (cluster_columns)",
                PromptdynWarning,
                stacklevel=3,
            )
        if repeated != "error":
            typed = without_repeats(source, typed, repeated)
        rewards: dict[str, Any] = {
            name: typed[name] for name in REWARDS if name in typed and not np.isnan(typed[name]).all()
        }
        return cls(
            prompt_ids=prompt_ids,
            prompt=typed["prompt"],
            step=typed["step"],
            num_rollouts=typed["num_rollouts"],
            num_successes=typed["num_successes"],
            trained=typed["trained"],
            clusters=clusters,
            **rewards,
        )

    @classmethod
    def from_table(
        cls,
        table: object,
        source: str = "history",
        place: Callable[[int], str] | None = None,
        columns: Mapping[str, str] | None = None,
        drop: Sequence[str] = (),
        cluster_columns: Sequence[str] | None = None,
        repeated: Repeated = "error",
        skip_bad: bool = False,
        faults: Sequence[Fault] = (),
    ) -> RewardHistory:
        """Build a history of named columns.

        Args:
            table: a dict of arrays, a pandas data frame, a `pyarrow.Table`, a `datasets.Dataset`, or what else can be
                read as Arrow. It holds `step`, `prompt_id`, `num_rollouts`, `num_successes`, optionally `trained`,
                `reward_mean` and `reward_std`; other columns may be cluster columns. See `from_columns`.
            source: what errors call the whole.
            place: what errors call a row, given its number from 0.
            columns: name here -> name in the table, of columns that it calls otherwise, as in {"step": "global_step"}.
            drop: columns to leave out, by the table's names.
            cluster_columns: cluster columns, by their names here. Default: all that hold labels which are the same in
                all rows of a prompt; the others are left out with a warning, and pandas' row numbers without one.
            repeated, skip_bad: of `from_columns`.
            faults: what a reader found wrong with lines that it could not read as rows, to be told with bad rows.

        Raises:
            InputError: it is no table, a column is missing, or as `from_columns`.
        """
        table = as_columns(source, table)
        names = renamed(source, list(table), columns, drop, cluster_columns)
        arrays = {name: as_array(table[called]) for name, called in names.items()}
        own = {name: arrays.pop(name) for name in OWN if name in arrays}
        asked = cluster_columns is not None
        return cls._checked(own, arrays, source, place, repeated, skip_bad, asked, faults)

    @classmethod
    def from_records(
        cls, records: Iterable[Mapping[str, object]], source: str = "records", **options: Unpack[TableOptions]
    ) -> RewardHistory:
        """Build a history of one mapping per row, with the names and options of `from_table`.

        Raises:
            InputError: as `from_table`; a key that only some records have counts as missing in the others.
        """
        records = list(records)
        names = dict.fromkeys(chain.from_iterable(records))
        if not records:
            raise no_rows(source)
        table = {name: as_array([record.get(name) for record in records]) for name in names}
        return cls.from_table(table, source, **options)

    @classmethod
    def from_parquet(cls, path: str | Path, **options: Unpack[TableOptions]) -> RewardHistory:
        """Read a history file, or any Parquet file with the columns of `from_table`, which has the options too.

        Raises:
            InputError: no such file, not a Parquet file, written by a newer version, or as `from_table`.
        """
        columns, drop, asked = options.get("columns"), options.pop("drop", ()), options.get("cluster_columns")
        _, table, noted = read_parquet(
            path, lambda names, nested: to_read(str(path), names, nested, columns, drop, asked)
        )
        return cls.from_table(table, source=str(path), **options).noted(noted, str(path))

    def noted(self, metadata: Mapping[bytes, str], source: str = "history") -> RewardHistory:
        """The history with what a history file's metadata tell: its rule of success, and the size of its pool.

        Raises:
            InputError: a size that is none, as of `of_pool`.
        """
        size = metadata.get(POOL_SIZE_KEY)
        history = self if size is None else self.of_pool(size, source)
        return replace(history, success=metadata.get(SUCCESS_KEY))

    def to_parquet(self, path: str | Path) -> None:
        """Write a Parquet file with the columns of `from_table`, in place of one that is there.

        The file appears whole or not at all. Prompts without a row, which only a part of a history has (`select`),
        are not written.

        Raises:
            InputError: a cluster column has the name of another column.
        """
        import pyarrow as pa

        clash = [name for name in self.clusters if name in OWN]
        if clash:
            raise InputError(f"cluster column {clash[0]!r} has the name of a history's own column: rename it")
        columns = {
            "step": pa.array(self.step),
            "prompt_id": self._text(self.prompt_ids),
            "num_rollouts": pa.array(self.num_rollouts),
            "num_successes": pa.array(self.num_successes),
            "trained": pa.array(self.trained),
            **{name: pa.array(values, from_pandas=True) for name, values in self._rewards.items()},
            **{name: self._text(labels) for name, labels in self.clusters.items()},
        }
        facts = {SUCCESS_KEY: self.success, POOL_SIZE_KEY: self.pool_size}
        noted = {key: str(fact) for key, fact in facts.items() if fact is not None}
        write_parquet(path, pa.table(columns), noted)

    def _text(self, labels: NDArray[np.object_]) -> pa.Array:
        """(row,) text column of (prompt,) labels, each text kept once however many rows it has."""
        import pyarrow as pa

        return pa.DictionaryArray.from_arrays(pa.array(self.prompt), pa.array(labels, pa.large_string()))

    @property
    def _rewards(self) -> dict[str, NDArray[np.float32]]:
        """(row,) what is known of the groups' rewards, by column."""
        return {name: values for name in REWARDS if (values := getattr(self, name)) is not None}

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.step)

    def __repr__(self) -> str:
        clusters = f", clusters {', '.join(self.clusters)}" if self.clusters else ""
        return f"RewardHistory({len(self)} rows, {self.num_prompts} prompts, {len(self.steps)} steps{clusters})"

    @property
    def num_prompts(self) -> int:
        """Number of prompts known here, with or without rows; the run's pool may be larger (`pool_size`)."""
        return len(self.prompt_ids)

    @property
    def steps(self) -> NDArray[np.int32]:
        """(step,) distinct steps that have a row, ascending."""
        return self.step[np.diff(self.step, prepend=-1) > 0]

    @property
    def informative(self) -> NDArray[np.bool_]:
        """(row,) whether some rollouts succeeded and some failed, 0 < k < n."""
        return (self.num_successes > 0) & (self.num_successes < self.num_rollouts)

    @property
    def survivors_only(self) -> bool:
        """Whether the groups of a log all vary, as if it had dropped those that dynamic sampling drops.

        Not so of fewer than 20 groups, nor of a history that knows the size of its pool: its run kept all that it saw.
        """
        return self.pool_size is None and len(self) >= FEW_GROUPS and bool(self.informative.all())

    def marks(self) -> NDArray[np.uint64]:
        """(step,) of each of `steps` a number by which the same counts of the same prompts in it are known again.

        The order of rows and prompts, labels, rewards, and whether a row was trained on do not matter.
        """
        ids = [hashlib.blake2b(str(name).encode(errors="surrogatepass"), digest_size=8) for name in self.prompt_ids]
        of_prompt = np.array([int.from_bytes(digest.digest(), "little") for digest in ids], np.uint64)
        counts = self.num_rollouts.astype(np.uint64) << np.uint64(32) | self.num_successes.astype(np.uint64)
        rows = _mixed(of_prompt[self.prompt] ^ _mixed(counts))
        first = np.flatnonzero(np.diff(self.step, prepend=-1))
        if not len(rows):
            return rows
        sums: NDArray[np.uint64] = np.add.reduceat(rows, first)
        return _mixed(sums ^ self.steps.astype(np.uint64))

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
            **{name: values[keep] for name, values in self._rewards.items()},
        )

    def of_pool(self, pool_size: int | str, source: str = "history") -> RewardHistory:
        """The history as that of a run that could choose from so many prompts.

        Raises:
            InputError: it is no whole number, or smaller than the number of prompts here.
        """
        size = int(pool_size) if str(pool_size).isdecimal() else -1
        if size < self.num_prompts:
            raise InputError(
                f"{source}: pool_size={pool_size}, and {self.num_prompts} prompts are in the history: give how many "
                "the run could choose from"
            )
        return replace(self, pool_size=size)

    def before(self, step: int) -> RewardHistory:
        """The rows of steps below `step`, with the whole pool of prompts."""
        return self.select(self.step < step)

    def observed_rows(self, observed: Observed = "trained") -> NDArray[np.bool_]:
        """(row,) what a forecaster may see: the "trained" rows (as live training would have), or "all".

        Raises:
            InputError: `observed` is neither.
        """
        check_choice("observed", observed, get_args(Observed))
        return self.trained if observed == "trained" else np.ones(len(self), bool)

    def observed(self, observed: Observed = "trained") -> RewardHistory:
        """The rows of `observed_rows`, with the whole pool of prompts; raises as it does."""
        return self.select(self.observed_rows(observed))

    @cached_property
    def prompts(self) -> Prompts:
        """The pool: the prompts' ids and their label columns."""
        return Prompts(self.prompt_ids.tolist(), self.clusters)

    def dense(self, cluster: str | Sequence[str] | None = None) -> DenseHistory:
        """The history as arrays over (step, prompt), with prompts coded by cluster.

        Args:
            cluster: column name, or several to cross. Default: all prompts in one cluster.

        Raises:
            InputError: no such cluster column, or groups too large to tabulate.
        """
        return dense(self, cluster)

    def summary(self) -> dict[str, Any]:
        """JSON-able facts. Shares are of rows, from 0 to 1; what no row can tell is None.

        `density` is the share of (prompt, step) cells that have a row, `clusters` the number of labels by column.
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
            "reward_mean": self._mean_reward(),
            "unsolved": _share((self.num_successes == 0).sum(), rows),
            "partial": _share(self.informative.sum(), rows),
            "solved": _share((self.num_successes == self.num_rollouts).sum(), rows),
            "trained_rows": trained,
            "trained": _share(trained, rows),
            "density": _share(rows, cells),
            "clusters": {name: len(set(labels)) for name, labels in self.clusters.items()},
            "success": self.success,
            "pool_size": self.pool_size,
        }

    def _mean_reward(self) -> float | None:
        """Mean of all rewards, as far as rows have one: groups weigh by their rollouts."""
        if self.reward_mean is None:
            return None
        known = ~np.isnan(self.reward_mean)
        weights = self.num_rollouts[known]
        return float(np.average(self.reward_mean[known], weights=weights)) if known.any() else None


def _mixed(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Each word spread over all bits, so that sums of them tell apart what was added (SplitMix64)."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _share(part: Any, whole: int) -> float | None:
    return float(part / whole) if whole else None
