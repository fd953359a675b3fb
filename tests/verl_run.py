"""Runs of verl on the CPU: their data, policy and settings; its driver with rewards made up; and whole runs."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

TESTS = Path(__file__).parent
NUM_PROMPTS, BATCH, GROUP = 57, 8, 4
SELECTION = [
    "data.custom_cls.path=pkg://promptdyn.training.verl",
    "data.custom_cls.name=SelectionDataset",
    "data.dataloader_num_workers=0",
    "trainer.v1.sampler.custom_sampler.path=pkg://promptdyn.training.verl",
    "trainer.v1.sampler.custom_sampler.name=SelectionReplayBuffer",
]
ENVIRONMENT = {
    "VERL_USE_EXTERNAL_MODULES": "verl_cpu",
    "VERL_PLATFORM": "cpu",
    "VERL_ENGINE_DEVICE": "cuda",
    "VERL_LOGGING_LEVEL": "ERROR",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "GLOO_SOCKET_IFNAME": "lo",
    "HYDRA_FULL_ERROR": "1",
    "PYTHONPATH": str(TESTS),
}
REWARD = """
def compute_score(data_source, solution_str, ground_truth, extra_info=None, **_):
    right = float(solution_str.strip() == ground_truth)
    return {"score": right, "acc": right}
"""


def row(prompt: str, answer: str, **columns: Any) -> dict[str, Any]:
    """A row of verl's data."""
    return {
        "prompt": [{"role": "user", "content": prompt}],
        "reward_model": {"style": "rule", "ground_truth": answer},
        **columns,
    }


def sums() -> list[dict[str, Any]]:
    """Distinct sums, easy and hard ones."""
    rng = random.Random(0)
    rows: dict[str, dict[str, Any]] = {}
    while len(rows) < NUM_PROMPTS:
        easy = len(rows) % 2 == 0
        first, second = (rng.randint(1, 9 if easy else 99) for _ in range(2))
        prompt = f"{first}+{second}="
        rows.setdefault(prompt, row(prompt, str(first + second), data_source="add", ability="easy" if easy else "hard"))
    return [{**made, "extra_info": {"index": i}} for i, made in enumerate(rows.values())]


def write_inputs(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write training and validation data, the reward, and the package's policy with a template for messages."""
    from transformers import AutoTokenizer

    pq.write_table(pa.Table.from_pylist(list(rows)), folder / "train.parquet")
    pq.write_table(pa.Table.from_pylist(list(rows[:8])), folder / "val.parquet")
    (folder / "reward.py").write_text(REWARD)
    policy = files("promptdyn.training") / "embedded"
    shutil.copytree(str(policy), folder / "model", dirs_exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    tokenizer.chat_template = "{{ bos_token }}{% for message in messages %}{{ message['content'] }}{% endfor %}"
    tokenizer.save_pretrained(folder / "model")


def settings(folder: Path, output: Path) -> list[str]:
    """Settings of the driver."""
    return [
        "algorithm.adv_estimator=grpo",
        "trainer.device=cpu",
        f"data.train_files={folder}/train.parquet",
        f"data.val_files={folder}/val.parquet",
        f"data.train_batch_size={BATCH}",
        "data.max_prompt_length=24",
        "data.max_response_length=8",
        "data.seed=1",
        f"actor_rollout_ref.model.path={folder}/model",
        "actor_rollout_ref.rollout.name=cpu_hf",
        f"actor_rollout_ref.rollout.n={GROUP}",
        "trainer.total_training_steps=50",
        "trainer.total_epochs=100",
        f"trainer.default_local_dir={output}",
    ]


def whole_run(folder: Path, output: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Run verl's own program: FSDP2 on gloo, Ray, TransferQueue, agent loop and reward loop."""
    command = [
        *[sys.executable, "-m", "verl.trainer.main_ppo"],
        *settings(folder, output),
        "actor_rollout_ref.model.use_remove_padding=False",
        "+actor_rollout_ref.model.override_config.attn_implementation=sdpa",
        "actor_rollout_ref.actor.strategy=fsdp2",
        f"actor_rollout_ref.actor.ppo_mini_batch_size={BATCH}",
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=32",
        "actor_rollout_ref.actor.fsdp_config.model_dtype=fp32",
        "+actor_rollout_ref.actor.fsdp_config.mixed_precision={param_dtype:fp32,reduce_dtype:fp32,buffer_dtype:fp32}",
        "actor_rollout_ref.actor.use_torch_compile=False",
        "actor_rollout_ref.actor.optim.lr=1e-3",
        "actor_rollout_ref.actor.use_kl_loss=False",
        "actor_rollout_ref.rollout.tensor_model_parallel_size=1",
        "actor_rollout_ref.rollout.n_gpus_per_node=1",
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=32",
        "actor_rollout_ref.rollout.agent.num_workers=1",
        "actor_rollout_ref.rollout.free_cache_engine=False",
        f"reward.custom_reward_function.path={folder}/reward.py",
        "reward.num_workers=1",
        "trainer.n_gpus_per_node=1",
        "trainer.nnodes=1",
        "trainer.logger=[console,file]",
        "trainer.total_training_steps=4",
        "trainer.val_before_train=False",
        "trainer.test_freq=-1",
        "trainer.save_freq=2",
        f"trainer.rollout_data_dir={output}/rollouts",
        "transfer_queue.backend.SimpleStorage.num_data_storage_units=1",
        "transfer_queue.backend.SimpleStorage.total_storage_size=10000",
        "++ray_kwargs.ray_init.num_gpus=1",
        "ray_kwargs.ray_init.num_cpus=8",
        "+ray_kwargs.ray_init.include_dashboard=False",
        "+ray_kwargs.ray_init.object_store_memory=200000000",
        *SELECTION,
        *more,
    ]
    output.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, **ENVIRONMENT, "VERL_LOGGING_LEVEL": "WARN", "VERL_CPU_WEIGHTS": str(output)}
    environment["VERL_FILE_LOGGER_PATH"] = str(output / "metrics.jsonl")
    return subprocess.run(
        command, cwd=output, env=environment, capture_output=True, text=True, timeout=580, check=False
    )


class MadeUpRollouts:
    """Stands for verl's agent loop: ends groups at once, with rewards that are a function of the prompt.

    Args:
        late: number of groups that are kept waiting; older ones end first.
        fails: function of the prompt that tells whether its group fails without a rollout.
        num_outputs: outputs of each rollout.
        rewards: function of the prompt that returns the group's rewards; by default from 0 to 4 successes.
    """

    def __init__(
        self,
        late: int = 0,
        fails: Callable[[str], bool] = lambda prompt: False,
        num_outputs: int = 1,
        rewards: Callable[[str], list[float]] | None = None,
    ) -> None:
        self.late, self.fails, self.num_outputs = late, fails, num_outputs
        self.rewards = rewards or successes
        self.sent: list[str] = []  # prompt ids, in order
        self.waiting: list[dict[str, Any]] = []

    def generate_sequences(self, batch: Any) -> None:
        for i in range(len(batch)):
            row = {name: plain(value, i) for name, value in batch.items()}
            self.sent.append(row["promptdyn_id"])
            self.waiting.append(row)
        while len(self.waiting) > self.late:
            self.end(self.waiting.pop(0))

    def end(self, row: dict[str, Any]) -> None:
        import torch
        import transfer_queue
        from verl.utils import tensordict_utils

        prompt, group = row["raw_prompt"][0]["content"], row["uid"]
        failed = self.fails(prompt)
        rewards = [] if failed else self.rewards(prompt)
        outputs = [(i, j, reward) for i, reward in enumerate(rewards) for j in range(self.num_outputs)]
        if outputs:
            infos = [
                {"reward_extra_info": {"acc": float(reward > 0.5), "reward": reward, "text": "?"}}
                for *_, reward in outputs
            ]
            fields = tensordict_utils.get_tensordict(
                {"promptdyn_id": objects([row["promptdyn_id"]] * len(outputs)), "extra_fields": objects(infos)}
            )
            fields["rm_scores"] = torch.nested.as_nested_tensor(
                [torch.tensor([0.0, 0.0, reward]) for *_, reward in outputs], layout=torch.jagged
            )
            step = int(row["global_steps"])
            transfer_queue.kv_batch_put(
                keys=[f"{group}_{i}_{j}" for i, j, _ in outputs],
                partition_id="train",
                fields=fields,
                tags=[{"status": "success", "global_steps": step}] * len(outputs),
            )
        transfer_queue.kv_put(
            key=group,
            partition_id="train",
            tag={
                "is_prompt": True,
                "status": "failure" if failed else "finished",
                "global_steps": int(row["global_steps"]),
            },
        )


def objects(values: Sequence[Any]) -> Any:
    """An array of Python objects."""
    array = np.empty(len(values), object)
    array[:] = values
    return array


def plain(value: Any, i: int) -> Any:
    """The value of row `i` of a batch's column."""
    from tensordict import NonTensorData, NonTensorStack

    if isinstance(value, NonTensorStack):
        return value[i].data
    return value.data if isinstance(value, NonTensorData) else value[i]


def successes(prompt: str) -> list[float]:
    """Rewards of 0 and 1, as many of 1 as the prompt's hash tells."""
    k = [0, 1, 2, 4, 0, 4, 3, 0][int(hashlib.sha256(prompt.encode()).hexdigest(), 16) % 8]
    return [float(i < k) for i in range(GROUP)]


def composed(*settings: str) -> Any:
    """verl's configuration with settings, as typed."""
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=[*settings])
    OmegaConf.resolve(config)
    return config


class Driver:
    """verl's driver: its own trainer, data, dataloader and replay buffer, for which rollouts are made up.

    Args:
        folder: as `write_inputs` wrote it.
        output: the run's folder.
        more: further settings.
        rollouts: where groups come from.
        selection: whether the settings of selection are among the settings.
    """

    def __init__(
        self,
        folder: Path,
        output: Path,
        *more: str,
        rollouts: MadeUpRollouts | None = None,
        selection: bool = True,
    ) -> None:
        from verl.trainer.ppo.v1 import get_trainer_cls

        chosen = [*SELECTION, '+trainer.v1.sampler.sampler_kwargs.selector="rate:cluster=ability"']
        config = composed(*settings(folder, output), *(chosen if selection else []), *more)
        self.trainer: Any = get_trainer_cls(config.trainer.v1.trainer_mode)(config)
        self.trainer.replay_buffer.poll_interval = 0.01
        self.trainer._init_tokenizer()
        self.trainer._init_dataloader()
        self.rollouts = self.trainer.agent_loop_manager = rollouts or MadeUpRollouts()
        self.trainer.global_steps = 1
        if config.trainer.v1.trainer_mode == "separate_async":
            from verl.trainer.ppo.v1.trainer_separate_async import HybridEngineMode

            self.trainer.current_mode = HybridEngineMode.TRAINER  # verl sets it when it loads models

    @property
    def session(self) -> Any:
        return self.trainer.train_dataset._run.session

    def step(self, num_samples: int = 1) -> tuple[list[str], list[Any], dict[str, float]]:
        """Take a training step as verl does; returns ids sent, batches sampled, and what the last one logs."""
        import transfer_queue

        before, batches, metrics = len(self.rollouts.sent), [], {}
        # verl 0.9.0 has the latter only.
        prepare = getattr(self.trainer, "prepare_step", self.trainer._add_batch_to_generate)
        prepare()
        for _ in range(num_samples):
            batch, metrics = self.trainer.replay_buffer.sample(
                global_steps=self.trainer.global_steps, partition_id="train", batch_size=BATCH // num_samples
            )
            transfer_queue.kv_clear(keys=batch.keys, partition_id="train")
            batches.append(batch)
        self.trainer.global_steps += 1
        return self.rollouts.sent[before:], batches, metrics


def empty_queue() -> None:
    """Remove what an earlier driver left in verl's queue."""
    import transfer_queue

    left = (transfer_queue.kv_list("train") or {}).get("train", {})
    if left:
        transfer_queue.kv_clear(keys=list(left), partition_id="train")
