"""Load the embedded policies, which are tiny character-level Llamas, and count successes of a policy in bulk.

`scripts/pretrain_policy.py` pre-trained them, so that pools of `promptdyn.training.tasks` hold unsolved, partly solved
and solved prompts: "embedded" for arithmetic and sequences, "embedded_countdown" for the family "countdown". This
module knows nothing of selection and trainers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from promptdyn.success import Grader, Success
from promptdyn.training.loading import RewardFunction
from promptdyn.training.rollout import Sampling, TransformersGenerator, grade, roll_out
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
    generator = TransformersGenerator(model, tokenizer, batch_size)
    sampling = Sampling(num_generations, max_completion_length, temperature)
    rollout_rewards = grade(roll_out(generator, [row["prompt"] for row in rows], sampling, seed), rows, rewards)
    grader = success if isinstance(success, Grader) else Grader(success)
    grader.see(rollout_rewards)
    grader.settle()
    return (grader.grades(rollout_rewards) == 1).reshape(-1, num_generations).sum(axis=1)
