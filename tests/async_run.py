"""A tiny run of TRL's asynchronous trainer on the CPU: what stands in for vLLM, its weight transfer, and a GPU kernel.

The rollout process generates by transformers, with the weights that the trainer last sent as a file. TRL's queues, its
process, its loop, its trainer and its checkpoints are real.
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM
from trl.experimental.async_grpo import AsyncGRPOConfig, async_grpo_trainer, async_rollout_worker, packing

import grpo_run
from promptdyn.training.trl.async_grpo import SelectionAsyncGRPOTrainer, SelectionRolloutLoop, SelectionRolloutWorker

POOL = Dataset.from_list(
    [{"prompt": [{"role": "user", "content": f"{i:x}"}], "prompt_id": f"p{i}", "difficulty": i % 3} for i in range(200)]
)
WEIGHTS = "weights.pt"


def letters(completions: Any, difficulty: list[int], **_: Any) -> list[float]:
    """Rewards a letter in a completion; of the other two kinds of prompts, one is always solved, and one never."""
    found = [any(character in "abcdef" for character in completion[0]["content"]) for completion in completions]
    return [float(kind == 0 or (kind == 1 and good)) for kind, good in zip(difficulty, found, strict=True)]


def tokenizer() -> Any:
    made: Any = grpo_run.tokenizer()
    made.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    made.response_template = {
        "defaults": {"role": "assistant"},
        "start_anchor": "=",
        "fields": {"content": {"close": "eos"}},
    }
    return made


class LocalLoop(SelectionRolloutLoop):
    """Generates by transformers, where TRL asks vLLM."""

    _loaded = -1

    async def _generate_one_turn(self, prompt_ids: list[int]) -> tuple[list[int], list[float]]:
        if self._loaded < 0:
            torch.set_num_threads(1)
            self._policy: Any = AutoModelForCausalLM.from_pretrained(self.model_name, dtype=torch.float32)
        if self._loaded != self.model_version and (file := Path(self.model_name, WEIGHTS)).is_file():
            self._policy.load_state_dict(torch.load(file), strict=False)
        self._loaded = self.model_version
        output = self._policy.generate(
            torch.tensor([prompt_ids]),
            do_sample=True,
            max_new_tokens=3,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_logits=True,
        )
        new = output.sequences[0, len(prompt_ids) :]
        logprobs = torch.stack(output.logits, 1)[0].log_softmax(-1).gather(-1, new[:, None])[:, 0]
        await asyncio.sleep(0)
        return new.tolist(), logprobs.tolist()


class WeightFile:
    """Hands weights to the rollout process through a file, where TRL uses NCCL."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def init_weight_transfer(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def destroy(self) -> None: ...

    def send_weights(self, iterator: Iterator[tuple[str, torch.Tensor]]) -> None:
        torch.save({name: value.clone() for name, value in iterator}, self.folder / "new.pt")
        (self.folder / "new.pt").replace(self.folder / WEIGHTS)


def segment_attention(module: Any, query: Any, key: Any, value: Any, mask: Any, **tree: Any) -> Any:
    """TRL's attention over the paths of a row, segment by segment, where TRL uses a kernel of FlashAttention."""
    scale, index = tree["scaling"], tree["tree_kv_index"]
    repeats = query.shape[1] // key.shape[1]
    key, value = (each.repeat_interleave(repeats, 1)[:, :, index] for each in (key, value))
    bounds = zip(
        itertools.pairwise(tree["tree_cu_seqlens_q"].tolist()),
        itertools.pairwise(tree["tree_cu_seqlens_k"].tolist()),
        strict=True,
    )
    parts = []
    for (q0, q1), (k0, k1) in bounds:
        seen = torch.ones(q1 - q0, k1 - k0, dtype=torch.bool).tril((k1 - k0) - (q1 - q0))
        parts.append(
            torch.nn.functional.scaled_dot_product_attention(
                query[:, :, q0:q1], key[:, :, k0:k1], value[:, :, k0:k1], attn_mask=seen, scale=scale
            )
        )
    return torch.cat(parts, 2).transpose(1, 2), None


def on_cpu(patch: pytest.MonkeyPatch) -> None:
    """Let TRL's asynchronous trainer run without vLLM and without a GPU."""
    patch.setattr(async_rollout_worker, "is_vllm_available", lambda: True)
    patch.setattr(async_grpo_trainer, "get_peak_flops_per_device", lambda *_: None)
    patch.setattr(packing, "tree_attention", segment_attention)
    patch.setattr(SelectionRolloutWorker, "loop", LocalLoop)


def policy(folder: Path) -> Path:
    """Write the policy at the start; returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    grpo_run.model().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def config(folder: Path, **settings: Any) -> AsyncGRPOConfig:
    defaults: dict[str, Any] = {
        "max_steps": 8,
        "per_device_train_batch_size": 16,
        "num_generations": 4,
        "max_inflight_tasks": 32,
        "max_completion_length": 3,
        "token_budget": 0,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_steps": 4,
        "seed": 3,
    }
    return AsyncGRPOConfig(output_dir=str(folder), **(grpo_run.ON_CPU | defaults | settings))


def trainer(folder: Path, dataset: Any = POOL, own: Any = None, **settings: Any) -> SelectionAsyncGRPOTrainer:
    path = policy(folder / "policy")
    return SelectionAsyncGRPOTrainer(
        str(path),
        letters,
        config(folder, **settings),
        dataset,
        processing_class=tokenizer(),
        weight_transfer=WeightFile(path),
        **({"selector": "rate:cluster=difficulty"} | (own or {})),
    )


def loop(dataset: Any = POOL, steps: int = 4, **options: Any) -> LocalLoop:
    """A rollout loop in this process, which stops after so many steps of the selector."""

    def value(start: float) -> Any:
        return types.SimpleNamespace(value=start, get_lock=threading.Lock)

    selection = options.pop("selection")
    made = LocalLoop(
        selection=selection,
        dataset=dataset,
        reward_funcs=[letters],
        processing_class=tokenizer(),
        eos_token_ids=[1],
        rollout_buffer=queue.Queue(),
        model_version_value=value(0),
        heartbeat_value=value(0.0),
        failed_event=threading.Event(),
        exception_info_queue=queue.Queue(1),
        metrics_queue=queue.Queue(),
        num_generations=4,
        max_inflight_tasks=32,
        **options,
    )

    def stop() -> None:
        while made.selection.num_steps < steps and not made._failed_event.is_set():
            time.sleep(0.01)
        made._loop.call_soon_threadsafe(made._stop_event.set)

    threading.Thread(target=stop, daemon=True).start()
    return made
