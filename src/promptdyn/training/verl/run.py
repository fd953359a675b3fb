"""What verl's replay buffer and training data share: the session of a run, and verl's count of training steps."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar, NamedTuple

import transfer_queue
from datasets import Dataset

from promptdyn.errors import InputError
from promptdyn.selection import Session
from promptdyn.training.driver import Driver
from promptdyn.training.verl.settings import check_size, filter_metric, last_step, read_settings

__all__ = ["ID_COLUMN", "TRAIN", "Group", "Run", "plain", "queued_ids"]

ID_COLUMN = "promptdyn_id"  # a column of the rows handed out, which verl returns with every rollout
TRAIN = "train"  # verl's name for the part of its queue that is trained on


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
        driver: the selection of prompts, once verl has made its training data.
        dataset: the training data; None until verl makes them.

    Raises:
        InputError: as in `read_settings`.
    """

    current: ClassVar[Run | None] = None
    driver: Driver

    def __init__(self, trainer: Any) -> None:
        self._trainer, self._config = trainer, trainer.config
        self._settings = read_settings(self._config)
        self.dataset: Any = None
        self._begun = False
        self._num_samples = 0

    @property
    def session(self) -> Session:
        return self.driver.session

    def open(self, dataset: Any) -> Dataset:
        """Choose from the training data from here on; returns their distinct rows."""
        config = self._config
        self.driver = Driver(
            self._settings,
            dataset.dataframe,
            num_generations=config.actor_rollout_ref.rollout.n,
            seed=config.data.get("seed") or 0,
            prompt_column=dataset.prompt_key,
            block=config.data.train_batch_size,
        )
        check_size(config, len(self.driver.data))
        self.dataset = dataset
        return self.driver.data

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint's state. Prompts in flight that verl's queue does not hold are lost.

        Raises:
            InputError: the state is that of another pool, model or selector, or is damaged.
        """
        self.driver.resume(state, "data.pt of the checkpoint", "trainer.resume_mode=disable starts anew")
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
                f"{len(self.driver.data)} are left, since the others are in flight or were rolled out in this step: "
                + ("too few groups pass algorithm.filter_groups: add prompts that vary, " if filtered else "")
                + "add prompts or lower data.train_batch_size"
            )
        return [(prompt_id, self.driver.row_of[prompt_id]) for prompt_id in self.session.take(k)]

    def end(self, group: Group, trained: bool) -> None:
        """Hand a group that has ended to the session."""
        if group.prompt_id is not None:
            self.driver.end(group.prompt_id, group.rewards, trained)

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
        self.driver.named.check("reward_extra_info", self._trainer.global_steps)
        self.session.step()
        if self._trainer.global_steps >= last_step(self._config, len(self.driver.data)):  # verl does not tell the end
            self.session.settle()
        return self.session.metrics()


def plain(value: Any) -> Any:
    """Return a value without the wrapper in which verl's queue may return it."""
    return getattr(value, "data", value)


def queued_ids(groups: Collection[str]) -> list[str]:
    """Return the (group,) prompt ids of groups in verl's queue, which holds them except in mode `sync`."""
    if not groups:
        return []
    data = transfer_queue.kv_batch_get(keys=list(groups), partition_id=TRAIN, select_fields=[ID_COLUMN])
    return [str(plain(prompt_id)) for prompt_id in data[ID_COLUMN]]
