"""Start a run's beliefs from what is known of its prompts already: an earlier run, or a recording."""

from __future__ import annotations

import logging

import numpy as np

from promptdyn.errors import InputError
from promptdyn.history import RewardHistory
from promptdyn.online import OnlineFilter

__all__ = ["warm_start"]

logger = logging.getLogger(__name__)


def warm_start(online: OnlineFilter, history: RewardHistory, source: str = "history") -> None:
    """Let a filter absorb a history, step by step, before its run begins.

    All rows are used, those that were not trained on too. Prompts that are not in the pool are left out. A logged line
    tells how many prompts are known now.

    Args:
        online: a filter over the run's pool.
        history: what was observed before, such as a recording by `promptdyn record`.
        source: name of the history in messages.

    Raises:
        InputError: no prompt of the history is in the pool.

    Example:
        >>> from promptdyn import RewardHistory, models
        >>> before = RewardHistory.from_columns([0, 0], ["a", "b"], num_successes=[0, 4], num_rollouts=[8, 8])
        >>> online = models.BetaBernoulli().online(["a", "b", "c"])
        >>> warm_start(online, before)
        >>> online.success_rate().round(1)
        array([0.1, 0.5, 0.5])
    """
    row_in_pool = {prompt_id: row for row, prompt_id in enumerate(online.prompt_ids)}
    known = np.array([prompt_id in row_in_pool for prompt_id in history.prompt_ids], bool)[history.prompt]
    in_pool = history.select(known)
    if not len(in_pool):
        example = next(iter(history.prompt_ids), None)
        raise InputError(
            f"warm start: {source} has none of the pool's {online.num_prompts} prompts (it has {example!r}): give a "
            "history of the same dataset, with the same ids"
        )
    starts = np.flatnonzero(np.diff(in_pool.step, prepend=-1))
    for rows in np.split(np.arange(len(in_pool)), starts[1:]):
        online.step(
            in_pool.prompt_ids[in_pool.prompt[rows]].tolist(),
            in_pool.num_successes[rows],
            in_pool.num_rollouts[rows],
            in_pool.trained[rows],
        )
    sizes = sorted(set(in_pool.num_rollouts.tolist()))
    logger.warning(
        "warm start from %s: %d of the pool's %d prompts are known, by %d groups of %s rollouts in %d steps; a success "
        "there is %r",
        source,
        len(np.unique(in_pool.prompt)),
        online.num_prompts,
        len(in_pool),
        sizes[0] if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}",
        len(starts),
        history.success or "not told",
    )
