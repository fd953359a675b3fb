"""A Kalman filter of each prompt's success rate on the logit scale, as in KGPS (arXiv 2607.27610).

The logit of a prompt's success rate is Normal(0, prior_variance) at first and follows a random walk. A group of n
rollouts with k successes is absorbed by Laplace's approximation, with the posterior's mode m as mean and the variance

    1 / (1 / v + n p (1 - p)),   p = sigmoid(m).

In KGPS the walk's noise depends on the size of the policy's update. This implementation uses instead the share of the
step's trained groups that had variance, which are those that moved the policy. KGPS selects by expected utility:
strategy "top" on this model's forecast, the mean of 1 - p^n - (1 - p)^n. No code or settings of its authors were found;
the defaults are this library's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtr

from promptdyn.errors import InputError
from promptdyn.online import OnlineModel, Pool

__all__ = ["LogitKalman", "LogitNormal"]

NUM_BINS = 10
NEWTON_STEPS = 25
# Nodes and weights of Gauss-Hermite quadrature, for means over a belief.
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(17)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


class LogitNormal(NamedTuple):
    """State of `LogitKalman`, for each prompt."""

    mean: NDArray[np.float64]  # (prompt,) mean of the success rate's logit
    variance: NDArray[np.float64]  # (prompt,) its variance


@dataclass(frozen=True)
class LogitKalman(OnlineModel[LogitNormal]):
    """A Kalman filter of the logit of each prompt's success rate, which follows a random walk.

    Attributes:
        prior_variance: initial variance of the logit, above 0; default 3.3, as of a success rate that is uniform
            between 0 and 1.
        process_noise: variance that a step adds if all of its trained groups had variance, at least 0; default 0.1.

    Raises:
        InputError: a setting is out of range.
    """

    prior_variance: float = 3.3
    process_noise: float = 0.1

    name = "kgps"

    def __post_init__(self) -> None:
        if not 0 < self.prior_variance < np.inf:
            raise InputError(f"LogitKalman: prior_variance={self.prior_variance} must be finite and above 0")
        if not 0 <= self.process_noise < np.inf:
            raise InputError(f"LogitKalman: process_noise={self.process_noise} must be finite and at least 0")

    def init(self, pool: Pool) -> LogitNormal:
        """Return the prior of every prompt."""
        return LogitNormal(np.zeros(pool.num_prompts), np.full(pool.num_prompts, self.prior_variance))

    def step(
        self,
        state: LogitNormal,
        rows: NDArray[np.intp],
        num_successes: NDArray,
        num_rollouts: NDArray,
        trained: NDArray[np.bool_],
    ) -> LogitNormal:
        """Absorb the groups, and add process noise to every prompt's variance, in place."""
        mean, variance = state
        prior_mean, precision = mean[rows], 1.0 / variance[rows]
        # The slope falls everywhere and is 0 at the mode, which lies between the prior's mean and this bound.
        residual = num_successes - num_rollouts * expit(prior_mean)
        bound = prior_mean + residual / precision
        low, high = np.minimum(prior_mean, bound), np.maximum(prior_mean, bound)
        mode = prior_mean.copy()
        for _ in range(NEWTON_STEPS):
            rate = expit(mode)
            slope = num_successes - num_rollouts * rate - precision * (mode - prior_mean)
            low, high = np.where(slope > 0, mode, low), np.where(slope < 0, mode, high)
            newton = mode + slope / (precision + num_rollouts * rate * (1.0 - rate))
            mode = np.where((newton >= low) & (newton <= high), newton, 0.5 * (low + high))
        rate = expit(mode)
        mean[rows], variance[rows] = mode, 1.0 / (precision + num_rollouts * rate * (1.0 - rate))
        varied = (num_successes > 0) & (num_successes < num_rollouts)
        if self.process_noise and trained.any():
            variance += self.process_noise * varied[trained].mean()
        return state

    def belief(self, state: LogitNormal) -> NDArray[np.float64]:
        """Return the (bin prompt) probability of the success rate in ten equal bins of [0, 1]."""
        inner = np.linspace(0.0, 1.0, NUM_BINS + 1)[1:-1]
        edges = np.concatenate([[-np.inf], np.log(inner / (1.0 - inner)), [np.inf]])[:, None]
        return np.diff(ndtr((edges - state.mean) / np.sqrt(state.variance)), axis=0)

    def outcome(self, state: LogitNormal, num_rollouts: int | NDArray) -> NDArray[np.float64]:
        """Return (outcome prompt) chances of k = 0, 0 < k < n and k = n, by quadrature over the belief."""
        none, every = np.zeros_like(state.mean), np.zeros_like(state.mean)
        deviation = np.sqrt(state.variance)
        for node, weight in zip(NODES, WEIGHTS, strict=True):
            rate = expit(state.mean + node * deviation)
            none += weight * (1.0 - rate) ** num_rollouts
            every += weight * rate**num_rollouts
        return np.stack([none, np.maximum(1.0 - none - every, 0.0), every])

    def informative(
        self, state: LogitNormal, num_rollouts: int | NDArray, rng: np.random.Generator | None = None
    ) -> NDArray[np.float64]:
        """Return (prompt,) means of 1 - p^n - (1 - p)^n; with `rng`, the value at one draw of p per prompt."""
        if rng is None:
            return self.outcome(state, num_rollouts)[1]
        rate = self.success_rate(state, rng)
        return 1.0 - rate**num_rollouts - (1.0 - rate) ** num_rollouts

    def success_rate(self, state: LogitNormal, rng: np.random.Generator | None = None) -> NDArray[np.float64]:
        """Return (prompt,) means of p by quadrature; with `rng`, one draw of each."""
        deviation = np.sqrt(state.variance)
        if rng is not None:
            return expit(state.mean + deviation * rng.standard_normal(state.mean.shape))
        return sum(weight * expit(state.mean + node * deviation) for node, weight in zip(NODES, WEIGHTS, strict=True))
