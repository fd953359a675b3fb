"""MoPPS, model predictive prompt selection (arXiv 2507.04632): a discounted Beta posterior per prompt, or pooled.

Each prompt has a success rate r ~ Beta(alpha, beta). When its group of n rollouts shows k successes,

    alpha <- d * alpha + (1 - d) * alpha_0 + k
    beta  <- d * beta  + (1 - d) * beta_0  + n - k

and prompts that were not rolled out keep theirs. The published method takes the prompts whose Thompson draw of r is
nearest to 1/2: strategy "thompson" with score "half_solved". (The score "informative" of a draw, 1 - r^n - (1 - r)^n,
also falls with |r - 1/2|, but for large n it is 1 to machine precision over much of the pool.)

With clusters, a prompt's prior is Beta(s m, s (1 - m)), where m is the success rate of all the cluster's rollouts,
decayed at every step, under the prior Beta(alpha_0, beta_0). A prompt that was never rolled out has its cluster's
forecast; another one's moves away from it by the prompt's own counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError
from promptdyn.models.checks import check_decay
from promptdyn.online import BetaForecasts, Pool

__all__ = ["BetaBernoulli", "BetaCounts"]


class BetaCounts(NamedTuple):
    """State of `BetaBernoulli`, for each prompt and cluster."""

    own: NDArray[np.float64]  # (2, prompt) discounted successes and failures, when the prompt was last seen
    weight: NDArray[np.float64]  # (prompt,) share of them that is left since
    pooled: NDArray[np.float64]  # (2, cluster) discounted successes and failures of the cluster
    cluster: NDArray[np.int32]  # (prompt,) codes


@dataclass(frozen=True)
class BetaBernoulli(BetaForecasts[BetaCounts]):
    """Discounted Beta-Bernoulli model: MoPPS, or pooled over clusters.

    Attributes:
        decay: share of a prompt's counts kept when it is seen again, in (0, 1]. Default 1, as published for MATH; 0.5
            was published for Countdown and Geometry3k.
        prior_alpha, prior_beta: parameters of the Beta prior, both above 0; default Beta(1, 1). With clusters, it is
            the prior of their rates.
        cluster: column(s) whose labels are clusters that share a success rate. Default None: no clusters.
        strength: number of rollouts that the cluster's rate is worth to each prompt, above 0; default 4. Used with
            clusters only.
        cluster_decay: share of a cluster's counts kept from one step to the next, in (0, 1]; default 0.9.
        step_decay: share of a prompt's counts kept from one step to the next, in (0, 1]; default 1, as published.

    Raises:
        InputError: a setting is out of range.
    """

    decay: float = 1.0
    prior_alpha: float = 1.0
    prior_beta: float = 1.0
    cluster: str | tuple[str, ...] | None = None
    strength: float = 4.0
    cluster_decay: float = 0.9
    step_decay: float = 1.0

    name = "mopps"
    shared = ("pooled",)

    def __post_init__(self) -> None:
        for setting in ("decay", "cluster_decay", "step_decay"):
            check_decay(getattr(self, setting), "BetaBernoulli", setting)
        for setting in ("prior_alpha", "prior_beta", "strength"):
            if not 0 < getattr(self, setting) < np.inf:
                raise InputError(f"BetaBernoulli: {setting}={getattr(self, setting)} must be finite and above 0")

    def init(self, pool: Pool) -> BetaCounts:
        """Return a state without counts."""
        own, pooled = np.zeros((2, pool.num_prompts)), np.zeros((2, pool.num_clusters))
        return BetaCounts(own, np.ones(pool.num_prompts), pooled, pool.cluster)

    def betas(self, state: BetaCounts) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See `BetaForecasts.betas`."""
        own = state.own if self.step_decay == 1.0 else state.own * state.weight
        if self.cluster is None:
            return own[0] + self.prior_alpha, own[1] + self.prior_beta
        alpha, beta = state.pooled[0] + self.prior_alpha, state.pooled[1] + self.prior_beta
        scale = self.strength / (alpha + beta)
        return own[0] + (scale * alpha)[state.cluster], own[1] + (scale * beta)[state.cluster]

    def step(
        self,
        state: BetaCounts,
        rows: NDArray[np.intp],
        num_successes: NDArray,
        num_rollouts: NDArray,
        trained: NDArray[np.bool_],
    ) -> BetaCounts:
        """Discount the counts of prompts and clusters and add the step's, in place. `trained` is not used."""
        own, weight, pooled, cluster = state
        counts = np.stack([num_successes, num_rollouts - num_successes])
        own[:, rows] = self.decay * weight[rows] * own[:, rows] + counts
        if self.step_decay < 1.0:
            weight *= self.step_decay
            weight[weight < 1e-20] = 0.0  # below rounding error; denormal numbers would be slow
            weight[rows] = 1.0
        pooled *= self.cluster_decay
        np.add.at(pooled.T, cluster[rows], counts.T)
        return state
