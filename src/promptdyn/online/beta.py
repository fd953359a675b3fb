"""A Beta distribution of each prompt's success rate: what it forecasts, and a chain followed by its moments alone."""

from __future__ import annotations

from abc import abstractmethod
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from promptdyn.online.chain import FrozenChain
from promptdyn.online.model import OnlineModel, State
from promptdyn.online.pool import Pool

__all__ = ["BetaForecasts", "DiscountedBeta", "DiscountedState"]

Floats = NDArray[np.float64]
NUM_BINS = 10
# Up to so many rollouts products of their number cannot overflow.
FEW_ROLLOUTS = 16
# Prompts at a time: what is worked on stays in the CPU's cache.
BLOCK = 4096
# Logits that tables reach to, and their cells: what a chain does at a logit changes slowly with it.
REACH, CELLS = 9.0, 1024
# The table from moments of a logit to a Beta.
MEANS, VARIANCES, LOG_VARIANCE = 361, 181, (np.log(1e-4), np.log(100.0))


class BetaForecasts(OnlineModel[State]):
    """The base of online models whose beliefs are Betas: a subclass has `init`, `step` and `betas`."""

    @abstractmethod
    def betas(self, state: State) -> tuple[Floats, Floats]:
        """(prompt,) alpha and (prompt,) beta of the success rate."""

    def belief(self, state: State) -> Floats:
        """(bin prompt): mass of the success rate in ten equal bins of [0, 1]."""
        from scipy.special import betainc

        edges = np.linspace(0.0, 1.0, NUM_BINS + 1)[:, None]
        return np.diff(betainc(*self.betas(state), edges), axis=0)

    def outcome(self, state: State, num_rollouts: int | NDArray) -> Floats:
        """(outcome prompt): beta-binomial chances of k = 0, 0 < k < n, k = n."""
        alpha, beta = self.betas(state)
        none, every = _all_or_none(alpha, beta, num_rollouts)
        return np.stack([none, np.maximum(1.0 - none - every, 0.0), every])

    def informative(self, state: State, num_rollouts: int | NDArray, rng: np.random.Generator | None = None) -> Floats:
        """(prompt,) E[1 - r^n - (1 - r)^n]; given `rng`, that of one Thompson draw of r per prompt."""
        if rng is None:
            none, every = _all_or_none(*self.betas(state), num_rollouts)
            none += every
            return np.maximum(np.subtract(1.0, none, out=none), 0.0, out=none)
        rate = rng.beta(*self.betas(state))
        return 1.0 - rate**num_rollouts - (1.0 - rate) ** num_rollouts

    def success_rate(self, state: State, rng: np.random.Generator | None = None) -> Floats:
        """(prompt,) mean of r; given `rng`, one draw."""
        alpha, beta = self.betas(state)
        return alpha / (alpha + beta) if rng is None else rng.beta(alpha, beta)


def _all_or_none(alpha: Floats, beta: Floats, num_rollouts: int | NDArray) -> tuple[Floats, Floats]:
    """(prompt,) E[(1 - r)^n] and (prompt,) E[r^n] under Beta(alpha, beta)."""
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
    """x (x + 1) ... (x + n - 1), many times as fast as by Gamma functions.

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
    mean: Floats  # (prompt,) of the logit of the success rate
    variance: Floats  # (prompt,) likewise
    cluster: NDArray[np.int32]  # (prompt,) codes


class DiscountedBeta(BetaForecasts[DiscountedState]):
    """A chain's filter at the cost of two numbers a prompt, whatever its states: a dynamic generalized linear model.

    A prompt's success rate is Beta distributed. Counts are absorbed exactly, by conjugacy. A step then moves the mean
    of its logit and adds to its variance as the chain does at such success rates, and the Beta of the new mean and
    variance goes on: its counts are discounted (West, Harrison and Migon 1985). It is near to the exact filter where
    beliefs have one peak and nothing is hidden besides the rate; where there are speeds, they are averaged.

    Args:
        chain: to follow. States of one success rate are taken together, in the shares that they begin with.
    """

    def __init__(self, chain: FrozenChain) -> None:
        self.name, self.cluster, self._chain = chain.name, chain.cluster, chain
        # States that always fail, or never do, are as far out as the tables reach.
        end = 1.0 / (1.0 + np.exp(REACH))
        rates, group = np.unique(np.clip(chain.rates, end, 1.0 - end), return_inverse=True)
        logits = np.log(rates / (1.0 - rates))
        x = logits[group]
        num_clusters = max(len(chain.initial), chain.transition.shape[1])
        initial = np.broadcast_to(chain.initial, (num_clusters, len(x)))
        self._mean = initial @ x
        self._variance = np.maximum(initial @ x**2 - self._mean**2, np.exp(LOG_VARIANCE[0]))

        # From each state: by how much a step moves the logit in the mean, and the variance that it adds.
        moved = chain.transition @ x
        shift, spread = moved - x, chain.transition @ x**2 - moved**2
        weight = np.zeros((num_clusters, len(rates), len(x)))
        weight[:, group, np.arange(len(x))] = np.maximum(initial, np.finfo(float).tiny)
        weight /= weight.sum(axis=-1, keepdims=True)

        def table(of_state: Floats) -> Floats:
            """(exposure, cluster x cell) by logit, of (exposure cluster state)."""
            of_state = np.broadcast_to(of_state, (len(of_state), num_clusters, len(x)))
            by_rate = np.einsum("cgs,ecs->ecg", weight, of_state)
            at = np.linspace(-REACH, REACH, CELLS + 1)
            return np.stack([np.concatenate([np.interp(at, logits, row) for row in level]) for level in by_rate])

        self._shift, self._spread = table(shift), table(spread)

    def describe(self) -> dict[str, Any]:
        """That of the chain."""
        return {**self._chain.describe(), "discounted": True}

    def init(self, pool: Pool) -> DiscountedState:
        """Fresh prompts; InputError names a label that the chain does not know."""
        codes = self._chain.init(pool).cluster
        place = codes if len(self._mean) > 1 else np.zeros_like(codes)
        return DiscountedState(self._mean[place], self._variance[place], codes)

    def betas(self, state: DiscountedState) -> tuple[Floats, Floats]:
        """(prompt,) alpha and (prompt,) beta of the success rate."""
        return _beta_of(state.mean, state.variance)

    def step(
        self,
        state: DiscountedState,
        rows: NDArray[np.intp],
        num_successes: NDArray,
        num_rollouts: NDArray,
        trained: NDArray[np.bool_],
    ) -> DiscountedState:
        """Condition the prompts seen on their counts, then move every prompt one step, in place."""
        from scipy.special import digamma, polygamma

        mean, variance, cluster = state
        alpha, beta = _beta_of(mean[rows], variance[rows])
        alpha, beta = alpha + num_successes, beta + (num_rollouts - num_successes)
        flat = (num_successes == 0) | (num_successes == num_rollouts)
        exposure = np.minimum(np.where(trained, 1 + flat, 0), len(self._shift) - 1)
        seen = digamma(alpha) - digamma(beta), polygamma(1, alpha) + polygamma(1, beta)
        moved = self._moved(*seen, cluster[rows], exposure)
        mean[:], variance[:] = self._moved(mean, variance, cluster, 0)
        mean[rows], variance[rows] = moved
        return state

    def _moved(
        self, mean: Floats, variance: Floats, cluster: NDArray, exposure: int | NDArray
    ) -> tuple[Floats, Floats]:
        """Mean and variance after a step, from what the chain does a standard deviation below and above the mean."""
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
    """(mean log-variance) tables of log alpha and log beta, by Newton's method from small variances to large."""
    from scipy.special import digamma, polygamma

    mean = np.linspace(-REACH, REACH, MEANS)
    log_variances = np.linspace(*LOG_VARIANCE, VARIANCES)
    small = np.exp(log_variances[0])
    # Where the variance is small alpha = (1 + e^mean) / variance, and beta likewise.
    a, b = np.log1p(np.exp(mean)) - np.log(small), np.log1p(np.exp(-mean)) - np.log(small)
    tables = np.empty((2, MEANS, VARIANCES))
    for column, log_variance in enumerate(log_variances):
        for _ in range(20):
            alpha, beta = np.exp(a), np.exp(b)
            trigammas = polygamma(1, alpha), polygamma(1, beta)
            total = trigammas[0] + trigammas[1]
            wrong = digamma(alpha) - digamma(beta) - mean, np.log(total) - log_variance
            slopes = (
                (alpha * trigammas[0], -beta * trigammas[1]),
                (alpha * polygamma(2, alpha) / total, beta * polygamma(2, beta) / total),
            )
            determinant = slopes[0][0] * slopes[1][1] - slopes[0][1] * slopes[1][0]
            a = a - np.clip((wrong[0] * slopes[1][1] - wrong[1] * slopes[0][1]) / determinant, -0.5, 0.5)
            b = b - np.clip((wrong[1] * slopes[0][0] - wrong[0] * slopes[1][0]) / determinant, -0.5, 0.5)
        tables[:, :, column] = a, b
    return tables[0], tables[1]


def _beta_of(mean: Floats, variance: Floats) -> tuple[Floats, Floats]:
    """alpha and beta of the Beta whose logit has a mean and a variance, interpolated in tables."""
    low, high = LOG_VARIANCE
    across = (np.clip(mean, -REACH, REACH) + REACH) * ((MEANS - 1) / (2.0 * REACH))
    along = (np.clip(np.log(variance), low, high) - low) * ((VARIANCES - 1) / (high - low))
    i, j = (np.minimum(at.astype(np.int64), size - 2) for at, size in ((across, MEANS), (along, VARIANCES)))
    across, along = across - i, along - j
    alpha, beta = (
        np.exp(
            (1.0 - across) * ((1.0 - along) * table[i, j] + along * table[i, j + 1])
            + across * ((1.0 - along) * table[i + 1, j] + along * table[i + 1, j + 1])
        )
        for table in _betas()
    )
    return alpha, beta
