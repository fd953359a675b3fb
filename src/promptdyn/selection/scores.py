"""What a prompt is worth: functions from the belief to one number per prompt, 0 or more, higher is better."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from promptdyn.online import OnlineFilter

__all__ = ["SCORES", "Score", "entropy", "half_solved", "informative", "reward_variance"]

Score = Callable[[OnlineFilter, int, np.random.Generator | None], NDArray[np.float64]]
"""(online, num_rollouts, rng) -> (prompt,). With an rng, the score at one posterior draw per prompt (Thompson)."""


def informative(online: OnlineFilter, num_rollouts: int, rng: np.random.Generator | None = None) -> NDArray[np.float64]:
    """P(0 < k < n): the chance that the group gives a gradient (DPS, MoPPS, MaPP)."""
    return online.informative(num_rollouts, rng)


def reward_variance(
    online: OnlineFilter, num_rollouts: int, rng: np.random.Generator | None = None
) -> NDArray[np.float64]:
    """E[p (1 - p)], the variance of a rollout's reward: half the chance that two rollouts differ."""
    return 0.5 * online.informative(2, rng)


def half_solved(online: OnlineFilter, num_rollouts: int, rng: np.random.Generator | None = None) -> NDArray[np.float64]:
    """1 - |2 p - 1|: 1 at a success rate of one half, 0 at none and all."""
    return 1.0 - np.abs(2.0 * online.success_rate(rng) - 1.0)


SCORES: dict[str, Score] = {score.__name__: score for score in (informative, reward_variance, half_solved)}


def entropy(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    """(prompt,) entropy in nats of (prompt, outcome) probabilities."""
    return -np.sum(probability * np.log(np.maximum(probability, 1e-300)), axis=1)
