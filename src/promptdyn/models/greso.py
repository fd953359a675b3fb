"""GRESO (arXiv 2506.02177): the longer a prompt's groups have had no variance, the likelier it is skipped.

A prompt whose last z groups in a row had no variance is kept with probability p^z, where p is `keep_easy` if all
rollouts of the last one succeeded and `keep_hard` if none did. After a first pass, once as many groups as the pool has
prompts were rolled out, both p move by `change` a step: down where the share of such groups in the step is at its
target or above, up where it is below, within [0.05, 0.95].

The authors go through the pool in random order and skip each prompt by a coin. That is a draw with odds in proportion
to the chance to be kept: policy "proportional:power=1,uniform=0" on this model's forecast. With it goes dynamic
sampling, each of whose rounds asks for as many prompts as are needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError
from promptdyn.models.emissions import outcome_of
from promptdyn.online import OnlineModel, Pool

__all__ = ["GRESO", "Streaks"]

LEAST_KEPT, MOST_KEPT = 0.05, 0.95
SOME = 1


class Streaks(NamedTuple):
    streak: NDArray[np.int32]  # (prompt,) groups without variance since the last that had some
    last: NDArray[np.int8]  # (prompt,) outcome (none, some, all) of the last group; some where there was none
    keep: NDArray[np.float64]  # (2,) p of hard prompts and of easy ones
    groups: NDArray[np.int64]  # (1,) rolled out so far


@dataclass(frozen=True)
class GRESO(OnlineModel):
    """Chance that a prompt is kept, by its streak of groups without variance.

    Attributes:
        keep_easy, keep_hard: p at the start, from 0.05 to 0.95; default 0.5.
        target_easy, target_hard: shares of a step's groups, from 0 to 1, whose rollouts all, or none, may succeed;
            published 1/12 and 1/6.
        change: by how much p moves in a step, from 0 to 1; published 0.01.

    Raises:
        InputError: a setting is out of range, naming it.
    """

    keep_easy: float = 0.5
    keep_hard: float = 0.5
    target_easy: float = 1 / 12
    target_hard: float = 1 / 6
    change: float = 0.01

    name = "greso"
    shared = ("keep", "groups")

    def __post_init__(self) -> None:
        ranges = {
            **dict.fromkeys(("keep_easy", "keep_hard"), (LEAST_KEPT, MOST_KEPT)),
            **dict.fromkeys(("target_easy", "target_hard", "change"), (0.0, 1.0)),
        }
        for setting, (least, most) in ranges.items():
            if not least <= getattr(self, setting) <= most:
                raise InputError(f"GRESO: {setting}={getattr(self, setting)} is outside [{least:g}, {most:g}]")

    def init(self, pool: Pool) -> Streaks:
        """No streaks yet."""
        size = pool.num_prompts
        keep = np.array([self.keep_hard, self.keep_easy])
        return Streaks(np.zeros(size, np.int32), np.full(size, SOME, np.int8), keep, np.zeros(1, np.int64))

    def step(
        self,
        state: Streaks,
        rows: NDArray[np.intp],
        num_successes: NDArray,
        num_rollouts: NDArray,
        trained: NDArray[np.bool_],
    ) -> Streaks:
        """Lengthen or end the prompts' streaks, and move p, in place; `trained` is not used."""
        streak, last, keep, groups = state
        outcome = outcome_of(num_rollouts, num_successes)
        streak[rows] = np.where(outcome == SOME, 0, streak[rows] + 1)
        last[rows] = outcome
        groups += len(rows)
        if len(rows) and groups[0] >= len(streak):
            shares = np.array([np.mean(outcome == 0), np.mean(outcome == 2)])
            keep += np.where(shares >= (self.target_hard, self.target_easy), -self.change, self.change)
            np.clip(keep, LEAST_KEPT, MOST_KEPT, out=keep)
        return state

    def belief(self, state: Streaks) -> NDArray[np.float64]:
        """(2, prompt): chances that the prompt is skipped, and kept."""
        kept = self._kept(state)
        return np.stack([1.0 - kept, kept])

    def _kept(self, state: Streaks) -> NDArray[np.float64]:
        hard, easy = state.keep
        return np.power(np.where(state.last == 0, hard, easy), state.streak, dtype=float)

    def outcome(self, state: Streaks, num_rollouts: int | NDArray) -> NDArray[np.float64]:
        """(outcome prompt): some succeed with the chance to be kept, else none or all, as in the streak."""
        kept = self._kept(state)
        return np.stack([(1.0 - kept) * (state.last == 0), kept, (1.0 - kept) * (state.last != 0)])

    def informative(
        self, state: Streaks, num_rollouts: int | NDArray, rng: np.random.Generator | None = None
    ) -> NDArray[np.float64]:
        """(prompt,) chance that the prompt is kept; nothing is drawn."""
        return self._kept(state)

    def success_rate(self, state: Streaks, rng: np.random.Generator | None = None) -> NDArray[np.float64]:
        """(prompt,) 0 or 1, as in the streak, with the chance to be skipped, and a half; nothing is drawn."""
        return 0.5 * self._kept(state) + (1.0 - self._kept(state)) * (state.last != 0)
