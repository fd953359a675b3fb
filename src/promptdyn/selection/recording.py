"""Recording of the groups that a run rolls out, as it goes, into a history file.

A `Session` says where training starts (`start`), what every step showed (`record`), and when a checkpoint is taken or
training ends (`write`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from promptdyn._columns import NO_LABEL, OWN
from promptdyn.errors import InputError
from promptdyn.history import RewardHistory
from promptdyn.selection.groups import Observation

__all__ = ["HistoryRecorder"]

logger = logging.getLogger(__name__)


class HistoryRecorder:
    """Keeps a run's history file up to date.

    Args:
        path: the Parquet file. What is on disk is always a whole history: a write replaces it atomically.
        columns: labels to record beside the counts, {column: {prompt id: label}}. Default none.
        write_every: steps after which rows are written without being asked, so that a run that dies far from
            a checkpoint leaves most of what it saw. Default 50.

    Attributes:
        success: what a success is, in words, for the file; None where it is not known.
        pool_size: prompts that the run can choose from, for the file; None where it is not known.

    Raises:
        InputError: a label column with the name of a history's own column.
    """

    def __init__(
        self, path: str | Path, columns: Mapping[str, Mapping[str, str]] | None = None, write_every: int = 50
    ) -> None:
        self.path = Path(path)
        self.columns = dict(columns or {})
        self.write_every = write_every
        self.success: str | None = None
        self.pool_size: int | None = None
        # A history would refuse it too, but only when it is written, hours later.
        for column in self.columns:
            if column in OWN:
                raise InputError(f"label column {column!r} has the name of a history's own column: rename it")
        self._forget(0)

    def _forget(self, step: int) -> None:
        # One part per generation, appended as a whole: a run may be stopped at any moment.
        self._parts: list[dict[str, NDArray[Any]]] = []
        self._complete, self._step_written = True, step

    def start(self, step: int) -> None:
        """Begin at `step`: anew at 0, else resuming.

        A new run sets a file that is there already aside, as PATH.1, PATH.2, ... A resumed run keeps the file's
        rows before `step` and drops the others, because it trains those steps again. Prompts that the columns do not
        know keep the labels that they have in the file.

        Raises:
            InputError: resuming, and the file is no history.
        """
        self._forget(step)
        if step > 0 and self.path.exists():
            there = RewardHistory.from_parquet(self.path)
            kept = there.before(step)
            unknown = np.full(len(kept), np.nan, np.float32)
            for column, labels in self.columns.items():
                of_file = there.columns.get(column, np.full(len(there.prompt_ids), NO_LABEL, object))
                self.columns[column] = {**dict(zip(there.prompt_ids, of_file, strict=True)), **labels}
            self._extend(
                step=kept.step,
                prompt_id=kept.prompt_ids[kept.prompt],
                num_rollouts=kept.num_rollouts,
                num_successes=kept.num_successes,
                trained=kept.trained,
                reward_mean=unknown if kept.reward_mean is None else kept.reward_mean,
                reward_std=unknown if kept.reward_std is None else kept.reward_std,
            )
            self._complete, self.success = len(kept) == len(there), there.success
        elif step > 0:
            logger.warning("%s is not there: the history begins at step %d", self.path, step)
        elif self.path.exists():
            numbered = (self.path.with_name(f"{self.path.name}.{number}") for number in count(1))
            aside = next(path for path in numbered if not path.exists())
            self.path.rename(aside)
            logger.warning("%s is of an earlier run: renamed %s", self.path, aside.name)

    def record(self, seen: Observation) -> None:
        """Add the groups of one generation, and recount those of earlier ones that it has anew.

        Args:
            seen: what the selector made of their rewards; a prompt is recorded at most once per step.

        Raises:
            InputError: a prompt without a label in one of the columns.
        """
        self.recount(seen.earlier)
        self._add(seen)
        if seen.step - self._step_written >= self.write_every:
            self.write()

    def recount(self, anew: Sequence[Observation]) -> None:
        """Let observations take the place of all rows of their steps."""
        steps = [seen.step for seen in anew]
        if steps:
            kept = [(part, ~np.isin(part["step"], steps)) for part in self._parts]
            self._parts = [{name: values[rows] for name, values in part.items()} for part, rows in kept]
            self._complete = False
        for seen in anew:
            self._add(seen)

    def _add(self, seen: Observation) -> None:
        self._extend(
            step=np.full(len(seen.prompt_ids), seen.step),
            prompt_id=np.array(seen.prompt_ids, object),
            num_rollouts=seen.num_rollouts,
            num_successes=seen.num_successes,
            trained=seen.trained,
            reward_mean=seen.reward_mean,
            reward_std=seen.reward_std,
        )

    def _extend(self, **columns: NDArray[Any]) -> None:
        """Add rows: (row,) values of each of a history's own columns."""
        prompt_ids = columns["prompt_id"].tolist()
        for column, labels in self.columns.items():
            unlabelled = next((prompt_id for prompt_id in prompt_ids if prompt_id not in labels), None)
            if unlabelled is not None:
                raise InputError(f"{self.path}: prompt {unlabelled!r} has no label in label column {column!r}")
        self._complete = self._complete and not prompt_ids
        self._parts.append({name: columns[name] for name in OWN})

    def write(self) -> None:
        """Bring the file up to date with what was recorded."""
        if self._complete or not self._parts:
            return
        rows: dict[str, Any] = {name: np.concatenate([part[name] for part in self._parts]) for name in OWN}
        if not len(rows["step"]):
            return
        history = RewardHistory.from_columns(
            **rows,
            columns={
                column: [labels[prompt_id] for prompt_id in rows["prompt_id"].tolist()]
                for column, labels in self.columns.items()
            },
            success=self.success,
        )
        if self.pool_size is not None:
            # Rows of a run before may be of prompts that the pool has no more.
            history = history.with_pool_size(max(self.pool_size, history.num_prompts))
        history.to_parquet(self.path)
        self._complete, self._step_written = True, int(rows["step"].max())
