"""History resampling (SRPO, arXiv 2504.14286): each pass through the pool leaves out prompts just seen solved.

A pass is over when each of its prompts has been rolled out. The next pass has all prompts but those whose rollouts all
succeeded in this one. They return in the pass after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from promptdyn.history import Outcome, outcome_of
from promptdyn.selection.strategies.base import Outlook, Strategy

__all__ = ["HistoryResampling", "Turns"]

UNSEEN = -1


class Turns(NamedTuple):
    """State of `HistoryResampling`, for each prompt."""

    waiting: NDArray[np.bool_]  # (prompt,) whether the prompt is still to be rolled out in this pass
    last: NDArray[np.int8]  # (prompt,) outcome in this pass; -1: none yet


@dataclass(frozen=True)
class HistoryResampling(Strategy[Turns]):
    """Go through the pool in shuffled passes that leave out prompts just seen solved."""

    name = "history_resampling"
    rule = "in shuffled passes that leave out what the last one saw solved"

    def init(self, num_prompts: int) -> Turns:
        """Return the state of the first pass, in which all prompts wait."""
        return Turns(np.ones(num_prompts, bool), np.full(num_prompts, UNSEEN, np.int8))

    def step(
        self,
        state: Turns,
        rows: NDArray[np.intp],
        num_successes: NDArray[np.int64],
        num_rollouts: NDArray[np.int64],
        trained: NDArray[np.bool_],
    ) -> Turns:
        """Take prompts out of the pass, and begin the next pass after its last prompt."""
        waiting, last = state
        waiting[rows] = False
        last[rows] = outcome_of(num_successes, num_rollouts)
        if not waiting.any():
            np.not_equal(last, Outcome.ALL, out=waiting)
            if not waiting.any():  # all were solved
                waiting[:] = True
            last[:] = UNSEEN
        return state

    def priorities(self, state: Turns, outlook: Outlook, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return 1 for prompts that wait in this pass, 0 for others."""
        return state.waiting.astype(float)
