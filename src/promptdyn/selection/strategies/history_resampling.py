"""History resampling (SRPO, arXiv 2504.14286): a pass through the pool leaves out what the pass before saw solved.

Prompts have turns. A pass is over when every prompt whose turn was to come has been rolled out; in the next one it is
the turn of all but those all of whose rollouts succeeded in it. They are back in the pass after, having not been seen
solved in the one before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from promptdyn.online import Outcome, outcome_of
from promptdyn.selection.strategies.base import Outlook, Strategy

__all__ = ["HistoryResampling", "Turns"]

UNSEEN = -1


class Turns(NamedTuple):
    waiting: NDArray[np.bool_]  # (prompt,) its turn in this pass is to come
    last: NDArray[np.int8]  # (prompt,) outcome seen in this pass; -1: not seen in it


@dataclass(frozen=True)
class HistoryResampling(Strategy[Turns]):
    """Shuffled passes that leave out what was just seen solved."""

    name = "history_resampling"
    rule = "in shuffled passes that leave out what the last one saw solved"

    def init(self, num_prompts: int) -> Turns:
        """The first pass: every prompt's turn is to come."""
        return Turns(np.ones(num_prompts, bool), np.full(num_prompts, UNSEEN, np.int8))

    def step(
        self,
        state: Turns,
        rows: NDArray[np.intp],
        num_successes: NDArray[np.int64],
        num_rollouts: NDArray[np.int64],
        trained: NDArray[np.bool_],
    ) -> Turns:
        """Give the prompts their turn, and begin the next pass where it was the last."""
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
        """1 where it is the prompt's turn, else 0."""
        return state.waiting.astype(float)
