"""History resampling (SRPO, arXiv 2504.14286): a pass through the pool leaves out what the pass before saw solved.

Prompts have turns. A pass is over when every prompt whose turn was to come has been rolled out; in the next one it is
the turn of all but those all of whose rollouts succeeded in it. They are back in the pass after, having not been seen
solved in the one before. Policy "top" on its forecast, 1 where a prompt's turn is to come and 0 elsewhere, is the
published choice: among equals those seen least come first, in random order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from promptdyn.models.emissions import outcome_of
from promptdyn.online import OnlineModel, Pool

__all__ = ["HistoryResampling", "Turns"]

UNSEEN, SOLVED = -1, 2


class Turns(NamedTuple):
    waiting: NDArray[np.bool_]  # (prompt,) its turn in this pass is to come
    last: NDArray[np.int8]  # (prompt,) outcome (none, some, all) seen in this pass; -1: not seen in it


@dataclass(frozen=True)
class HistoryResampling(OnlineModel):
    """Whether it is a prompt's turn, in passes that leave out what was just seen solved."""

    name = "history_resampling"

    def init(self, pool: Pool) -> Turns:
        """The first pass: every prompt's turn is to come."""
        return Turns(np.ones(pool.num_prompts, bool), np.full(pool.num_prompts, UNSEEN, np.int8))

    def step(
        self,
        state: Turns,
        rows: NDArray[np.intp],
        num_successes: NDArray,
        num_rollouts: NDArray,
        trained: NDArray[np.bool_],
    ) -> Turns:
        """Give the prompts their turn, and begin the next pass where it was the last, in place."""
        waiting, last = state
        waiting[rows] = False
        last[rows] = outcome_of(num_rollouts, num_successes)
        if not waiting.any():
            np.not_equal(last, SOLVED, out=waiting)
            if not waiting.any():  # all were solved
                waiting[:] = True
            last[:] = UNSEEN
        return state

    def belief(self, state: Turns) -> NDArray[np.float64]:
        """(2, prompt): whether it is not, or is, the prompt's turn."""
        return np.stack([~state.waiting, state.waiting]).astype(float)

    def outcome(self, state: Turns, num_rollouts: int | NDArray) -> NDArray[np.float64]:
        """(outcome prompt): some succeed where it is the prompt's turn, all do elsewhere."""
        turn = state.waiting.astype(float)
        return np.stack([np.zeros_like(turn), turn, 1.0 - turn])

    def informative(
        self, state: Turns, num_rollouts: int | NDArray, rng: np.random.Generator | None = None
    ) -> NDArray[np.float64]:
        """(prompt,) 1 where it is the prompt's turn, else 0; nothing is drawn."""
        return state.waiting.astype(float)

    def success_rate(self, state: Turns, rng: np.random.Generator | None = None) -> NDArray[np.float64]:
        """(prompt,) a half where it is the prompt's turn, else 1; nothing is drawn."""
        return np.where(state.waiting, 0.5, 1.0)
