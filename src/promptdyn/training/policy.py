"""The embedded policy: a tiny character-level Llama with its tokenizer, and how to sample it in bulk.

Pre-trained by `scripts/pretrain_policy.py` so that pools of `promptdyn.training.tasks` hold unsolved, partly solved
and solved prompts. Knows nothing of selection and trainers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer

from promptdyn.errors import InputError

__all__ = ["POLICY_DIR", "load_policy", "pass_counts"]

POLICY_DIR = Path(__file__).parent / "embedded"


def load_policy() -> tuple[Any, Any]:
    """The embedded policy in single precision, and its tokenizer (characters, left padding). Needs no network."""
    model = AutoModelForCausalLM.from_pretrained(POLICY_DIR, dtype=torch.float32, local_files_only=True)
    return model, AutoTokenizer.from_pretrained(POLICY_DIR, local_files_only=True)


@torch.no_grad()
def pass_counts(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    answers: Sequence[str],
    num_generations: int = 8,
    temperature: float = 1.0,
    max_completion_length: int = 8,
    seed: int = 0,
    batch_size: int = 1024,
) -> NDArray[np.int64]:
    """Roll every prompt out and count right answers. Training that goes on around it is not disturbed.

    Args:
        model, tokenizer: a causal language model; the tokenizer must pad on the left.
        prompts: (prompt,) texts.
        answers: (prompt,) right answers, compared as `tasks.exact_answer` does.
        num_generations: rollouts a prompt; default 8.
        temperature: of sampling; default 1.
        max_completion_length: tokens a rollout; default 8.
        seed: of sampling. Torch's generators are put back as they were.
        batch_size: rollouts at a time.

    Returns:
        (prompt,) successes, 0 to `num_generations`.

    Raises:
        InputError: prompts and answers differ in number.
    """
    from promptdyn.training.tasks import exact_answer

    if len(prompts) != len(answers):
        raise InputError(f"{len(prompts)} prompts and {len(answers)} answers: give one answer a prompt")
    flat = [prompt for prompt in prompts for _ in range(num_generations)]
    right = [answer for answer in answers for _ in range(num_generations)]
    rewards: list[float] = []
    was_training = model.training
    model.eval()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for start in range(0, len(flat), batch_size):
            batch = tokenizer(flat[start : start + batch_size], return_tensors="pt", padding=True).to(model.device)
            rollouts = model.generate(
                **batch,
                do_sample=True,
                temperature=temperature,
                top_k=0,
                top_p=1.0,
                max_new_tokens=max_completion_length,
                pad_token_id=tokenizer.pad_token_id,
            )
            texts = tokenizer.batch_decode(rollouts[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
            rewards += exact_answer(texts, right[start : start + batch_size])
    model.train(was_training)
    return np.array(rewards, dtype=np.int64).reshape(-1, num_generations).sum(axis=1)
