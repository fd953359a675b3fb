"""A tiny GRPO run on the CPU: a random 20-thousand-parameter Llama, a character tokenizer, 12 prompts.

Imported by the tests, and run as a script where a test needs a process to kill or two processes:

    python tests/grpo_run.py die FOLDER STEP             # exits without clean-up in the middle of STEP
    python tests/grpo_run.py terminate FOLDER STEP       # is sent SIGTERM in the middle of STEP
    python tests/grpo_run.py pair FOLDER                 # two ranks train, resume, and write what each of them saw
"""

from __future__ import annotations

import faulthandler
import json
import os
import shutil
import signal
import socket
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    TrainerCallback,
)
from trl import GRPOConfig

from promptdyn.history import RewardHistory
from promptdyn.models import DPS
from promptdyn.selection import Observation, Selector
from promptdyn.selection.groups import rewards_of
from promptdyn.training.dynamic_sampling import DynamicSampling
from promptdyn.training.run.settings import CHECKPOINTING
from promptdyn.training.trl import SelectionGRPOTrainer, prompts

CHARACTERS = "0123456789abcdef"
NUM_GENERATIONS = 4
POOL = Dataset.from_list(
    [{"prompt": f"{i:x}{i:x}", "prompt_id": f"p{i}", "task": "even" if i % 2 == 0 else "odd"} for i in range(12)]
)

# How TRL's clocks can stand to each other. "generations" is how many 8 optimizer steps take.
CLOCKS: dict[str, dict[str, Any]] = {
    "plain": {"generations": 8},
    "accumulation": {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "generations": 8},
    "iterations": {"num_iterations": 2, "generations": 4},
    "reuse": {
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "steps_per_generation": 4,
        "generations": 4,
    },
    "several generations a step": {
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 4,
        "steps_per_generation": 2,
        "generations": 16,
    },
    "out of step": {
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 3,
        "steps_per_generation": 2,
        "generations": 12,
    },
}


def clock(name: str) -> dict[str, Any]:
    """The settings of TRL of one of these clocks."""
    return {key: value for key, value in CLOCKS[name].items() if key != "generations"}


def assert_explained(log: dict[str, float]) -> None:
    """Every metric of ours is explained on the page about them."""
    page = Path("docs/live-training.md").read_text(encoding="utf-8")
    assert [name for name in log if name.startswith("selection/") and f"| `{name}` |" not in page] == []


def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<eos>", "<unk>", *CHARACTERS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
    )


def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=3 + len(CHARACTERS),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=32,
            eos_token_id=1,
            pad_token_id=0,
            bos_token_id=None,
        )
    )


class WatchedSelector(Selector):
    """Keeps the calls it gets, in order: ("select", ids) and ("observe", ids, folded rewards, observation)."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.calls: list[tuple] = []

    def select(self, k: int, exclude: Iterable[str] = (), *enough: Any, **named: Any) -> list[str]:
        ids = super().select(k, exclude, *enough, **named)
        self.calls.append(("select", list(ids)))
        return ids

    def observe(self, prompt_ids: Any, rewards: Any, trained: Any = True, *weights: Any, **named: Any) -> Observation:
        observation = super().observe(prompt_ids, rewards, trained, *weights, **named)
        folded = rewards_of(rewards, prompt_ids, named["weights"])[0].folded.reshape(len(prompt_ids), -1)
        self.calls.append(("observe", list(prompt_ids), folded, observation))
        return observation

    @property
    def selected(self) -> list[list[str]]:
        return [call[1] for call in self.calls if call[0] == "select"]

    @property
    def observed(self) -> list[tuple]:
        return [call[1:] for call in self.calls if call[0] == "observe"]


class Grader:
    """Rewards letters in a completion, but p0 to p2 always fail and p9 to p11 always pass. Keeps what it graded:
    (global step, prompt ids, completions, rewards) of every call.
    """

    __name__ = "letters"

    def __init__(self) -> None:
        self.graded: list[tuple[int, list[str], list[str], list[float]]] = []

    def __call__(self, prompts: Any, completions: Any, prompt_id: Any, trainer_state: Any, **_: Any) -> list[float]:
        rewards = [self.reward(i, completion) for i, completion in zip(prompt_id, completions, strict=True)]
        self.graded.append((trainer_state.global_step, list(prompt_id), list(completions), rewards))
        return rewards

    @staticmethod
    def reward(prompt_id: str, completion: str) -> float:
        number = int(prompt_id.lstrip("pe"))
        if number < 3 or number > 8:
            return float(number > 8)
        return float(sum(character in "abcdef" for character in completion) >= 2)


class WatchedTrainer(SelectionGRPOTrainer):
    """Keeps the prompts of every micro-batch that reaches the loss, and the rewards that TRL works with."""

    # What the runs here have, more narrowly than TRL says.
    model: PreTrainedModel
    processing_class: PreTrainedTokenizerBase
    reward_funcs: list[Any]
    args: GRPOConfig
    selector: WatchedSelector

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.trained: list[list[str]] = []
        self.rewards: list[list[float]] = []

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **named: Any) -> Any:
        if self.model.training:
            self.trained.append(self.processing_class.batch_decode(inputs["prompt_ids"], skip_special_tokens=True))
        return super().compute_loss(model, inputs, *args, **named)

    def _calculate_rewards(self, *args: Any, **named: Any) -> torch.Tensor:
        rewards = super()._calculate_rewards(*args, **named)
        if self.model.training:
            self.rewards.append(rewards.flatten().tolist())
        return rewards


ON_CPU: dict[str, Any] = {
    "use_cpu": True,
    "bf16": False,
    CHECKPOINTING: False,
    "dataloader_pin_memory": False,
    "report_to": "none",
    "disable_tqdm": True,
}


def config(folder: Path, **settings: Any) -> GRPOConfig:
    defaults: dict[str, Any] = {
        "max_steps": 8,
        "per_device_train_batch_size": 8,
        "num_generations": NUM_GENERATIONS,
        "max_completion_length": 4,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_steps": 4,
        "seed": 3,
    }
    return GRPOConfig(output_dir=str(folder), **(ON_CPU | defaults | settings))


def selector(**settings: Any) -> WatchedSelector:
    defaults: dict[str, Any] = {"num_generations": NUM_GENERATIONS, "seed": 5}
    return WatchedSelector(DPS(decay=0.7).online(prompts(POOL)), **(defaults | settings))


def trainer(
    folder: Path,
    label_columns: Any = ("task",),
    pool: Dataset = POOL,
    grader: Grader | None = None,
    of: type[WatchedTrainer] = WatchedTrainer,
    **settings: Any,
) -> WatchedTrainer:
    """A trainer on a pool; `settings` go to GRPOConfig, but for those of the trainer itself."""
    names = ("eval_dataset", "callbacks", "selector", "dynamic_sampling")
    own = {name: settings.pop(name) for name in names if name in settings}
    return of(
        model(),
        grader or Grader(),
        config(folder, **settings),
        pool,
        processing_class=tokenizer(),
        label_columns=label_columns,
        **({"selector": selector()} | own),
    )


def history_of(folder: str | Path) -> RewardHistory:
    return RewardHistory.from_parquet(Path(folder) / "history.parquet")


def rows(history: RewardHistory) -> list[tuple]:
    ids = history.prompt_ids[history.prompt]
    columns = (history.step, ids, history.num_rollouts, history.num_successes, history.trained)
    return sorted(zip(*(column.tolist() for column in columns), strict=True))


class Death(TrainerCallback):
    """Ends the process once `step` is trained and before its checkpoint, if any: without clean-up, or by SIGTERM."""

    def __init__(self, step: int, signal_number: int | None = None) -> None:
        self.step, self.signal_number = step, signal_number

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step != self.step:
            return
        print("jax imported:", "jax" in sys.modules, flush=True)
        if self.signal_number is None:
            os._exit(9)
        os.kill(os.getpid(), self.signal_number)


def forked(rank: int, port: int, folder: Path) -> int:
    """Start a rank of two as torchrun would, but with what is imported here already; returns its process id."""
    process = os.fork()
    if process == 0:
        faulthandler.dump_traceback_later(120, exit=True)  # where it hangs, should one rank wait in vain
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": 2, "RANK": rank, "LOCAL_RANK": rank}
        os.environ.update({name: str(value) for name, value in where.items()})
        try:
            pair(folder)
        finally:
            traceback.print_exc()
            os._exit(1)
    return process


def pair(folder: Path) -> None:
    """Train on every rank of a process group, resume from the middle, and write what this rank saw; then again with
    dynamic sampling.
    """
    rule = DynamicSampling(max_rounds=3)
    full = trainer(folder / "full", per_device_train_batch_size=4, gradient_accumulation_steps=2)
    full.train()
    refilled = trainer(
        folder / "refilled", per_device_train_batch_size=4, gradient_accumulation_steps=2, dynamic_sampling=rule
    )
    refilled.train()
    rank = full.accelerator.process_index
    if rank == 0:
        shutil.copytree(folder / "full", folder / "resumed")
    full.accelerator.wait_for_everyone()
    resumed = trainer(folder / "resumed", per_device_train_batch_size=4, gradient_accumulation_steps=2)
    resumed.train(resume_from_checkpoint=str(folder / "resumed" / "checkpoint-4"))
    seen = {
        name: {
            "selected": run.selector.selected,
            "shares": [graded[1] for graded in run.reward_funcs[0].graded],
            "rewards": run.rewards,
            "observed": [rewards.tolist() for _, rewards, _ in run.selector.observed],
            "trained": [observation.trained.tolist() for _, _, observation in run.selector.observed],
            "texts": run.trained,
            "weights": sum(p.double().sum().item() for p in run.model.parameters()),
        }
        for name, run in (("full", full), ("resumed", resumed), ("refilled", refilled))
    }
    (folder / f"rank{rank}.json").write_text(json.dumps(seen))
    full.accelerator.wait_for_everyone()
    sys.stdout.flush()
    # Torn down, torch may wait for good: it joins gloo's threads with the interpreter's lock held, and one of them may
    # want that lock to give back a tensor.
    os._exit(0)


if __name__ == "__main__":
    if sys.argv[1] == "die":
        trainer(Path(sys.argv[2]), callbacks=[Death(int(sys.argv[3]))]).train()
    elif sys.argv[1] == "terminate":
        trainer(Path(sys.argv[2]), callbacks=[Death(int(sys.argv[3]), signal.SIGTERM)]).train()
    else:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        ranks = [forked(rank, port, Path(sys.argv[2])) for rank in range(2)]
        ended = [os.waitpid(rank, 0)[1] for rank in ranks]
        sys.exit(any(ended))
