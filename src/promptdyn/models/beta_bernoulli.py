"""MoPPS, model predictive prompt selection (arXiv 2507.04632): a discounted Beta posterior per prompt.

Each prompt has a success rate r ~ Beta(alpha, beta). When its group of n rollouts shows k successes,

    alpha <- d * alpha + (1 - d) * alpha_0 + k
    beta  <- d * beta  + (1 - d) * beta_0  + n - k

and prompts that were not rolled out keep theirs. Published selection takes the prompts whose Thompson draw of r is
nearest to 1/2: policy "thompson" on the score "half_solved". (The score "informative" of a draw, 1 - r^n - (1 - r)^n,
falls with |r - 1/2| too, but with large n it is 1 to machine precision over much of the pool.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError
from promptdyn.models.base import Conjugate, check_decay

__all__ = ["BetaBernoulli", "BetaCounts"]

NUM_BINS = 10


class BetaCounts(NamedTuple):
    alpha: NDArray[np.float64]  # (prompt,)
    beta: NDArray[np.float64]  # (prompt,)


@dataclass(frozen=True)
class BetaBernoulli(Conjugate):
    """Discounted Beta-Bernoulli model of MoPPS.

    Attributes:
        decay: share of the old counts kept when a prompt is seen again, in (0, 1]. Published: 1.0 for MATH
            (the default), 0.5 for Countdown and Geometry3k.
        prior_alpha, prior_beta: the Beta prior, both > 0; default Beta(1, 1).

    Raises:
        InputError: a setting is out of range, naming it.
    """

    decay: float = 1.0
    prior_alpha: float = 1.0
    prior_beta: float = 1.0

    name = "mopps"

    def __post_init__(self) -> None:
        check_decay(self.decay, "BetaBernoulli")
        for setting in ("prior_alpha", "prior_beta"):
            if not 0 < getattr(self, setting) < np.inf:
                raise InputError(f"BetaBernoulli: {setting}={getattr(self, setting)} must be finite and above 0")

    def describe(self) -> dict[str, Any]:
        """Name and settings, JSON-able."""
        return {
            "name": self.name,
            "decay": self.decay,
            "prior_alpha": self.prior_alpha,
            "prior_beta": self.prior_beta,
        }

    def init(self, clusters: Sequence[str | None]) -> BetaCounts:
        """Fresh prompts at the prior. Clusters are not used."""
        return BetaCounts(
            np.full(len(clusters), float(self.prior_alpha)), np.full(len(clusters), float(self.prior_beta))
        )

    def step(
        self,
        state: BetaCounts,
        rows: NDArray[np.intp],
        num_successes: NDArray,
        num_rollouts: NDArray,
        trained: NDArray[np.bool_],
    ) -> BetaCounts:
        """Discount and add the counts of the prompts seen, in place; `trained` is not used."""
        old, new = self.decay, 1.0 - self.decay
        state.alpha[rows] = old * state.alpha[rows] + new * self.prior_alpha + num_successes
        state.beta[rows] = old * state.beta[rows] + new * self.prior_beta + (num_rollouts - num_successes)
        return state

    def belief(self, state: BetaCounts) -> NDArray[np.float64]:
        """(bin prompt): posterior mass of the success rate in ten equal bins of [0, 1]."""
        from scipy.special import betainc

        edges = np.linspace(0.0, 1.0, NUM_BINS + 1)[:, None]
        return np.diff(betainc(state.alpha, state.beta, edges), axis=0)

    def outcome(self, state: BetaCounts, num_rollouts: int | NDArray) -> NDArray[np.float64]:
        """(outcome prompt): beta-binomial chances of k = 0, 0 < k < n, k = n."""
        none = _all_of(state.beta, state.alpha, num_rollouts)
        every = _all_of(state.alpha, state.beta, num_rollouts)
        return np.stack([none, np.maximum(1.0 - none - every, 0.0), every])

    def informative(
        self, state: BetaCounts, num_rollouts: int | NDArray, rng: np.random.Generator | None = None
    ) -> NDArray[np.float64]:
        """(prompt,) E[1 - r^n - (1 - r)^n]; given `rng`, that of one Thompson draw of r per prompt."""
        if rng is None:
            return self.outcome(state, num_rollouts)[1]
        rate = rng.beta(state.alpha, state.beta)
        return 1.0 - rate**num_rollouts - (1.0 - rate) ** num_rollouts

    def success_rate(self, state: BetaCounts, rng: np.random.Generator | None = None) -> NDArray[np.float64]:
        """(prompt,) posterior mean of r; given `rng`, one draw."""
        if rng is None:
            return state.alpha / (state.alpha + state.beta)
        return rng.beta(state.alpha, state.beta)


def _all_of(alpha: NDArray, beta: NDArray, num_rollouts: int | NDArray) -> NDArray[np.float64]:
    """(prompt,) E[r^n] under Beta(alpha, beta): the product of (alpha + i) / (alpha + beta + i) for i < n."""
    n = np.broadcast_to(num_rollouts, alpha.shape)
    chance = np.ones_like(alpha)
    for i in range(int(n.max(initial=0))):
        chance *= np.where(i < n, (alpha + i) / (alpha + beta + i), 1.0)
    return chance
