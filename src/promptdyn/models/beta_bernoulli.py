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
from promptdyn.online import BetaForecasts

__all__ = ["BetaBernoulli", "BetaCounts"]


class BetaCounts(NamedTuple):
    alpha: NDArray[np.float64]  # (prompt,)
    beta: NDArray[np.float64]  # (prompt,)


@dataclass(frozen=True)
class BetaBernoulli(BetaForecasts, Conjugate):
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
