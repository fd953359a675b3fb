"""Forecast the recent rate at which a cluster's groups are informative: the plainest forecast that prompts share.

M = (M_0, M_1, M_2) counts the groups of each cluster in which none, some and all rollouts succeeded. At every step all
counts decay before the step's are added. The forecast for each of the cluster's prompts, seen or not, is

    P(outcome) = (M + prior * (1/4, 1/2, 1/4)) / (sum M + prior).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError
from promptdyn.history import outcome_of
from promptdyn.models.checks import check_decay
from promptdyn.online import OnlineModel, Pool

__all__ = ["InformativeRate", "OutcomeCounts"]

PRIOR_SHARES = np.array([0.25, 0.5, 0.25])


class OutcomeCounts(NamedTuple):
    """State of `InformativeRate`, for each cluster."""

    outcomes: NDArray[np.float64]  # (outcome cluster) discounted number of groups by outcome
    solved: NDArray[np.float64]  # (cluster,) discounted sum of the groups' success rates
    cluster: NDArray[np.int32]  # (prompt,) codes


@dataclass(frozen=True)
class InformativeRate(OnlineModel[OutcomeCounts]):
    """Forecasts outcomes by the discounted counts of a cluster's groups.

    Attributes:
        cluster: column(s) whose labels are the clusters. Default None: one rate for the whole pool.
        decay: share of the counts kept from one step to the next, in (0, 1]; default 0.98.
        prior: number of groups that the prior is worth, above 0; default 1. Half of them are informative.

    Raises:
        InputError: a setting is out of range.
    """

    cluster: str | tuple[str, ...] | None = None
    decay: float = 0.98
    prior: float = 1.0

    name = "rate"
    shared = ("outcomes", "solved")

    def __post_init__(self) -> None:
        check_decay(self.decay, "InformativeRate")
        if not 0 < self.prior < np.inf:
            raise InputError(f"InformativeRate: prior={self.prior} must be finite and above 0")

    def init(self, pool: Pool) -> OutcomeCounts:
        """Return a state without counts."""
        return OutcomeCounts(np.zeros((3, pool.num_clusters)), np.zeros(pool.num_clusters), pool.cluster)

    def step(
        self,
        state: OutcomeCounts,
        rows: NDArray[np.intp],
        num_successes: NDArray,
        num_rollouts: NDArray,
        trained: NDArray[np.bool_],
    ) -> OutcomeCounts:
        """Discount the counts and add the step's groups, in place. `trained` is not used."""
        outcomes, solved, cluster = state
        outcomes *= self.decay
        np.add.at(outcomes, (outcome_of(num_successes, num_rollouts), cluster[rows]), 1.0)
        solved *= self.decay
        np.add.at(solved, cluster[rows], num_successes / num_rollouts)
        return state

    def belief(self, state: OutcomeCounts) -> NDArray[np.float64]:
        """Return (outcome prompt) chances that none, some and all rollouts of a group succeed."""
        counts = state.outcomes + self.prior * PRIOR_SHARES[:, None]
        return (counts / counts.sum(axis=0))[:, state.cluster]

    def outcome(self, state: OutcomeCounts, num_rollouts: int | NDArray) -> NDArray[np.float64]:
        """Return the (outcome prompt) belief, which does not depend on `num_rollouts`."""
        return self.belief(state)

    def informative(
        self, state: OutcomeCounts, num_rollouts: int | NDArray, rng: np.random.Generator | None = None
    ) -> NDArray[np.float64]:
        """Return the (prompt,) rate of each prompt's cluster, for any `num_rollouts`; with `rng`, a Beta draw of it."""
        informative = state.outcomes[1] + 0.5 * self.prior
        others = state.outcomes[0] + state.outcomes[2] + 0.5 * self.prior
        rate = informative / (informative + others) if rng is None else rng.beta(informative, others)
        return rate[state.cluster]

    def success_rate(self, state: OutcomeCounts, rng: np.random.Generator | None = None) -> NDArray[np.float64]:
        """Return the (prompt,) mean success rate of the cluster's groups; with `rng`, a Beta draw of it."""
        total = state.outcomes.sum(axis=0)
        solved, failed = state.solved + 0.5 * self.prior, total - state.solved + 0.5 * self.prior
        rate = solved / (solved + failed) if rng is None else rng.beta(solved, failed)
        return rate[state.cluster]
