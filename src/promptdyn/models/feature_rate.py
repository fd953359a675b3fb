"""Forecast from features of prompts how likely their groups are informative, for pools without labels.

The model is two logistic regressions on random Fourier features phi(x) of a prompt's features x (Rahimi & Recht
2007). Their weights drift about the prior Normal(0, S):

    logit P(some succeed)          = w_1 . phi(x)
    logit P(all succeed, not some) = w_2 . phi(x)
    w_{t+1} = sqrt(decay) w_t + Normal(0, (1 - decay) S)

The posterior of the weights is a Gaussian. A step's drift changes it exactly; its groups are absorbed by Laplace's
approximation (Rasmussen & Williams 2006, algorithm 3.1), which costs num_functions^2 per group, whatever the size of
the pool. Forecasts are computed at the posterior's mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from promptdyn.errors import InputError
from promptdyn.features import random_functions
from promptdyn.history import outcome_of
from promptdyn.models.checks import check_decay, check_whole
from promptdyn.online import OnlineModel, Pool
from promptdyn.online.regression import absorb, draw_weights, drift

__all__ = ["FeatureRate", "FeatureWeights"]

# Prior variance of the constant's weight. Those of the random functions have 1, which adds up to 1 at any prompt.
CONSTANT_VARIANCE = 4.0


class FeatureWeights(NamedTuple):
    """State of `FeatureRate`: the posterior of its weights, and the prompts' features."""

    mean: NDArray[np.float64]  # (regression function) of the weights
    covariance: NDArray[np.float64]  # (regression function function) of the weights
    features: NDArray[np.float32]  # (feature prompt)
    basis: NDArray[np.float32]  # (function prompt) phi: the constant 1 and the random functions


@dataclass(frozen=True)
class FeatureRate(OnlineModel[FeatureWeights]):
    """Forecasts the outcomes of groups by logistic regression on features of the prompts.

    Attributes:
        features: "policy" (default), the policy's own reading of each prompt (`promptdyn.training.reading`), or
            column(s) of the dataset with numbers or vectors of numbers.
        num_functions: number of random Fourier features; default 200.
        scale: length scale of the random functions, above 0; default 0.8. Prompts whose features differ by less (in
            root mean square, over features of variance 1) have similar forecasts.
        decay: correlation of the weights' variance from one step to the next, in (0, 1]; default 0.99. With 1, weights
            do not drift.
        seed: seed of the random functions; default 0.

    Raises:
        InputError: a setting is out of range.
    """

    features: str | tuple[str, ...] = "policy"
    num_functions: int = 200
    scale: float = 0.8
    decay: float = 0.99
    seed: int = 0

    name = "features"
    shared = ("mean", "covariance")
    derived = ("basis",)
    at_mean = True

    def __post_init__(self) -> None:
        check_decay(self.decay, "FeatureRate")
        check_whole(self, "num_functions", 1)
        check_whole(self, "seed", 0)
        if not 0 < self.scale < np.inf:
            raise InputError(f"FeatureRate: scale={self.scale} must be finite and above 0")

    @property
    def _prior(self) -> NDArray[np.float64]:
        """(function,) prior variances."""
        return np.append(CONSTANT_VARIANCE, np.ones(self.num_functions))

    def init(self, pool: Pool) -> FeatureWeights:
        """Return the prior of the weights, and the functions of the prompts' features."""
        features = pool.features
        assert features is not None
        basis = np.ones((self.num_functions + 1, len(features)), np.float32)
        basis[1:] = random_functions(features, self.num_functions, self.scale, self.seed)
        covariance = np.stack([np.diag(self._prior)] * 2)
        return FeatureWeights(np.zeros((2, len(basis))), covariance, np.ascontiguousarray(features.T), basis)

    def step(
        self,
        state: FeatureWeights,
        rows: NDArray[np.intp],
        num_successes: NDArray,
        num_rollouts: NDArray,
        trained: NDArray[np.bool_],
    ) -> FeatureWeights:
        """Let the weights drift and absorb the groups, in place. `trained` is not used."""
        mean, covariance, _, basis = state
        drift(mean, covariance, 0.0, self._prior, self.decay)
        outcome = outcome_of(num_successes, num_rollouts)
        # The first regression learns from all groups, the second from those with no or all successes.
        for i, (used, positive) in enumerate(((outcome >= 0, outcome == 1), (outcome != 1, outcome == 2))):
            inputs = basis[:, rows[used]].astype(float)
            absorb(mean[i], covariance[i], inputs, positive[used].astype(float))
        return state

    def _logits(
        self, state: FeatureWeights, rng: np.random.Generator | None = None, regressions: slice = slice(None)
    ) -> NDArray[np.float64]:
        """Return (regression prompt) logits at the mean of the weights; with `rng`, at one draw for all prompts."""
        weights = state.mean[regressions]
        if rng is not None:
            weights = draw_weights(weights, state.covariance[regressions], rng)
        return (weights.astype(np.float32) @ state.basis).astype(float)

    def belief(self, state: FeatureWeights) -> NDArray[np.float64]:
        """Return (outcome prompt) chances that none, some and all rollouts of a group succeed."""
        some, every = expit(self._logits(state))
        return np.stack([(1.0 - some) * (1.0 - every), some, (1.0 - some) * every])

    def outcome(self, state: FeatureWeights, num_rollouts: int | NDArray) -> NDArray[np.float64]:
        """Return the (outcome prompt) belief, which does not depend on `num_rollouts`."""
        return self.belief(state)

    def informative(
        self, state: FeatureWeights, num_rollouts: int | NDArray, rng: np.random.Generator | None = None
    ) -> NDArray[np.float64]:
        """Return (prompt,) chances of an informative group, for any `num_rollouts`; with `rng`, at drawn weights."""
        return expit(self._logits(state, rng, slice(1))[0])

    def success_rate(self, state: FeatureWeights, rng: np.random.Generator | None = None) -> NDArray[np.float64]:
        """Return (prompt,) P(all) + P(some) / 2, as if half the rollouts of an informative group succeeded."""
        some, every = expit(self._logits(state, rng))
        return (1.0 - some) * every + 0.5 * some
