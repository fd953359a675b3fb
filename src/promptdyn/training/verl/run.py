"""What verl's replay buffer and training data share: the session of a run, and verl's count of training steps."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
import transfer_queue
from datasets import Dataset

from promptdyn.errors import InputError
from promptdyn.selection import HistoryRecorder, Session
from promptdyn.success import FOLDED
from promptdyn.success.rules import Conditions
from promptdyn.training.dataset import distinct
from promptdyn.training.recipes import Plan
from promptdyn.training.verl.settings import Settings, check_size, filter_metric, last_step

__all__ = ["ID_COLUMN", "TRAIN", "Group", "Run", "number", "plain", "queued_ids"]

ID_COLUMN = "promptdyn_id"  # a column of the rows handed out, which verl returns with every rollout
TRAIN = "train"  # verl's name for the part of its queue that is trained on

logger = logging.getLogger(__name__)


class Group(NamedTuple):
    """A group that has ended.

    Attributes:
        prompt_id: its prompt; None if every rollout failed and verl does not tell it.
        rewards: {reward function: (rollout,) rewards}, "reward" first.
    """

    prompt_id: str | None
    rewards: dict[str, list[float | None]]


class Run:
    """A run of verl with selection.

    Args:
        trainer: verl's trainer, which is not complete yet.

    Attributes:
        current: the run of this process. verl has one per driver process, and does not tell its data which.
        functions: names in verl's `reward_extra_info` to read. None until the first rollouts tell them.
        dataset: the training data; None until verl makes them.
        session: the session between verl and the selector, from then on.

    Raises:
        InputError: as in `Settings.from_config`.
    """

    current: ClassVar[Run | None] = None
    session: Session

    def __init__(self, trainer: Any) -> None:
        self._trainer, self._config = trainer, trainer.config
        self._settings = Settings.from_config(self._config)
        self.functions = self._settings.functions
        self.dataset: Any = None
        self._plan: Plan
        self._row_of: dict[str, int] = {}
        self._begun = False
        self._num_samples = 0
        self._found: set[str] = set()  # names of numbers in `reward_extra_info`, in the first training step
        self._checked = self.functions == ()  # whether they are those that the rule needs

    def open(self, dataset: Any) -> Dataset:
        """Make the session for the training data; returns their distinct rows."""
        config, settings = self._config, self._settings
        rows, pool = distinct(dataset.dataframe, settings.id_column, dataset.prompt_key)
        check_size(config, len(pool))
        plan = settings.recipe.plan(pool, config.actor_rollout_ref.rollout.n, config.data.get("seed") or 0)
        if plan.reads_policy:
            raise InputError(
                f"selector {settings.selector!r} needs the policy's reading of the prompts for these data, and verl's "
                "driver has no policy: add a column of labels, such as 'difficulty', or set another selector in "
                "trainer.v1.sampler.sampler_kwargs: dps, mopps, 'features:features=COLUMN', ..."
            )
        columns = settings.label_columns if settings.label_columns is not None else pool.label_columns or ()
        labels = {column: dict(zip(pool.ids, pool.labels(column), strict=True)) for column in columns}
        self.session = Session(
            plan.selector(pool),
            HistoryRecorder(settings.history_path, labels),
            block=config.data.train_batch_size,
        )
        logger.warning("prompts are chosen %s", plan.choice)
        self.dataset, self._plan = dataset, plan
        self._row_of = {prompt_id: row for row, prompt_id in enumerate(pool.ids)}
        return rows

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint's state. Prompts in flight that verl's queue does not hold are lost.

        Raises:
            InputError: the state is that of another pool, model or selector, or is damaged.
        """
        try:
            self._plan.keep_model(self.session.selector, state["online"]["model"])
            self.session.load_state_dict(state)
        except (InputError, KeyError, TypeError) as error:
            reason = error if isinstance(error, InputError) else f"it has no selector's state ({error!r})"
            raise InputError(f"data.pt of the checkpoint: {reason}; trainer.resume_mode=disable starts anew") from None
        self._begun = True
        queue = transfer_queue.kv_list(TRAIN) or {}
        groups = [key for key, tag in queue.get(TRAIN, {}).items() if tag.get("is_prompt", False)]
        self.session.lost(set(self.session.in_flight).difference(queued_ids(groups)))

    def _begin(self) -> None:
        """Begin the training step that verl is in; verl counts from 1."""
        step: int = self._trainer.global_steps
        if not self._begun and step <= 1:
            self.session.begin(0)  # a new run has a new history
        self._begun = True
        self.session.begin(step)

    def take(self, k: int) -> list[tuple[str, int]]:
        """Return the id and the row of each of the next k prompts.

        Raises:
            InputError: so many prompts are not left in this training step.
        """
        if self._trainer.train_dataset is not self.dataset:
            raise InputError("verl did not make its training data before the validation data: install verl 0.9")
        self._begin()
        available = self.session.num_available
        if k > available:
            filtered = filter_metric(self._config) is not None
            raise InputError(
                f"step {self._trainer.global_steps}: verl asks for {k} more prompts, and {available} of "
                f"{len(self._row_of)} are left, since the others are in flight or were rolled out in this step: "
                + ("too few groups pass algorithm.filter_groups: add prompts that vary, " if filtered else "")
                + "add prompts or lower data.train_batch_size"
            )
        return [(prompt_id, self._row_of[prompt_id]) for prompt_id in self.session.take(k)]

    def names_to_read(self, infos: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
        """Return the names in `reward_extra_info` to read; the first call finds them if the rule does not tell."""
        if not self._checked:
            self._found.update(name for info in infos for name, value in info.items() if number(value) is not None)
        if self.functions is None:
            self.functions = tuple(sorted(self._found - {FOLDED}))
        return self.functions

    def end(self, group: Group, trained: bool) -> None:
        """Hand a group that has ended to the session."""
        if group.prompt_id is None:
            return
        if not group.rewards[FOLDED]:
            self.session.lost([group.prompt_id])
            return
        # The reward holds all of a rollout's reward; what else is read only tells successes.
        self.session.weights = [1.0] + [0.0] * (len(group.rewards) - 1)
        self.session.end(group.prompt_id, group.rewards, trained)

    def learn(self, idle: bool) -> dict[str, float]:
        """Learn from a training step's groups once verl has sampled its last batch; returns metrics then.

        Args:
            idle: whether no group is being rolled out or waits to be sampled.

        Raises:
            InputError: in the first training step no rollout has the numbers that the rule of success names.
        """
        if idle:
            self.session.lost(self.session.in_flight)
        self._num_samples += 1
        if self._num_samples % self._trainer.parameter_sync_step:
            return {}
        self._begin()
        if not self._checked:
            self._check_functions()
        self.session.step()
        if self._trainer.global_steps >= last_step(self._config, len(self._row_of)):  # verl does not tell the end
            self.session.settle()
        return self.session.metrics()

    def _check_functions(self) -> None:
        rule = self.session.selector.grader.requested
        alternatives = rule.alternatives if isinstance(rule, Conditions) else ()
        needed = [{each.function for each in conditions if each.function is not None} for conditions in alternatives]
        needed = [names - {FOLDED} for names in needed]
        if needed and all(names - self._found for names in needed):
            found = ", ".join(sorted(self._found - {FOLDED})) or "no number"
            absent = min(needed[0] - self._found)
            raise InputError(
                f"success={str(self.session.selector.grader)!r}: no rollout of step {self._trainer.global_steps} has "
                f"a number {absent!r} in reward_extra_info: it has {found}; 'reward' is the whole reward"
            )
        self._checked = True


def number(value: Any) -> float | None:
    """Return a value of `reward_extra_info` as a number; None if it is none."""
    return float(value) if isinstance(value, bool | int | float | np.number | np.bool_) else None


def plain(value: Any) -> Any:
    """Return a value without the wrapper in which verl's queue may return it."""
    return getattr(value, "data", value)


def queued_ids(groups: Collection[str]) -> list[str]:
    """Return the (group,) prompt ids of groups in verl's queue, which holds them except in mode `sync`."""
    if not groups:
        return []
    data = transfer_queue.kv_batch_get(keys=list(groups), partition_id=TRAIN, select_fields=[ID_COLUMN])
    return [str(plain(prompt_id)) for prompt_id in data[ID_COLUMN]]
