"""GRESO (arXiv 2506.02177): the longer a prompt's groups have had no variance, the more likely it is skipped.

A prompt whose last z groups in a row had no variance is kept with probability p^z, where p is `keep_easy` if all
rollouts of the last one succeeded and `keep_hard` if none did. After a first pass (as many groups as the pool has
prompts), both p move by `change` per step: down if the share of such groups in the step reaches its target, else up,
within [0.05, 0.95].

The authors go through the pool in random order and skip each prompt by a coin. This is a draw with odds proportional to
the chance to be kept. They combine it with dynamic sampling, whose rounds ask for as many prompts as are needed, judged
by how often groups had variance lately.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError
from promptdyn.history import Outcome, outcome_of
from promptdyn.selection.strategies.base import Outlook, Strategy, draw

__all__ = ["GRESO", "Streaks"]

LEAST_KEPT, MOST_KEPT = 0.05, 0.95


class Streaks(NamedTuple):
    """State of `GRESO`, for each prompt and for all."""

    streak: NDArray[np.int32]  # (prompt,) number of groups without variance since the last one with some
    last: NDArray[np.int8]  # (prompt,) outcome of the last group; SOME before the first
    keep: NDArray[np.float64]  # (2,) p of hard prompts and of easy ones
    groups: NDArray[np.int64]  # (1,) number of groups rolled out so far


@dataclass(frozen=True)
class GRESO(Strategy[Streaks]):
    """Draw with the odds that a prompt is kept, by its streak of groups without variance.

    Attributes:
        keep_easy, keep_hard: initial p, from 0.05 to 0.95; default 0.5.
        target_easy, target_hard: target shares, from 0 to 1, of a step's groups in which all, or no, rollouts succeed;
            default 1/12 and 1/6, as published.
        change: change of p in a step, from 0 to 1; default 0.01, as published.

    Raises:
        InputError: a setting is out of range.
    """

    keep_easy: float = 0.5
    keep_hard: float = 0.5
    target_easy: float = 1 / 12
    target_hard: float = 1 / 6
    change: float = 0.01

    name = "greso"
    rule = "by chance, the less the longer a prompt's groups had no variance"
    shared = ("keep", "groups")

    def __post_init__(self) -> None:
        ranges = {
            **dict.fromkeys(("keep_easy", "keep_hard"), (LEAST_KEPT, MOST_KEPT)),
            **dict.fromkeys(("target_easy", "target_hard", "change"), (0.0, 1.0)),
        }
        for setting, (least, most) in ranges.items():
            if not least <= getattr(self, setting) <= most:
                raise InputError(f"GRESO: {setting}={getattr(self, setting)} is outside [{least:g}, {most:g}]")

    def init(self, num_prompts: int) -> Streaks:
        """Return a state without streaks."""
        return Streaks(
            np.zeros(num_prompts, np.int32),
            np.full(num_prompts, Outcome.SOME, np.int8),
            np.array([self.keep_hard, self.keep_easy]),
            np.zeros(1, np.int64),
        )

    def step(
        self,
        state: Streaks,
        rows: NDArray[np.intp],
        num_successes: NDArray[np.int64],
        num_rollouts: NDArray[np.int64],
        trained: NDArray[np.bool_],
    ) -> Streaks:
        """Lengthen or end the prompts' streaks, and change p. `trained` is not used."""
        streak, last, keep, groups = state
        outcome = outcome_of(num_successes, num_rollouts)
        streak[rows] = np.where(outcome == Outcome.SOME, 0, streak[rows] + 1)
        last[rows] = outcome
        groups += len(rows)
        if len(rows) and groups[0] >= len(streak):
            shares = np.array([np.mean(outcome == Outcome.NONE), np.mean(outcome == Outcome.ALL)])
            keep += np.where(shares >= (self.target_hard, self.target_easy), -self.change, self.change)
            np.clip(keep, LEAST_KEPT, MOST_KEPT, out=keep)
        return state

    def keep_probability(self, state: Streaks) -> NDArray[np.float64]:
        """Return (prompt,) chances p^z that a prompt is kept."""
        hard, easy = state.keep
        return np.power(np.where(state.last == Outcome.NONE, hard, easy), state.streak, dtype=float)

    def priorities(self, state: Streaks, outlook: Outlook, rng: np.random.Generator) -> NDArray[np.float64]:
        return draw(self.keep_probability(state), rng)
