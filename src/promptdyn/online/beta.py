"""Forecasts from a Beta distribution of each prompt's success rate, and a chain filtered by such distributions."""

from __future__ import annotations

from abc import abstractmethod
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from promptdyn.history.events import exposure_of
from promptdyn.online.chain import FrozenChain
from promptdyn.online.model import OnlineModel
from promptdyn.online.pool import Pool
from promptdyn.online.recursion import State

__all__ = ["BetaForecasts", "DiscountedBeta", "DiscountedState"]

Floats = NDArray[np.float64]
NUM_BINS = 10
# Up to so many rollouts, products of as many factors cannot overflow.
FEW_ROLLOUTS = 16
# Prompts are worked on in blocks of this size, which stay in the CPU's cache.
BLOCK = 4096
# Tables over logits reach from -REACH to REACH in so many cells; a chain's drift changes slowly along them.
REACH, CELLS = 9.0, 1024
# Grid of the table from the moments of a logit to a Beta distribution.
MEANS, VARIANCES, LOG_VARIANCE = 361, 181, (np.log(1e-4), np.log(100.0))


class BetaForecasts(OnlineModel[State]):
    """Base class of online models whose beliefs are Beta distributions. A subclass has `init`, `step` and `betas`."""

    @abstractmethod
    def betas(self, state: State) -> tuple[Floats, Floats]:
        """Return the (prompt,) alpha and the (prompt,) beta of the success rates' Beta distributions."""

    def belief(self, state: State) -> Floats:
        """Return the (bin prompt) probability of the success rate in ten equal bins of [0, 1]."""
        from scipy.special import betainc

        edges = np.linspace(0.0, 1.0, NUM_BINS + 1)[:, None]
        return np.diff(betainc(*self.betas(state), edges), axis=0)

    def outcome(self, state: State, num_rollouts: int | NDArray) -> Floats:
        """Return (outcome prompt) beta-binomial chances of k = 0, 0 < k < n and k = n."""
        alpha, beta = self.betas(state)
        none, every = _all_or_none(alpha, beta, num_rollouts)
        return np.stack([none, np.maximum(1.0 - none - every, 0.0), every])

    def informative(self, state: State, num_rollouts: int | NDArray, rng: np.random.Generator | None = None) -> Floats:
        """Return (prompt,) E[1 - r^n - (1 - r)^n]; with `rng`, the value at one Thompson draw of r per prompt."""
        if rng is None:
            none, every = _all_or_none(*self.betas(state), num_rollouts)
            none += every
            return np.maximum(np.subtract(1.0, none, out=none), 0.0, out=none)
        rate = rng.beta(*self.betas(state))
        return 1.0 - rate**num_rollouts - (1.0 - rate) ** num_rollouts

    def success_rate(self, state: State, rng: np.random.Generator | None = None) -> Floats:
        """Return (prompt,) means of r; with `rng`, one draw of each."""
        alpha, beta = self.betas(state)
        return alpha / (alpha + beta) if rng is None else rng.beta(alpha, beta)


def _all_or_none(alpha: Floats, beta: Floats, num_rollouts: int | NDArray) -> tuple[Floats, Floats]:
    """Return (prompt,) E[(1 - r)^n] and (prompt,) E[r^n] under Beta(alpha, beta)."""
    if isinstance(num_rollouts, np.ndarray) or num_rollouts > FEW_ROLLOUTS:
        from scipy.special import betaln

        whole = betaln(alpha, beta)
        return np.exp(betaln(alpha, beta + num_rollouts) - whole), np.exp(betaln(alpha + num_rollouts, beta) - whole)
    none, every = np.empty_like(alpha), np.empty_like(alpha)
    for start in range(0, alpha.size, BLOCK):
        block = slice(start, start + BLOCK)
        whole = _rising(alpha[block] + beta[block], num_rollouts)
        np.divide(_rising(beta[block], num_rollouts), whole, out=none[block])
        np.divide(_rising(alpha[block], num_rollouts), whole, out=every[block])
    return none, every


def _rising(x: Floats, n: int) -> Floats:
    """Return x (x + 1) ... (x + n - 1), many times faster than with Gamma functions.

    Factors are taken in pairs from both ends: (x + i) (x + n - 1 - i) = u + i (n - 1 - i) with u = x (x + n - 1).
    """
    if n < 2:
        return x**n
    pair = x + (n - 1.0)
    pair *= x
    product = pair.copy()
    for i in range(1, n // 2):
        product *= pair + i * (n - 1.0 - i)
    if n % 2:
        product *= x + (n - 1.0) / 2.0
    return product


class DiscountedState(NamedTuple):
    """State of `DiscountedBeta`, for each prompt."""

    mean: Floats  # (prompt,) mean of the success rate's logit
    variance: Floats  # (prompt,) variance of the success rate's logit
    cluster: NDArray[np.int32]  # (prompt,) codes


class DiscountedBeta(BetaForecasts[DiscountedState]):
    """An approximate filter of a chain with two numbers per prompt: a dynamic generalized linear model.

    A prompt's success rate has a Beta distribution, which is conditioned on counts exactly, by conjugacy. A step then
    changes the mean and the variance of the rate's logit as the chain does at such rates, and continues with the Beta
    distribution that has the new mean and variance: counts are discounted (West, Harrison and Migon 1985). The filter
    is close to the exact one if beliefs have a single peak and the success rate is all that is hidden. Other hidden
    quantities, such as speeds, are averaged.

    Args:
        chain: the chain to follow. States with the same success rate are merged, by their initial probabilities.
    """

    def __init__(self, chain: FrozenChain) -> None:
        self.name, self.cluster, self._chain = chain.name, chain.cluster, chain
        # States that always or never fail are placed at the ends of the tables.
        end = 1.0 / (1.0 + np.exp(REACH))
        rates, group = np.unique(np.clip(chain.rates, end, 1.0 - end), return_inverse=True)
        logits = np.log(rates / (1.0 - rates))
        x = logits[group]
        num_clusters = max(len(chain.initial), chain.transition.shape[1])
        initial = np.broadcast_to(chain.initial, (num_clusters, len(x)))
        self._mean = initial @ x
        self._variance = np.maximum(initial @ x**2 - self._mean**2, np.exp(LOG_VARIANCE[0]))

        # For each state: the mean by which a step moves the logit, and the variance that it adds.
        moved = chain.transition @ x
        shift, spread = moved - x, chain.transition @ x**2 - moved**2
        weight = np.zeros((num_clusters, len(rates), len(x)))
        weight[:, group, np.arange(len(x))] = np.maximum(initial, np.finfo(float).tiny)
        weight /= weight.sum(axis=-1, keepdims=True)

        def table(by_state: Floats) -> Floats:
            """Turn (exposure cluster state) values into an (exposure, cluster x cell) table over logits."""
            by_state = np.broadcast_to(by_state, (len(by_state), num_clusters, len(x)))
            by_rate = np.einsum("cgs,ecs->ecg", weight, by_state)
            grid = np.linspace(-REACH, REACH, CELLS + 1)
            return np.stack([np.concatenate([np.interp(grid, logits, row) for row in level]) for level in by_rate])

        self._shift, self._spread = table(shift), table(spread)

    def describe(self) -> dict[str, Any]:
        """Return the chain's identity, marked as discounted."""
        return {**self._chain.describe(), "discounted": True}

    def init(self, pool: Pool) -> DiscountedState:
        """Return the pool's initial state; raises InputError if the chain does not know a label."""
        codes = self._chain.init(pool).cluster
        index = codes if len(self._mean) > 1 else np.zeros_like(codes)
        return DiscountedState(self._mean[index], self._variance[index], codes)

    def betas(self, state: DiscountedState) -> tuple[Floats, Floats]:
        """Return the (prompt,) alpha and the (prompt,) beta of the success rates' Beta distributions."""
        return _beta_of(state.mean, state.variance)

    def step(
        self,
        state: DiscountedState,
        rows: NDArray[np.intp],
        num_successes: NDArray,
        num_rollouts: NDArray,
        trained: NDArray[np.bool_],
    ) -> DiscountedState:
        """Condition the observed prompts on their counts, then move every prompt one step, in place."""
        from scipy.special import digamma, polygamma

        mean, variance, cluster = state
        alpha, beta = _beta_of(mean[rows], variance[rows])
        alpha, beta = alpha + num_successes, beta + (num_rollouts - num_successes)
        exposure = np.minimum(exposure_of(num_successes, num_rollouts, trained), len(self._shift) - 1)
        observed = digamma(alpha) - digamma(beta), polygamma(1, alpha) + polygamma(1, beta)
        moved = self._moved(*observed, cluster[rows], exposure)
        mean[:], variance[:] = self._moved(mean, variance, cluster, 0)
        mean[rows], variance[rows] = moved
        return state

    def _moved(
        self, mean: Floats, variance: Floats, cluster: NDArray, exposure: int | NDArray
    ) -> tuple[Floats, Floats]:
        """Return mean and variance after a step, from the table one standard deviation below and above the mean."""
        deviation = np.sqrt(variance)
        first = cluster * (CELLS + 1) if len(self._mean) > 1 else 0
        cells = [
            first + np.rint((np.clip(end, -REACH, REACH) + REACH) * (CELLS / (2.0 * REACH))).astype(np.int64)
            for end in (mean - deviation, mean + deviation)
        ]
        below, above = (self._shift[exposure, cell] for cell in cells)
        added = 0.5 * sum(self._spread[exposure, cell] for cell in cells)
        return mean + 0.5 * (below + above), added + (deviation + 0.5 * (above - below)) ** 2


@cache
def _betas() -> tuple[Floats, Floats]:
    """Return (mean log-variance) tables of log alpha and log beta, by Newton's method, small variances first."""
    from scipy.special import digamma, polygamma

    mean = np.linspace(-REACH, REACH, MEANS)
    log_variances = np.linspace(*LOG_VARIANCE, VARIANCES)
    small = np.exp(log_variances[0])
    # For a small variance alpha = (1 + e^mean) / variance and beta = (1 + e^-mean) / variance.
    a, b = np.log1p(np.exp(mean)) - np.log(small), np.log1p(np.exp(-mean)) - np.log(small)
    tables = np.empty((2, MEANS, VARIANCES))
    for column, log_variance in enumerate(log_variances):
        for _ in range(20):
            alpha, beta = np.exp(a), np.exp(b)
            trigammas = polygamma(1, alpha), polygamma(1, beta)
            total = trigammas[0] + trigammas[1]
            residuals = digamma(alpha) - digamma(beta) - mean, np.log(total) - log_variance
            slopes = (
                (alpha * trigammas[0], -beta * trigammas[1]),
                (alpha * polygamma(2, alpha) / total, beta * polygamma(2, beta) / total),
            )
            determinant = slopes[0][0] * slopes[1][1] - slopes[0][1] * slopes[1][0]
            a = a - np.clip((residuals[0] * slopes[1][1] - residuals[1] * slopes[0][1]) / determinant, -0.5, 0.5)
            b = b - np.clip((residuals[1] * slopes[0][0] - residuals[0] * slopes[1][0]) / determinant, -0.5, 0.5)
        tables[:, :, column] = a, b
    return tables[0], tables[1]


def _beta_of(mean: Floats, variance: Floats) -> tuple[Floats, Floats]:
    """Return alpha and beta of the Beta distributions whose logits have these means and variances, from tables."""
    low, high = LOG_VARIANCE
    across = (np.clip(mean, -REACH, REACH) + REACH) * ((MEANS - 1) / (2.0 * REACH))
    along = (np.clip(np.log(variance), low, high) - low) * ((VARIANCES - 1) / (high - low))
    i, j = (np.minimum(grid.astype(np.int64), size - 2) for grid, size in ((across, MEANS), (along, VARIANCES)))
    across, along = across - i, along - j
    alpha, beta = (
        np.exp(
            (1.0 - across) * ((1.0 - along) * table[i, j] + along * table[i, j + 1])
            + across * ((1.0 - along) * table[i + 1, j] + along * table[i + 1, j + 1])
        )
        for table in _betas()
    )
    return alpha, beta
