"""Stands in for slime, whose packages want CUDA: the names, signatures and order of calls of its rollout manager.

After slime 0.2.2 and its main branch of October 2026: `slime/rollout/data_source.py` (data sources),
`slime/rollout/sglang_rollout.py` (the rollout function), `slime/utils/types.py` (samples), and `slime/ray/rollout.py`
(the manager). `MODULES` are to be installed. Engines are left out: a rollout's rewards are made up.
"""

from __future__ import annotations

import copy
import enum
import importlib
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch


@dataclass
class Sample:
    """A rollout, before and after it is made."""

    class Status(enum.Enum):
        PENDING = "pending"
        COMPLETED = "completed"
        TRUNCATED = "truncated"
        ABORTED = "aborted"
        FAILED = "failed"

    group_index: int | None = None
    index: int | None = None
    prompt: str | list[dict[str, str]] = ""
    multimodal_inputs: dict[str, Any] | None = None
    response: str = ""
    label: str | None = None
    reward: float | dict[str, Any] | None = None
    remove_sample: bool = False
    status: Status = Status.PENDING
    metadata: dict = field(default_factory=dict)

    def get_reward_value(self, args: Namespace) -> Any:
        return self.reward[args.reward_key] if args.reward_key else self.reward  # type: ignore[index]


class Dataset:
    """The prompts of a run."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = list(samples)

    def __len__(self) -> int:
        return len(self.samples)


class RolloutDataSource:
    """Hands out prompts in order. Its dataset is an argument here, where slime reads `--prompt-data`."""

    def __init__(self, args: Namespace) -> None:
        self.args = args
        self.epoch_id = self.sample_group_index = self.sample_index = self.sample_offset = 0
        has_data = args.rollout_global_dataset and args.prompt_data is not None
        self.dataset = Dataset(args.prompt_data) if has_data else None

    def get_samples(self, num_samples: int) -> list[list[Sample]]:
        raise AssertionError("the data source chooses prompts itself")

    def save(self, rollout_id: int) -> None:
        path = Path(self.args.save, f"rollout/global_dataset_state_dict_{rollout_id}.pt")
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"sample_group_index": self.sample_group_index, "sample_index": self.sample_index}, path)

    def load(self, rollout_id: int | None = None) -> None:
        if self.args.load is None:
            return
        path = Path(self.args.load, f"rollout/global_dataset_state_dict_{rollout_id}.pt")
        if path.exists():
            state = torch.load(path)
            self.sample_group_index, self.sample_index = state["sample_group_index"], state["sample_index"]

    def __len__(self) -> int:
        return 0 if self.dataset is None else len(self.dataset)


class RolloutDataSourceWithBuffer(RolloutDataSource):
    """Hands out the groups of partial rollouts first."""

    def __init__(self, args: Namespace) -> None:
        super().__init__(args)
        self.buffer: list[list[Sample]] = []

    def _get_samples_from_buffer(self, num_samples: int) -> list[list[Sample]]:
        groups, self.buffer = self.buffer[:num_samples], self.buffer[num_samples:]
        return groups

    def add_samples(self, samples: list[list[Sample]]) -> None:
        self.buffer += samples


def load_function(path: str) -> Callable[..., Any]:
    module, _, name = path.rpartition(".")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def compute_rollout_step(args: Namespace, rollout_id: int) -> int:
    return rollout_id


def varies(args: Namespace, group: list[Any]) -> bool:
    """A filter as slime's `check_reward_nonzero_std`."""
    return len({sample.get_reward_value(args) for sample in group}) > 1


def remove_first(args: Namespace, groups: list[list[Sample]]) -> None:
    """A user's function for `--rollout-sample-filter-path`: the first group is not trained on."""
    for sample in groups[0]:
        sample.remove_sample = True


LOGGED: list[dict[str, Any]] = []


def log(args: Namespace, metrics: dict[str, Any], step_key: str) -> None:
    assert step_key in metrics
    LOGGED.append(metrics)


MODULES: dict[str, dict[str, Any]] = {
    "slime": {},
    "slime.rollout": {},
    "slime.rollout.data_source": {"RolloutDataSourceWithBuffer": RolloutDataSourceWithBuffer},
    "slime.utils": {},
    "slime.utils.logging_utils": {"log": log},
    "slime.utils.metric_utils": {"compute_rollout_step": compute_rollout_step},
    "slime.utils.misc": {"load_function": load_function},
}


def arguments(folder: Path, samples: Sequence[Sample], **changes: Any) -> Namespace:
    """slime's arguments for a run of 8 x 4 rollouts a time."""
    options: dict[str, Any] = {
        "data_source_path": "promptdyn.training.slime.SelectionDataSource",
        "rollout_all_samples_process_path": "promptdyn.training.slime.observe",
        "rollout_sample_filter_path": None,
        "dynamic_sampling_filter_path": None,
        "rollout_function_path": "slime.rollout.sglang_rollout.generate_rollout",
        "rollout_global_dataset": True,
        "prompt_data": samples,
        "rollout_batch_size": 8,
        "over_sampling_batch_size": 8,
        "n_samples_per_prompt": 4,
        "rollout_seed": 0,
        "partial_rollout": False,
        "reward_key": None,
        "num_rollout": 20,
        "num_epoch": None,
        "save": str(folder),
        "load": str(folder),
    }
    return Namespace(**{**options, **changes})


class Manager:
    """slime's rollout manager with its rollout function.

    Args:
        args: slime's arguments.
        rewards: function of a group's sample that makes the group's rewards up.
        slow: function of a group's sample that tells whether its rollouts are still going on when the batch is full.
        fan_out: whether a rollout has two samples, the second with its reward.
    """

    def __init__(
        self,
        args: Namespace,
        rewards: Callable[[Sample], Sequence[Any]],
        slow: Callable[[Sample], bool] = lambda sample: False,
        fan_out: bool = False,
    ) -> None:
        self.args, self.rewards, self.slow, self.fan_out = args, rewards, slow, fan_out
        self.data_source = load_function(args.data_source_path)(args)

    def generate(self, rollout_id: int) -> list[Any]:
        """Make a rollout; returns the groups that are trained on."""
        args, submitted = self.args, 0
        data: list[Any] = []
        all_data: list[Any] = []
        pending: list[list[Sample]] = []
        keeps = load_function(args.dynamic_sampling_filter_path) if args.dynamic_sampling_filter_path else None
        aborted: list[list[Sample]] = []
        while len(data) < args.rollout_batch_size:
            while submitted < args.rollout_batch_size:
                groups = self.data_source.get_samples(args.over_sampling_batch_size)
                submitted += len(groups)
                pending += groups
            ready = [group for group in pending if not self.slow(group[0])] or pending
            pending = [group for group in pending if group not in ready]
            for group in ready:
                ended = self._rolled_out(group)
                all_data.append(ended)
                if keeps is not None and not keeps(args, ended):
                    submitted -= 1
                elif len(data) < args.rollout_batch_size:
                    data.append(ended)
        if args.partial_rollout:
            aborted = pending
        if args.rollout_sample_filter_path is not None:
            load_function(args.rollout_sample_filter_path)(args, data)
        if args.rollout_all_samples_process_path is not None:
            load_function(args.rollout_all_samples_process_path)(args, all_data, self.data_source.get_samples)
        if aborted:
            self.data_source.add_samples(aborted)
        return data

    def _rolled_out(self, group: list[Sample]) -> list[Any]:
        assert len(group) == self.args.n_samples_per_prompt
        ended: list[Any] = []
        for sample, reward in zip(group, self.rewards(group[0]), strict=True):
            sample.status = Sample.Status.ABORTED if reward is None else Sample.Status.COMPLETED
            sample.reward = reward
            if self.fan_out:
                ended.append([copy.copy(sample), sample])
                ended[-1][0].reward = -5.0
            else:
                ended.append(sample)
        return ended
