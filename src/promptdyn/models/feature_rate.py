"""How likely a prompt's group is informative, told from features of the prompt: for pools without labels.

Two logistic regressions on random Fourier features phi(x) of a prompt's features x (Rahimi & Recht 2007), whose
weights drift about their prior Normal(0, S):

    logit P(some succeed)          = w_1 . phi(x)
    logit P(all succeed, not some) = w_2 . phi(x)
    w_{t+1} = sqrt(decay) w_t + Normal(0, (1 - decay) S)

The weights' posterior is kept as a Gaussian: a step moves it exactly, and its groups are absorbed by Laplace's
approximation (Rasmussen & Williams 2006, algorithm 3.1) at num_functions^2 a group, however large the pool. A forecast
is that of the posterior's mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.special import expit

from promptdyn.errors import InputError
from promptdyn.models.base import check_decay, check_whole
from promptdyn.online import OnlineModel, Pool, outcome_of

__all__ = ["FeatureRate", "FeatureWeights"]

# Of the constant's weight; those of the random functions have prior variance 1, which together is 1 at any prompt.
CONSTANT_VARIANCE = 4.0
# Groups absorbed at a time, and Newton's iterations at most: it converges in a few.
GROUPS, ITERATIONS = 64, 25
TOLERANCE = 1e-8


class FeatureWeights(NamedTuple):
    mean: NDArray[np.float64]  # (regression function) of the weights
    covariance: NDArray[np.float64]  # (regression function function)
    features: NDArray[np.float32]  # (feature prompt)
    basis: NDArray[np.float32]  # (function prompt) phi: 1, and the random functions


@dataclass(frozen=True)
class FeatureRate(OnlineModel[FeatureWeights]):
    """Outcomes of groups by logistic regression on features of the prompts.

    Attributes:
        features: where a trainer takes them from: "policy" (default), the policy's own reading of each prompt
            (`promptdyn.features.PolicyReader`), or column(s) of the dataset with numbers or vectors of numbers.
        num_functions: random Fourier features; default 200.
        scale: their length scale, above 0: prompts whose features differ by less, in root mean square over features of
            variance 1, are forecast alike; default 0.8.
        decay: what a step leaves of the weights' covariance with their past, in (0, 1]; default 0.99.
        seed: of the random functions; default 0.

    Raises:
        InputError: a setting is out of range, naming it.
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
        """(function,) variances."""
        return np.append(CONSTANT_VARIANCE, np.ones(self.num_functions))

    def init(self, pool: Pool) -> FeatureWeights:
        """The prior, and the functions of the prompts' features."""
        features = pool.features
        assert features is not None
        num_features = features.shape[1]
        rng = np.random.default_rng(self.seed)
        directions = rng.normal(size=(self.num_functions, num_features)) / (self.scale * np.sqrt(num_features))
        phase = rng.uniform(0.0, 2.0 * np.pi, self.num_functions)
        basis = np.ones((self.num_functions + 1, len(features)), np.float32)
        angle = directions.astype(np.float32) @ features.T + phase.astype(np.float32)[:, None]
        np.multiply(np.cos(angle, out=angle), np.float32(np.sqrt(2.0 / self.num_functions)), out=basis[1:])
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
        """Move the weights by a step and absorb the groups, in place; `trained` is not used."""
        mean, covariance, _, basis = state
        mean *= np.sqrt(self.decay)
        covariance *= self.decay
        covariance[:, np.arange(len(basis)), np.arange(len(basis))] += (1.0 - self.decay) * self._prior
        outcome = outcome_of(num_successes, num_rollouts)
        for which, (kept, shown) in enumerate(((outcome >= 0, outcome == 1), (outcome != 1, outcome == 2))):
            chosen, label = rows[kept], shown[kept].astype(float)
            for start in range(0, len(chosen), GROUPS):
                part = slice(start, start + GROUPS)
                _absorb(mean[which], covariance[which], basis[:, chosen[part]].astype(float), label[part])
        return state

    def _logits(
        self, state: FeatureWeights, rng: np.random.Generator | None = None, which: slice = slice(None)
    ) -> NDArray[np.float64]:
        """(regression prompt) at the mean of the weights; given `rng`, at a draw of them, one for all prompts."""
        weights = state.mean[which]
        if rng is not None:
            roots = np.linalg.cholesky(state.covariance[which])
            weights = weights + np.einsum("rij,rj->ri", roots, rng.standard_normal(weights.shape))
        return (weights.astype(np.float32) @ state.basis).astype(float)

    def belief(self, state: FeatureWeights) -> NDArray[np.float64]:
        """(outcome prompt): chances that none, some, all of a group's rollouts succeed."""
        some, whole = expit(self._logits(state))
        return np.stack([(1.0 - some) * (1.0 - whole), some, (1.0 - some) * whole])

    def outcome(self, state: FeatureWeights, num_rollouts: int | NDArray) -> NDArray[np.float64]:
        """(outcome prompt): the belief, whatever `num_rollouts`, since only outcomes are learned from."""
        return self.belief(state)

    def informative(
        self, state: FeatureWeights, num_rollouts: int | NDArray, rng: np.random.Generator | None = None
    ) -> NDArray[np.float64]:
        """(prompt,) chance of an informative group, whatever `num_rollouts`; given `rng`, at a draw of the weights."""
        return expit(self._logits(state, rng, slice(1))[0])

    def success_rate(self, state: FeatureWeights, rng: np.random.Generator | None = None) -> NDArray[np.float64]:
        """(prompt,) P(all) + P(some) / 2, since half of an informative group's rollouts succeed, for all one knows."""
        some, whole = expit(self._logits(state, rng))
        return (1.0 - some) * whole + 0.5 * some


def _absorb(
    mean: NDArray[np.float64],
    covariance: NDArray[np.float64],
    basis: NDArray[np.float64],
    label: NDArray[np.float64],
) -> None:
    """Laplace's approximation to the weights' posterior given 0/1 labels (group,) at basis (function group), in place.

    In the space of the groups' logits, whose prior covariance is K = basis' covariance basis.
    """
    reach = covariance @ basis
    prior, between = basis.T @ mean, basis.T @ reach
    logit, pull = prior, np.zeros_like(label)
    for _ in range(ITERATIONS):
        chance = expit(logit)
        root = np.sqrt(np.maximum(chance * (1.0 - chance), 1e-12))
        factor = cho_factor(np.eye(len(label)) + root[:, None] * between * root)
        toward = root**2 * (logit - prior) + label - chance
        pull = toward - root * cho_solve(factor, root * (between @ toward))
        before, logit = logit, prior + between @ pull
        if np.abs(logit - before).max() < TOLERANCE:
            break
    mean += reach @ pull
    chance = expit(logit)
    root = np.sqrt(np.maximum(chance * (1.0 - chance), 1e-12))
    factor = cho_factor(np.eye(len(label)) + root[:, None] * between * root)
    seen = reach * root
    covariance -= seen @ cho_solve(factor, seen.T)
