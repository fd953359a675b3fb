"""Stands in for SkyRL, which wants CUDA and Python 3.12: the names, signatures and order of calls of its trainer.

After SkyRL 0.4.0: `skyrl/train/trainer.py`, `skyrl/train/dataset/dataset.py`, `skyrl/train/entrypoints/main_base.py`,
`skyrl/train/utils/trainer_utils.py`, and torchdata's `StatefulDataLoader`. `MODULES` are to be installed. Engines and
workers are left out: the experiment's generator makes rewards up.
"""

from __future__ import annotations

import asyncio
import copy
import sys
import types
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import yaml

DATA = types.SimpleNamespace(train_data=[], dataloader=types.SimpleNamespace(num_workers=None))
TRAINER = types.SimpleNamespace(
    algorithm=types.SimpleNamespace(
        dynamic_sampling=types.SimpleNamespace(type=None, max_sample_batches=30, min_replace_ratio=0.3),
        zero_variance_filter=False,
    ),
    train_batch_size=8,
    epochs=1,
    max_training_steps=None,
    ckpt_path="",
    ckpt_interval=-1,
    resume_mode="latest",
    seed=42,
)
GENERATOR = types.SimpleNamespace(n_samples_per_prompt=4, step_wise_trajectories=False)


@dataclass
class SkyRLTrainConfig:
    """The settings that the trainer reads."""

    data: Any = field(default_factory=partial(copy.deepcopy, DATA))
    trainer: Any = field(default_factory=partial(copy.deepcopy, TRAINER))
    generator: Any = field(default_factory=partial(copy.deepcopy, GENERATOR))

    def __post_init__(self) -> None:
        if self.data.dataloader.num_workers is None:
            self.data.dataloader.num_workers = 8

    @classmethod
    def from_cli_overrides(cls, args: list[str]) -> SkyRLTrainConfig:
        changes = dict(arg.split("=", 1) for arg in args)
        cfg = cls.__new__(cls)
        for each in fields(cls):
            assert callable(each.default_factory)
            setattr(cfg, each.name, each.default_factory())
        for path, text in changes.items():
            *outer, last = path.split(".")
            place: Any = cfg
            for name in outer:
                place = getattr(place, name)
            if isinstance(place, dict):
                place[last] = yaml.safe_load(text)
            elif hasattr(place, last):
                setattr(place, last, yaml.safe_load(text))
            else:
                raise ValueError(f"Invalid fields {{{last!r}}}")
        cfg.__post_init__()
        return cfg


class PromptDataset:
    """Rows of Parquet files, with SkyRL's uid: the row's number."""

    def __init__(self, files: list[str], prompt_key: str = "prompt", env_class_key: str = "env_class") -> None:
        self.prompt_key, self.env_class_key = prompt_key, env_class_key
        self.dataframe = datasets.Dataset.from_parquet(files)

    def __getitem__(self, item: int) -> tuple[Any, Any, dict[str, Any], str]:
        row = self.dataframe[item]
        return row.pop(self.prompt_key), row.pop(self.env_class_key, None), row, str(item)

    def collate_fn(self, items: list[Any]) -> list[dict[str, Any]]:
        names = ("prompt", "env_class", "env_extras", "uid")
        return [dict(zip(names, item, strict=True)) for item in items]

    def __len__(self) -> int:
        return len(self.dataframe)


class StatefulDataLoader:
    """Batches of random rows. The state is loaded when the next epoch starts."""

    def __init__(self, dataset: Any, batch_size: int) -> None:
        self.dataset, self.batch_size = dataset, batch_size
        self._done = 0
        self._state: dict[str, Any] | None = None

    def __len__(self) -> int:
        return len(self.dataset) // self.batch_size

    def __iter__(self) -> Iterator[Any]:
        if self._state is not None:
            self.dataset.load_state_dict(self._state["dataset"])
            self._done, self._state = self._state["done"] % len(self), None
        while self._done < len(self):
            self._done += 1
            yield self.dataset.collate_fn(self.dataset.__getitems__([0] * self.batch_size))
        self._done = 0

    def state_dict(self) -> dict[str, Any]:
        return {"done": self._done, "dataset": self.dataset.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._state = state


@dataclass
class TrajectoryID:
    instance_id: str
    repetition_id: int


@dataclass
class BatchMetadata:
    global_step: int
    training_phase: str


class RayPPOTrainer:
    """SkyRL's loop: which methods it calls, with what, in which order."""

    def __init__(
        self,
        cfg: Any,
        tracker: Any,
        tokenizer: Any,
        train_dataset: Any,
        inference_engine_client: Any,
        generator: Any,
        colocate_pg: Any = None,
        eval_dataset: Any = None,
        callbacks: Any = None,
    ) -> None:
        self.cfg, self.tracker, self.train_dataset, self.generator = cfg, tracker, train_dataset, generator
        self.train_dataloader = StatefulDataLoader(train_dataset, cfg.trainer.train_batch_size)
        self.all_metrics: dict[str, float] = {}
        self.global_step = 0
        self.dynamic_sampling_state: Any = None
        self.stride = 1  # of the number of prompts in a batch, for data-parallel workers

    async def train(self) -> None:
        trainer = self.cfg.trainer
        if trainer.resume_mode != "none":
            self.global_step = self.load_checkpoints()
        self.global_step += 1
        for _ in range((self.global_step - 1) // len(self.train_dataloader), trainer.epochs):
            for prompts in self.train_dataloader:
                prompts = self._remove_tail_data(prompts)
                batch, uids = self._generator_input(prompts)
                output = await self.generate(batch)
                if self.cfg.generator.step_wise_trajectories:
                    uids = [trajectory.instance_id for trajectory in output["trajectory_ids"]]
                if trainer.algorithm.dynamic_sampling.type is not None:
                    output, uids, keep_sampling = self.handle_dynamic_sampling(output, uids)
                    if keep_sampling:
                        continue
                output, uids = self.postprocess_generator_output(output, uids)
                self.tracker.append((self.global_step, uids, dict(self.all_metrics)))
                if trainer.ckpt_interval > 0 and self.global_step % trainer.ckpt_interval == 0:
                    self.save_checkpoints()
                self.all_metrics = {}
                self.global_step += 1
                if trainer.max_training_steps is not None and self.global_step > trainer.max_training_steps:
                    return

    def _remove_tail_data(self, entries: list[Any]) -> list[Any]:
        return entries[: len(entries) // self.stride * self.stride]

    def _generator_input(self, prompts: list[Any]) -> tuple[dict[str, Any], list[str]]:
        n = self.cfg.generator.n_samples_per_prompt
        repeated = [(prompt, i) for prompt in prompts for i in range(n)]
        batch = {
            "prompts": [prompt["prompt"] for prompt, _ in repeated],
            "env_extras": [copy.deepcopy(prompt["env_extras"]) for prompt, _ in repeated],
            "trajectory_ids": [TrajectoryID(prompt["uid"], i) for prompt, i in repeated],
            "batch_metadata": BatchMetadata(self.global_step, "train"),
        }
        return batch, [prompt["uid"] for prompt, _ in repeated]

    async def generate(self, input_batch: Any) -> Any:
        output = await self.generator.generate(input_batch)
        output.pop("rollout_metrics", None)
        return output

    def handle_dynamic_sampling(self, output: Any, uids: list[str]) -> tuple[Any, list[str], bool]:
        """DAPO's filter, or POLARIS's replacement, of groups whose rewards do not differ."""
        rule, size = self.cfg.trainer.algorithm.dynamic_sampling, self.cfg.trainer.train_batch_size
        rewards = defaultdict(list)
        for uid, reward in zip(uids, output["rewards"], strict=True):
            rewards[uid].append(np.sum(reward))
        good = [uid for uid, values in rewards.items() if np.std(values) > 0]
        if rule.type == "replace":
            if len(good) <= len(rewards) * rule.min_replace_ratio:
                return output, uids, True
            others = [uid for uid in rewards if uid not in good]
            source = dict(zip(others, good * len(others), strict=False))
            first = {uid: uids.index(uid) for uid in rewards}
            rows = [first[source.get(uid, uid)] + i - first[uid] for i, uid in enumerate(uids)]
            return _rows_of(output, rows), [uids[row] for row in rows], False
        state = self.dynamic_sampling_state or {"rounds": 0, "output": None, "uids": []}
        kept = [i for i, uid in enumerate(uids) if uid in good]
        part = _rows_of(output, kept)
        before = state["output"]
        state["output"] = (
            part if before is None else {name: before.get(name, []) + part[name] for name in part if part[name]}
        )
        state["uids"] = state["uids"] + [uids[i] for i in kept]
        state["rounds"] += 1
        self.dynamic_sampling_state = state
        if len(set(state["uids"])) < size:
            if state["rounds"] >= rule.max_sample_batches:
                raise RuntimeError("Exiting training loop due to hitting dynamic sampling limit")
            return output, uids, True
        self.dynamic_sampling_state = None
        rows = list(range(size * self.cfg.generator.n_samples_per_prompt))
        return _rows_of(state["output"], rows), [state["uids"][row] for row in rows], False

    def postprocess_generator_output(
        self, generator_output: Any, uids: list[str], metrics_generator_output: Any = None, metrics_uids: Any = None
    ) -> tuple[Any, list[str]]:
        if self.cfg.trainer.algorithm.zero_variance_filter:
            rewards = defaultdict(set)
            for uid, reward in zip(uids, generator_output["rewards"], strict=True):
                rewards[uid].add(reward)
            masks = generator_output["loss_masks"]
            generator_output["loss_masks"] = [
                mask if len(rewards[uid]) > 1 else [0] * len(mask) for uid, mask in zip(uids, masks, strict=True)
            ]
        return generator_output, uids

    def save_checkpoints(self) -> None:
        folder = Path(self.cfg.trainer.ckpt_path)
        (folder / f"global_step_{self.global_step}").mkdir(parents=True, exist_ok=True)
        torch.save(self.train_dataloader.state_dict(), folder / f"global_step_{self.global_step}" / "data.pt")
        (folder / "latest_ckpt_global_step.txt").write_text(str(self.global_step))

    def load_checkpoints(self) -> int:
        folder = Path(self.cfg.trainer.ckpt_path)
        if not (folder / "latest_ckpt_global_step.txt").exists():
            return 0
        step = int((folder / "latest_ckpt_global_step.txt").read_text())
        state = torch.load(folder / f"global_step_{step}" / "data.pt", weights_only=False)
        self.train_dataloader.load_state_dict(state)
        return step


def _rows_of(output: dict[str, Any], rows: list[int]) -> dict[str, Any]:
    return {name: [values[row] for row in rows] if values else values for name, values in output.items()}


class BasePPOExp:
    """SkyRL's experiment. Its generator and its tracker are set by a test, where SkyRL starts engines."""

    generator: Any = None
    log: list[Any]

    def __init__(self, cfg: Any) -> None:
        self.cfg = cfg
        self.train_dataset = self.get_train_dataset()

    def get_train_dataset(self) -> Any:
        dataset = PromptDataset(self.cfg.data.train_data)
        assert len(dataset) >= self.cfg.trainer.train_batch_size
        return dataset

    def get_trainer(
        self,
        cfg: Any,
        tracker: Any,
        tokenizer: Any,
        train_dataset: Any,
        eval_dataset: Any,
        inference_engine_client: Any,
        generator: Any,
        colocate_pg: Any,
    ) -> Any:
        raise AssertionError("the experiment makes its own trainer")

    def run(self) -> None:
        self.log = []
        self.trainer = self.get_trainer(
            cfg=self.cfg,
            tracker=self.log,
            tokenizer=None,
            train_dataset=self.train_dataset,
            eval_dataset=None,
            inference_engine_client=None,
            generator=self.generator,
            colocate_pg=None,
        )
        asyncio.run(self.trainer.train())


def remote(**options: Any) -> Callable[[Any], Any]:
    """Ray's decorator; the task runs here and now."""
    return lambda function: types.SimpleNamespace(remote=function)


MODULES: dict[str, dict[str, Any]] = {
    "ray": {"remote": remote, "get": lambda reference: reference},
    "skyrl": {},
    "skyrl.train": {},
    "skyrl.train.config": {"SkyRLTrainConfig": SkyRLTrainConfig},
    "skyrl.train.entrypoints": {},
    "skyrl.train.entrypoints.main_base": {"BasePPOExp": BasePPOExp},
    "skyrl.train.trainer": {"RayPPOTrainer": RayPPOTrainer},
    "skyrl.train.utils": {"initialize_ray": lambda cfg: None, "validate_cfg": lambda cfg: None},
}


def main(words: list[str]) -> None:
    """SkyRL's command line."""
    sys.argv = ["main_base", *words]
    (module,) = [word.split("=", 1)[1] for word in words if word.startswith("trainer.override_entrypoint=")]
    import_module(module).main()
