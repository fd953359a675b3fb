"""Record the groups that a run rolls out into a history file, while it runs.

A `Session` tells the recorder when training starts (`start`), what each step observed (`record`), and when a checkpoint
is saved or training ends (`write`).
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
        path: the Parquet file. A write replaces it atomically, so that it is always a whole history.
        columns: labels to record beside the counts, {column: {prompt id: label}}. Default none.
        write_every: the file is also written every so many steps, so that a run that dies far from a checkpoint leaves
            most of its rows. Default 50.

    Attributes:
        success: the rule of success as text, for the file; None if it is not known.
        pool_size: number of prompts that the run can choose from, for the file; None if it is not known.

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
        # A history would refuse such a column too, but only when it is written, hours later.
        for column in self.columns:
            if column in OWN:
                raise InputError(f"label column {column!r} has the name of a history's own column: rename it")
        self._forget(0)

    def _forget(self, step: int) -> None:
        # One part per generation, appended in one operation, since a run may be stopped at any moment.
        self._parts: list[dict[str, NDArray[Any]]] = []
        self._complete, self._step_written = True, step

    def start(self, step: int) -> None:
        """Begin at `step`: a new run at 0, else a resumed one.

        A new run renames an existing file to PATH.1, PATH.2, ... A resumed run keeps the file's rows before `step` and
        drops the others, because it trains those steps again. Prompts that are not in `columns` keep their labels in
        the file.

        Raises:
            InputError: the run is resumed, and the file is no history.
        """
        self._forget(step)
        if step > 0 and self.path.exists():
            earlier = RewardHistory.from_parquet(self.path)
            before_step = earlier.before(step)
            unknown = np.full(len(before_step), np.nan, np.float32)
            for column, labels in self.columns.items():
                own = earlier.columns.get(column, np.full(len(earlier.prompt_ids), NO_LABEL, object))
                self.columns[column] = {**dict(zip(earlier.prompt_ids, own, strict=True)), **labels}
            self._extend(
                step=before_step.step,
                prompt_id=before_step.prompt_ids[before_step.prompt],
                num_successes=before_step.num_successes,
                num_rollouts=before_step.num_rollouts,
                trained=before_step.trained,
                reward_mean=unknown if before_step.reward_mean is None else before_step.reward_mean,
                reward_std=unknown if before_step.reward_std is None else before_step.reward_std,
            )
            self._complete, self.success = len(before_step) == len(earlier), earlier.success
        elif step > 0:
            logger.warning("%s is not there: the history begins at step %d", self.path, step)
        elif self.path.exists():
            numbered = (self.path.with_name(f"{self.path.name}.{number}") for number in count(1))
            aside = next(path for path in numbered if not path.exists())
            self.path.rename(aside)
            logger.warning("%s belongs to an earlier run: renamed %s", self.path, aside.name)

    def record(self, observation: Observation) -> None:
        """Add the groups of one generation, and replace earlier ones that were counted again.

        Args:
            observation: the selector's counts; a prompt is recorded at most once per step.

        Raises:
            InputError: a prompt without a label in one of the columns.
        """
        self.recount(observation.earlier)
        self._add(observation)
        if observation.step - self._step_written >= self.write_every:
            self.write()

    def recount(self, observations: Sequence[Observation]) -> None:
        """Replace all rows of the observations' steps by the observations."""
        steps = [observation.step for observation in observations]
        if steps:
            kept_rows = [(part, ~np.isin(part["step"], steps)) for part in self._parts]
            self._parts = [{name: values[rows] for name, values in part.items()} for part, rows in kept_rows]
            self._complete = False
        for observation in observations:
            self._add(observation)

    def _add(self, observation: Observation) -> None:
        self._extend(
            step=np.full(len(observation.prompt_ids), observation.step),
            prompt_id=np.array(observation.prompt_ids, object),
            num_successes=observation.num_successes,
            num_rollouts=observation.num_rollouts,
            trained=observation.trained,
            reward_mean=observation.reward_mean,
            reward_std=observation.reward_std,
        )

    def _extend(self, **columns: NDArray[Any]) -> None:
        """Add rows: the (row,) values of each of a history's own columns."""
        prompt_ids = columns["prompt_id"].tolist()
        for column, labels in self.columns.items():
            unlabelled = next((prompt_id for prompt_id in prompt_ids if prompt_id not in labels), None)
            if unlabelled is not None:
                raise InputError(f"{self.path}: prompt {unlabelled!r} has no label in label column {column!r}")
        self._complete = self._complete and not prompt_ids
        self._parts.append({name: columns[name] for name in OWN})

    def write(self) -> None:
        """Bring the file up to date."""
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
            # Rows of an earlier run may belong to prompts that are no longer in the pool.
            history = history.with_pool_size(max(self.pool_size, history.num_prompts))
        history.to_parquet(self.path)
        self._complete, self._step_written = True, int(rows["step"].max())
