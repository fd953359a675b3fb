"""What a step can do to a prompt: how the rollouts of its group end, and what training makes of the group."""

from __future__ import annotations

from enum import IntEnum
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Exposure", "Outcome", "exposure_names", "exposure_of", "outcome_of"]


class Outcome(IntEnum):
    """How many of a group's rollouts succeeded. A group with `SOME` is informative: 0 < k < n."""

    NONE = 0
    SOME = 1
    ALL = 2


def outcome_of(num_successes: NDArray, num_rollouts: NDArray) -> NDArray[np.intp]:
    """Return the (group,) `Outcome` of groups of n >= 1 rollouts."""
    some_or_all = np.where(num_successes == num_rollouts, int(Outcome.ALL), int(Outcome.SOME))
    return np.where(num_successes == 0, int(Outcome.NONE), some_or_all)


class Exposure(IntEnum):
    """What a step's training did to a prompt. A group of equal outcomes gives no gradient: it is without variance."""

    IDLE = 0
    TRAINED = 1
    TRAINED_WITHOUT_VARIANCE = 2


def exposure_of(num_successes: Any, num_rollouts: Any, trained: Any, xp: ModuleType = np) -> Any:
    """Return the `Exposure` that groups give to their prompts.

    Args:
        num_successes, num_rollouts: k and n of each group, in arrays of one shape.
        trained: whether each group fed the gradient.
        xp: array module of the arguments and the result.
    """
    varies = (num_successes > 0) & (num_successes < num_rollouts)
    exposure = xp.where(varies, int(Exposure.TRAINED), int(Exposure.TRAINED_WITHOUT_VARIANCE))
    return xp.where(trained, exposure, int(Exposure.IDLE))


def exposure_names(num_exposures: int) -> tuple[str, ...]:
    """Return the names of a chain's exposures. A chain with fewer than three has the last stand for those above it."""
    if num_exposures == 1:
        return ("any",)
    return tuple(exposure.name.lower().replace("_", " ") for exposure in Exposure)[:num_exposures]
