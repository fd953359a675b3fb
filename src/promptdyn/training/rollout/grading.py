"""Call reward functions on rollouts, as TRL's trainers do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

import numpy as np
from transformers import TrainerState

from promptdyn.success import Rewards
from promptdyn.training.loading import RewardFunction, unique_names
from promptdyn.training.rollout.base import Rollouts

__all__ = ["function_names", "grade"]

# Columns that TRL does not hand on, since it has its own.
OWN_COLUMNS = ("prompt", "completion", "completion_ids")


def grade(
    rollouts: Rollouts,
    rows: Sequence[Mapping[str, Any]],
    rewards: Sequence[RewardFunction],
    weights: Sequence[float] | None = None,
    step: int = 0,
) -> Rewards:
    """Grade rollouts by reward functions.

    A function receives `prompts`, `completions`, `completion_ids`, the other columns of the rows, and what TRL's
    trainers add: `trainer_state` (with `global_step`), `log_extra` and `log_metric`, which do nothing here.

    Args:
        rollouts: the rollouts of the rows' prompts.
        rows: (prompt,) rows with "prompt" and the columns that the reward functions need.
        rewards: reward functions in TRL's form, which may be async.
        weights: (function,) weights of the functions in the folded reward; default 1 each.
        step: training step, for functions that depend on it; default 0.
    """
    group_size = len(rollouts.prompts) // len(rows)
    names = [column for column in rows[0] if column not in OWN_COLUMNS]
    columns = {column: [row[column] for row in rows for _ in range(group_size)] for column in names}
    batch = {
        **columns,
        "prompts": rollouts.prompts,
        "completions": rollouts.completions,
        "completion_ids": rollouts.completion_ids,
        "trainer_state": TrainerState(global_step=step),
        "log_extra": lambda *_: None,
        "log_metric": lambda *_: None,
    }
    values: list[Sequence[float | None]] = []
    for reward in rewards:
        graded = reward(**batch)
        values.append(asyncio.run(_awaited(graded)) if isinstance(graded, Awaitable) else graded)
    table = np.array(values, np.float64).T
    factors = np.ones(len(rewards)) if weights is None else np.asarray(weights, np.float64)
    return Rewards(tuple(function_names(rewards)), factors, table)


def function_names(rewards: Sequence[RewardFunction]) -> list[str]:
    """Return the names of reward functions, as rules of success name them."""
    return unique_names(getattr(reward, "__name__", type(reward).__name__) for reward in rewards)


async def _awaited(rewards: Awaitable[Sequence[float | None]]) -> Sequence[float | None]:
    return await rewards
