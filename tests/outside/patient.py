"""A strategy from outside, with a state: a prompt rests after it was rolled out."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from promptdyn.selection import Strategy


class Rests(NamedTuple):
    left: Any  # (prompt,) steps


@dataclass(frozen=True)
class Patient(Strategy):
    """Highest score among prompts that were not rolled out for `rest` steps."""

    rest: int = 2

    name = "patient"

    def init(self, num_prompts):
        return Rests(np.zeros(num_prompts))

    def step(self, state, rows, num_successes, num_rollouts, trained):
        left = np.maximum(state.left - 1, 0)
        left[rows] = self.rest
        return Rests(left)

    def priorities(self, state, outlook, rng):
        return np.where(state.left > 0, -state.left, outlook.scores())
