"""Scores: functions from the beliefs to one number per prompt, what the prompt is worth. Higher is better.

A new score is a function here and its entry in `SCORES`. A score with settings is a frozen dataclass with a `name` and
`__call__`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from promptdyn.online import OnlineFilter
from promptdyn.registry import Registry

__all__ = ["SCORES", "Score", "entropy", "half_solved", "informative", "reward_variance"]

Score = Callable[[OnlineFilter, int, np.random.Generator | None], NDArray[np.float64]]
"""(online, num_rollouts, rng) -> (prompt,) scores; with `rng`, each at one posterior draw (Thompson)."""

# Arguments of a score.
ARGUMENTS = ("online", "num_rollouts", "rng")


def informative(online: OnlineFilter, num_rollouts: int, rng: np.random.Generator | None = None) -> NDArray[np.float64]:
    """Return P(0 < k < n), the chance that the group gives a gradient (DPS, MoPPS, MaPP)."""
    return online.informative(num_rollouts, rng)


def reward_variance(
    online: OnlineFilter, num_rollouts: int, rng: np.random.Generator | None = None
) -> NDArray[np.float64]:
    """Return E[p (1 - p)], the variance of a rollout's reward, which is half the chance that two rollouts differ."""
    return 0.5 * online.informative(2, rng)


def half_solved(online: OnlineFilter, num_rollouts: int, rng: np.random.Generator | None = None) -> NDArray[np.float64]:
    """Return 1 - |2 p - 1|, which is 1 at a success rate of one half, and 0 at rates of 0 and 1."""
    return 1.0 - np.abs(2.0 * online.success_rate(rng) - 1.0)


def _fault(entry: Any) -> str:
    """Say what a function or class lacks that a score needs; "" if nothing is missing."""
    call: Any = entry
    arguments: tuple[str, ...] = ARGUMENTS
    if isinstance(entry, type):
        call = next((vars(cls)["__call__"] for cls in entry.__mro__ if "__call__" in vars(cls)), None)
        arguments = ("self", *ARGUMENTS)
    if not callable(call):
        return f"is no score: give it __call__({', '.join(arguments)})"
    try:
        inspect.signature(call).bind(*arguments)
    except TypeError as error:
        return f"is no score: it is called with ({', '.join(ARGUMENTS)}), and {error}"
    return ""


SCORES: Registry[Callable[..., Any], Score] = Registry(
    "score", informative, reward_variance, half_solved, fault=_fault, functions=True
)


def entropy(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the (prompt,) entropy in nats of (prompt outcome) probabilities."""
    return -np.sum(probability * np.log(np.maximum(probability, 1e-300)), axis=1)
