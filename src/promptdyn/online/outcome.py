"""The outcome of a rollout group: none of its rollouts succeeded, some did (it is informative), or all did."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

__all__ = ["Outcome", "outcome_of"]


class Outcome(IntEnum):
    """How many of a group's rollouts succeeded."""

    NONE = 0
    SOME = 1
    ALL = 2


def outcome_of(num_successes: NDArray, num_rollouts: NDArray) -> NDArray[np.intp]:
    """Return the (group,) `Outcome` of groups of n >= 1 rollouts."""
    some_or_all = np.where(num_successes == num_rollouts, int(Outcome.ALL), int(Outcome.SOME))
    return np.where(num_successes == 0, int(Outcome.NONE), some_or_all)
