"""Load the embedded policies, which are tiny character-level Llamas, and count successes of a policy in bulk.

`scripts/pretrain_policy.py` pre-trained them, so that pools of `promptdyn.training.tasks` hold unsolved, partly solved
and solved prompts: "embedded" for arithmetic and sequences, "embedded_countdown" for the family "countdown". This
module knows nothing of selection and trainers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from promptdyn.success import Grader, Rewards, Success
from promptdyn.training.loading import RewardFunction
from promptdyn.training.tasks import exact_answer

__all__ = ["EMBEDDED", "load_policy", "pass_counts"]

EMBEDDED = {name: Path(__file__).parent / name for name in ("embedded", "embedded_countdown")}
"""Folders of the embedded policies, by name."""


def load_policy(name: str = "embedded") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load an embedded policy in single precision, and its tokenizer of characters, which pads on the left.

    Needs no network.
    """
    folder = EMBEDDED[name]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return model, AutoTokenizer.from_pretrained(folder, local_files_only=True)


@torch.no_grad()
def pass_counts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Mapping[str, Any]],
    rewards: Sequence[RewardFunction] = (exact_answer,),
    num_generations: int = 8,
    temperature: float = 1.0,
    max_completion_length: int = 8,
    success: Success | Grader = 0.5,
    seed: int = 0,
    batch_size: int = 1024,
) -> NDArray[np.int64]:
    """Roll out every prompt and count successes. The state of a training run around the call is left as it was.

    Args:
        model, tokenizer: a causal language model; the tokenizer must pad on the left.
        rows: (prompt,) rows with "prompt", a text, and the columns that the reward functions need.
        rewards: reward functions in TRL's form, which may be async; default `tasks.exact_answer`.
        num_generations: rollouts of a prompt; default 8.
        temperature: sampling temperature; default 1.
        max_completion_length: most tokens of a rollout; default 8.
        success: the rule of success, see `promptdyn.success`; default 0.5. A `Grader` without a rule yet finds it
            from these rewards.
        seed: random seed of sampling. Torch's generators are restored afterwards.
        batch_size: rollouts at a time.

    Returns:
        (prompt,) numbers of successes, 0 to `num_generations`.
    """
    row_of_rollout = [row for row in rows for _ in range(num_generations)]
    other_columns = [column for column in rows[0] if column != "prompt"]
    values: list[list[float | None]] = [[] for _ in rewards]
    was_training = model.training
    model.eval()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for start in range(0, len(row_of_rollout), batch_size):
            chunk = row_of_rollout[start : start + batch_size]
            prompts = [row["prompt"] for row in chunk]
            batch = tokenizer(prompts, return_tensors="pt", padding=True).to(model.device)
            rollouts = cast(Any, model).generate(
                **batch,
                do_sample=True,
                temperature=temperature,
                top_k=0,
                top_p=1.0,
                max_new_tokens=max_completion_length,
                pad_token_id=tokenizer.pad_token_id,
            )
            texts = tokenizer.batch_decode(rollouts[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
            columns = {column: [row[column] for row in chunk] for column in other_columns}
            for reward, of_function in zip(rewards, values, strict=True):
                graded = reward(prompts=prompts, completions=texts, **columns)
                of_function += asyncio.run(_awaited(graded)) if isinstance(graded, Awaitable) else graded
    model.train(was_training)
    names = tuple(getattr(reward, "__name__", type(reward).__name__) for reward in rewards)
    rollout_rewards = Rewards(names, np.ones(len(names)), np.array(values, np.float64).T)
    grader = success if isinstance(success, Grader) else Grader(success)
    grader.see(rollout_rewards)
    grader.settle()
    return (grader.grades(rollout_rewards) == 1).reshape(-1, num_generations).sum(axis=1)


async def _awaited(rewards: Awaitable[Sequence[float | None]]) -> Sequence[float | None]:
    return await rewards
