"""verl's replay buffers, which tell a run's session which groups have ended."""

from __future__ import annotations

from collections.abc import Set
from importlib.metadata import version
from typing import Any

import transfer_queue
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync
from verl.utils.dataset.rl_dataset import get_dataset_class

from promptdyn.errors import InputError
from promptdyn.success import FOLDED
from promptdyn.training.verl.dataset import SelectionDataset
from promptdyn.training.verl.run import ID_COLUMN, TRAIN, Group, Run, plain, queued_ids

__all__ = ["SelectionReplayBuffer"]

# Attributes that this package uses and that verl does not promise to keep.
OF_TRAINER = ("config", "parameter_sync_step", "trainer_mode", "_resolve_filter_groups_metric")
OF_BUFFER = ("_sync_metadata_from_transfer_queue",)


def SelectionReplayBuffer(**named: Any) -> ReplayBuffer:  # verl's settings name it as if it were a class
    """Make verl's replay buffer, one that tells the run's session which groups have ended.

    Use it together with `SelectionDataset`. verl makes it if one sets
    `trainer.v1.sampler.custom_sampler.path=pkg://promptdyn.training.verl` and
    `trainer.v1.sampler.custom_sampler.name=SelectionReplayBuffer`.

    The settings of selection stand in `trainer.v1.sampler.sampler_kwargs`, all optional: `selector` (default "auto",
    see `promptdyn.training.recipes.selector_recipe`), parts of its `Recipe` to replace (`dynamics`, `strategy`,
    `score`, `success`, `refit_every`), and `id_column`, `label_columns` and `history_path`, as in
    `promptdyn.training.trl.SelectionMixin`; the history is in `trainer.default_local_dir` by default.

    A rule of success may name "reward", which is the whole reward of a rollout, and every number that the reward
    function puts into verl's `reward_extra_info`, such as "acc". The default rule is the metric of
    `algorithm.filter_groups` if that is on, so that the selector forecasts what verl keeps; else "auto" on the reward.

    Groups are learned from and recorded in the training step in which verl samples or drops them. Groups that it drops,
    since they do not vary, are stale or too many, count as not trained. The number of a step in the history is
    verl's, from 1. The history is written with every checkpoint, every 50 steps, and in the last step.

    Args:
        **named: what verl passes to a replay buffer.

    Raises:
        InputError: a setting of selection is unknown or out of range; prompts cannot be chosen under a setting of
            verl; or the version of verl lacks what this package uses.
    """
    kind = SelectionReplayBufferSync if named["trainer_mode"] == "sync" else SelectionReplayBufferAsync
    return kind(**named)


class SelectionReplayBufferSync(ReplayBuffer):
    """The replay buffer of verl's mode `sync`."""

    def __init__(self, **named: Any) -> None:
        trainer: Any = getattr(named.get("refill_fn"), "__self__", None)
        missing = [f"trainer.{name}" for name in OF_TRAINER if not hasattr(trainer, name)]
        missing += [f"ReplayBuffer.{name}" for name in OF_BUFFER if not hasattr(ReplayBuffer, name)]
        if missing:
            raise InputError(
                f"selection relies on {', '.join(missing)}, which verl {version('verl')} does not have here: install "
                "verl 0.9"
            )
        if not issubclass(get_dataset_class(trainer.config.data), SelectionDataset):
            raise InputError(
                "SelectionReplayBuffer needs its dataset: set data.custom_cls.path=pkg://promptdyn.training.verl and "
                "data.custom_cls.name=SelectionDataset"
            )
        self._run = Run.current = Run(trainer)
        self._ended: dict[str, Group] = {}  # verl's id of a group -> the group, until verl samples or drops it
        super().__init__(**named, **self._of_verls_own(trainer))

    def _of_verls_own(self, trainer: Any) -> dict[str, Any]:
        """Return the settings that verl gives to its own buffers only, the same as it gives them."""
        config = trainer.config
        metric = trainer._resolve_filter_groups_metric()
        refills = bool(config.trainer.v1.sampler.get("sync_refill_failed_groups", False))
        settings = {"filter_groups_metric": metric, "sync_refill_failed_groups": refills}
        if isinstance(self, ReplayBufferAsync):
            return settings
        batch_size, one_by_one = config.data.train_batch_size, metric is not None or refills
        ahead = 1 if metric is None else config.algorithm.filter_groups.get("max_inflight_gen_batches", 1)
        return settings | {
            "train_batch_size": batch_size,
            "gen_batch_size": 1 if one_by_one else config.data.get("gen_batch_size", None) or batch_size,
            "max_inflight_gen_batches": ahead,
        }

    def _sync_metadata_from_transfer_queue(self) -> None:
        # verl calls this before it drops any group that has ended.
        super()._sync_metadata_from_transfer_queue()
        ended = self._terminal - self._ended.keys()
        if ended:
            self._ended.update(self._read(ended))

    @property
    def _terminal(self) -> set[str]:
        """verl's ids of the groups in its queue that have ended, well or not."""
        return self.finished_keys[TRAIN] | self.failure_keys[TRAIN]

    def _read(self, groups: Set[str]) -> dict[str, Group]:
        """Read prompts and rewards of groups from verl's queue."""
        outputs: dict[tuple[str, str], tuple[int, str]] = {}  # (group, rollout) -> number and key of its last output
        for key in self.partitions[TRAIN]:
            group, rollout, output = key.rsplit("_", 2)
            if group in groups:  # an agent's rollout may have several outputs, each with the reward of the rollout
                outputs[group, rollout] = max(outputs.get((group, rollout), (-1, "")), (int(output), key))
        failed = sorted(groups - {group for group, _ in outputs})
        names: list[str] | list[None] = [None] * len(failed) if self.trainer_mode == "sync" else queued_ids(failed)
        read = {group: Group(prompt_id, {FOLDED: []}) for group, prompt_id in zip(failed, names, strict=True)}
        if not outputs:
            return read
        named = self._run.driver.named
        data = transfer_queue.kv_batch_get(
            keys=[key for _, key in outputs.values()],
            partition_id=TRAIN,
            select_fields=["rm_scores", ID_COLUMN, *(["extra_fields"] if named.names != () else [])],
        )
        infos: list[dict[str, Any]] = [{}] * len(outputs)
        if named.names != ():
            infos = [plain(extra).get("reward_extra_info") or {} for extra in data["extra_fields"]]
        functions = named.to_read(infos)
        for (group, _), prompt_id, scores, info in zip(outputs, data[ID_COLUMN], data["rm_scores"], infos, strict=True):
            if group not in read:
                read[group] = Group(str(plain(prompt_id)), {name: [] for name in (FOLDED, *functions)})
            for name, rewards in named.group([float(scores.sum())], [info]).items():
                read[group].rewards[name] += rewards
        return read

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[Any, dict[str, Any]]:
        """Sample as verl does, and let the session learn of the groups that were sampled or dropped since last time."""
        batch, metrics = super().sample(global_steps=global_steps, partition_id=partition_id, batch_size=batch_size)
        if partition_id != TRAIN:
            return batch, metrics
        sampled = {key.rsplit("_", 2)[0] for key in batch.keys}
        waiting = self._terminal - sampled
        # In an order that does not depend on which rollout was faster.
        ready = sorted(self._ended.keys() - waiting, key=lambda group: self._ended[group].prompt_id or "")
        for group in ready:
            self._run.end(self._ended.pop(group), trained=group in sampled)
        idle = not (waiting or self.pending_keys[TRAIN] or self.running_keys[TRAIN])
        return batch, {**metrics, **self._run.learn(idle)}


class SelectionReplayBufferAsync(SelectionReplayBufferSync, ReplayBufferAsync):
    """The replay buffer of verl's modes `colocate_async` and `separate_async`."""
