"""The sparse form of a history: one row per prompt and step that was rolled out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Literal, Unpack, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from promptdyn._columns import OWN, REWARDS, Fault, Repeated, as_array, as_columns, no_rows, rename_columns
from promptdyn.errors import InputError, check_choice
from promptdyn.history.checked import TableOptions, check_columns
from promptdyn.history.dense import DenseHistory
from promptdyn.history.marks import step_marks
from promptdyn.history.parquet import POOL_SIZE_KEY, SUCCESS_KEY, columns_to_read, read_parquet, write_parquet
from promptdyn.prompts import Prompts

__all__ = ["Observed", "RewardHistory"]

Observed = Literal["trained", "all"]


# A log of fewer groups than this may hold only varying ones by chance.
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
        num_successes: (row,) k, 0 <= k <= n.
        num_rollouts: (row,) n, at least 1.
        trained: (row,) whether the row fed the gradient.
        columns: column name -> (prompt,) labels.
        success: the rule by which successes were counted, as `promptdyn.success` writes it; None if unknown.
        reward_mean: (row,) mean of the group's folded rewards, NaN where it is not known; None where no row has one.
        reward_std: (row,) standard deviation of the same rewards, of divisor n - 1 as TRL logs it (0 for one rollout);
            NaN or None if unknown.
        pool_size: number of prompts that the run could choose from, those that it never rolled out included; None
            where it is not known, as in most logs.
    """

    prompt_ids: NDArray[np.object_]
    prompt: NDArray[np.int32]
    step: NDArray[np.int32]
    num_successes: NDArray[np.int32]
    num_rollouts: NDArray[np.int32]
    trained: NDArray[np.bool_]
    columns: Mapping[str, NDArray[np.object_]]
    success: str | None = None
    reward_mean: NDArray[np.float32] | None = None
    reward_std: NDArray[np.float32] | None = None
    pool_size: int | None = None

    @classmethod
    def from_columns(
        cls,
        step: ArrayLike,
        prompt_id: ArrayLike,
        *,
        num_successes: ArrayLike,
        num_rollouts: ArrayLike,
        trained: ArrayLike | None = None,
        columns: Mapping[str, ArrayLike] | None = None,
        source: str = "history",
        row_name: Callable[[int], str] | None = None,
        success: str | None = None,
        reward_mean: ArrayLike | None = None,
        reward_std: ArrayLike | None = None,
        pool_size: int | None = None,
        repeated: Repeated = "error",
        skip_bad: bool = False,
    ) -> RewardHistory:
        """Check columns of equal length and build a history from them.

        Args:
            step: (row,) integers >= 0, in any order.
            prompt_id: (row,) strings, or anything that `str` makes unique.
            num_successes: (row,) integers from 0 to `num_rollouts`.
            num_rollouts: (row,) integers from 1 to a million.
            trained: (row,) booleans or 0/1. Default: all true.
            columns: column name -> (row,) labels. All rows of a prompt must have the same label; a missing label
                becomes the level "(none)". Default: no columns.
            source: name of the whole in errors, such as a file name.
            row_name: function that gives the name of a row in errors, from its number (counted from 0). Default:
                "SOURCE row NUMBER".
            success: the rule by which successes were counted. Default None: not known.
            reward_mean, reward_std: (row,) mean of the group's folded rewards, and their standard deviation of divisor
                n - 1; missing where not known. Default: not known.
            pool_size: number of prompts that the run could choose from. Default None: not known.
            repeated: what to do with several rows of one prompt in one step: "error" (default), "merge" (add up their
                rollouts and successes), "last" (keep the last in the source's order), or "apart" (make each a step of
                its own, and number later steps anew where no number is free between).
            skip_bad: leave out bad rows, with a warning, instead of raising.

        Warns:
            PromptdynWarning: bad rows were skipped, or rows repeat; the warning tells how many.

        Raises:
            InputError: no rows; columns of different lengths; a value that is missing, out of range or of another
                type; two rows of a prompt in one step; a prompt with two labels in a column; a pool smaller than the
                number of prompts that have rows; an unknown `repeated`. One error tells every kind of bad row, how
                many there are, and where the first of each stands.
        """
        own = {
            "step": as_array(step),
            "prompt_id": as_array(prompt_id),
            "num_successes": as_array(num_successes),
            "num_rollouts": as_array(num_rollouts),
        }
        optional = {"trained": trained, "reward_mean": reward_mean, "reward_std": reward_std}
        own |= {name: as_array(values) for name, values in optional.items() if values is not None}
        labels = {name: as_array(values) for name, values in (columns or {}).items()}
        history = cls(**check_columns(own, labels, source, row_name, repeated, skip_bad), success=success)
        return history if pool_size is None else history.with_pool_size(pool_size, source)

    @classmethod
    def from_table(
        cls,
        table: object,
        source: str = "history",
        row_name: Callable[[int], str] | None = None,
        columns: Mapping[str, str] | None = None,
        drop: Sequence[str] = (),
        label_columns: Sequence[str] | None = None,
        repeated: Repeated = "error",
        skip_bad: bool = False,
        faults: Sequence[Fault] = (),
    ) -> RewardHistory:
        """Build a history from a table with named columns.

        Args:
            table: a dict of arrays, a pandas data frame, a `pyarrow.Table`, a `datasets.Dataset`, or anything else
                that can be read as Arrow. It holds `step`, `prompt_id`, `num_successes`, `num_rollouts`, optionally
                `trained`, `reward_mean` and `reward_std`; other columns may hold labels. See `from_columns`.
            source: name of the whole in errors.
            row_name: function that gives the name of a row in errors, from its number (counted from 0).
            columns: a history's name of a column -> the table's name, where they differ, as in
                {"step": "global_step"}.
            drop: columns to leave out, by the table's names.
            label_columns: columns of labels to keep, by the history's names. Default: every column whose labels are the
                same in all rows of a prompt; others are left out with a warning, pandas' row numbers without one.
            repeated, skip_bad: as in `from_columns`.
            faults: lines that a reader could not read as rows; errors tell them together with bad rows.

        Raises:
            InputError: `table` is no table, a column is missing, or as in `from_columns`.
        """
        table = as_columns(source, table)
        names = rename_columns(source, list(table), columns, drop, label_columns)
        arrays = {name: as_array(table[name_there]) for name, name_there in names.items()}
        own = {name: arrays.pop(name) for name in OWN if name in arrays}
        keep_all_labels = label_columns is not None
        return cls(**check_columns(own, arrays, source, row_name, repeated, skip_bad, keep_all_labels, faults))

    @classmethod
    def from_records(
        cls, records: Iterable[Mapping[str, object]], source: str = "records", **options: Unpack[TableOptions]
    ) -> RewardHistory:
        """Build a history from one mapping per row, with the names and options of `from_table`.

        A key that only some records have is missing in the others.

        Raises:
            InputError: as in `from_table`.
        """
        records = list(records)
        names = dict.fromkeys(chain.from_iterable(records))
        if not records:
            raise no_rows(source)
        table = {name: as_array([record.get(name) for record in records]) for name in names}
        return cls.from_table(table, source, **options)

    @classmethod
    def from_parquet(cls, path: str | Path, **options: Unpack[TableOptions]) -> RewardHistory:
        """Read a history file, or any Parquet file with the columns of `from_table`; the options are the same.

        Raises:
            InputError: no such file, not a Parquet file, a file that a newer version wrote, or as in `from_table`.
        """
        columns, drop, label_columns = options.get("columns"), options.pop("drop", ()), options.get("label_columns")
        _, table, metadata = read_parquet(
            path, lambda names, nested: columns_to_read(str(path), names, nested, columns, drop, label_columns)
        )
        return cls.from_table(table, source=str(path), **options).with_metadata(metadata, str(path))

    def with_metadata(self, metadata: Mapping[bytes, str], source: str = "history") -> RewardHistory:
        """Return the history with the rule of success and the pool size that a history file's metadata tell.

        Raises:
            InputError: a pool size as in `with_pool_size`.
        """
        size = metadata.get(POOL_SIZE_KEY)
        history = self if size is None else self.with_pool_size(size, source)
        return replace(history, success=metadata.get(SUCCESS_KEY))

    def to_parquet(self, path: str | Path) -> None:
        """Write a Parquet file with the columns of `from_table`; an existing file is replaced.

        The file appears whole or not at all. Prompts without a row, as a part of a history has them (`select`), are
        not written.

        Raises:
            InputError: a label column has the name of another column.
        """
        clash = [name for name in self.columns if name in OWN]
        if clash:
            raise InputError(f"label column {clash[0]!r} has the name of a history's own column: rename it")
        columns = {
            "step": self.step,
            "prompt_id": self.prompt_ids,
            "num_successes": self.num_successes,
            "num_rollouts": self.num_rollouts,
            "trained": self.trained,
            **self._rewards,
            **self.columns,
        }
        facts = {SUCCESS_KEY: self.success, POOL_SIZE_KEY: self.pool_size}
        metadata = {key: str(fact) for key, fact in facts.items() if fact is not None}
        write_parquet(path, columns, self.prompt, metadata)

    @property
    def _rewards(self) -> dict[str, NDArray[np.float32]]:
        """(row,) columns of the groups' rewards, those that are known."""
        return {name: values for name in REWARDS if (values := getattr(self, name)) is not None}

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.step)

    def __repr__(self) -> str:
        columns = f", columns {', '.join(self.columns)}" if self.columns else ""
        return f"RewardHistory({len(self)} rows, {self.num_prompts} prompts, {len(self.steps)} steps{columns})"

    @property
    def num_prompts(self) -> int:
        """Number of prompts in `prompt_ids`, with or without rows; the run's pool may be larger (`pool_size`)."""
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
        """Whether all groups vary, as in the log of a trainer that drops the others (dynamic sampling) before it logs.

        False for fewer than 20 groups, and for a history that knows its pool's size: its run recorded every group.
        """
        return self.pool_size is None and len(self) >= FEW_GROUPS and bool(self.informative.all())

    def marks(self) -> NDArray[np.uint64]:
        """Return a (step,) fingerprint of each step's prompts and counts, equal where these are equal.

        The order of rows and of prompts does not change it, nor do labels, rewards and `trained`.
        """
        return step_marks(self.prompt_ids, self.prompt, self.step, self.num_successes, self.num_rollouts)

    def select(self, mask: ArrayLike) -> RewardHistory:
        """Return the rows where a (row,) boolean mask is true, with all prompts.

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
            num_successes=self.num_successes[keep],
            num_rollouts=self.num_rollouts[keep],
            trained=self.trained[keep],
            **{name: values[keep] for name, values in self._rewards.items()},
        )

    def with_pool_size(self, pool_size: int | str, source: str = "history") -> RewardHistory:
        """Return the history with the number of prompts that its run could choose from.

        Raises:
            InputError: `pool_size` is no whole number, or smaller than the number of prompts in the history.
        """
        size = int(pool_size) if str(pool_size).isdecimal() else -1
        if size < self.num_prompts:
            raise InputError(
                f"{source}: pool_size={pool_size}, and {self.num_prompts} prompts are in the history: give how many "
                "the run could choose from"
            )
        return replace(self, pool_size=size)

    def before(self, step: int) -> RewardHistory:
        """Return the rows of steps below `step`, with all prompts."""
        return self.select(self.step < step)

    def observed_rows(self, observed: Observed = "trained") -> NDArray[np.bool_]:
        """Return (row,) whether a forecaster may see the row: if it was "trained" on (as in live training), or "all".

        Raises:
            InputError: `observed` is neither.
        """
        check_choice("observed", observed, get_args(Observed))
        return self.trained if observed == "trained" else np.ones(len(self), bool)

    def observed(self, observed: Observed = "trained") -> RewardHistory:
        """Return the rows that `observed_rows` marks, with all prompts. Raises as it does."""
        return self.select(self.observed_rows(observed))

    @cached_property
    def prompts(self) -> Prompts:
        """The prompts as a pool: their ids and label columns."""
        return Prompts(self.prompt_ids.tolist(), self.columns)

    def dense(self, cluster: str | Sequence[str] | None = None) -> DenseHistory:
        """Return the history as arrays over (step, prompt), with prompts coded by cluster.

        Args:
            cluster: column name, or several to cross. Default: all prompts in one cluster.

        Raises:
            InputError: no such label column, or groups too large to tabulate.
        """
        return DenseHistory.from_rows(
            prompt_ids=self.prompt_ids,
            prompt=self.prompt,
            step=self.step,
            num_successes=self.num_successes,
            num_rollouts=self.num_rollouts,
            trained=self.trained,
            labels=None if cluster is None else self.prompts.labels(cluster),
        )

    def summary(self) -> dict[str, Any]:
        """Return the history's size and shares as a dict for JSON. Shares are of rows, from 0 to 1; None if unknown.

        `density` is the share of (prompt, step) cells that have a row, `columns` the number of labels by column.
        """
        rows, cells = len(self), self.num_prompts * len(self.steps)
        successes = int(self.num_successes.sum(dtype=np.int64))
        rollouts = int(self.num_rollouts.sum(dtype=np.int64))
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
            "columns": {name: len(set(labels)) for name, labels in self.columns.items()},
            "success": self.success,
            "pool_size": self.pool_size,
        }

    def _mean_reward(self) -> float | None:
        """Mean reward over all rollouts of the rows whose mean is known; None where no row's is."""
        if self.reward_mean is None:
            return None
        known = ~np.isnan(self.reward_mean)
        weights = self.num_rollouts[known]
        return float(np.average(self.reward_mean[known], weights=weights)) if known.any() else None


def _share(part: Any, whole: int) -> float | None:
    return float(part / whole) if whole else None
