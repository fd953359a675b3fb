"""GRESO (arXiv 2506.02177): the longer a prompt's groups have had no variance, the likelier it is skipped.

A prompt whose last z groups in a row had no variance is kept with probability p^z, where p is `keep_easy` if all
rollouts of the last one succeeded and `keep_hard` if none did. After a first pass, once as many groups as the pool has
prompts were rolled out, both p move by `change` a step: down where the share of such groups in the step is at its
target or above, up where it is below, within [0.05, 0.95].

The authors go through the pool in random order and skip each prompt by a coin. That is a draw with odds in proportion
to the chance to be kept. With it goes dynamic sampling, each of whose rounds asks for as many prompts as are needed,
by how often groups had variance lately.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError
from promptdyn.online import Outcome, outcome_of
from promptdyn.selection.strategies.base import Outlook, Strategy, draw

__all__ = ["GRESO", "Streaks"]

LEAST_KEPT, MOST_KEPT = 0.05, 0.95


class Streaks(NamedTuple):
    streak: NDArray[np.int32]  # (prompt,) groups without variance since the last that had some
    last: NDArray[np.int8]  # (prompt,) outcome of the last group; SOME where there was none
    keep: NDArray[np.float64]  # (2,) p of hard prompts and of easy ones
    groups: NDArray[np.int64]  # (1,) rolled out so far


@dataclass(frozen=True)
class GRESO(Strategy[Streaks]):
    """Draw with the odds that a prompt is kept, by its streak of groups without variance.

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
        """No streaks yet."""
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
        """Lengthen or end the prompts' streaks, and move p; `trained` is not used."""
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

    def kept(self, state: Streaks) -> NDArray[np.float64]:
        """(prompt,) chances that a prompt is kept, p^z."""
        hard, easy = state.keep
        return np.power(np.where(state.last == Outcome.NONE, hard, easy), state.streak, dtype=float)

    def priorities(self, state: Streaks, outlook: Outlook, rng: np.random.Generator) -> NDArray[np.float64]:
        return draw(self.kept(state), rng)
