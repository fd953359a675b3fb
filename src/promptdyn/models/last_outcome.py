"""Forecast what followed the same outcome before: the observed Markov chain of outcomes, counted for each cluster.

A prompt's *last outcome* is that of its last group: none, some or all of the rollouts succeeded; or it was never
rolled out. M(next, last) counts the groups of a cluster by both; all counts decay at every step. With B the same counts
over the whole pool, the forecast for a prompt is

    P(next | last) = (M(next, last) + prior * Q(next | last)) / (sum M(., last) + prior)
    Q(next | last) = (B(next, last) + (1/4, 1/2, 1/4)) / (sum B(., last) + 1)

so that a cluster of which little was seen has the pool's chances.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError
from promptdyn.history import outcome_of
from promptdyn.models.checks import check_decay
from promptdyn.models.informative_rate import PRIOR_SHARES
from promptdyn.online import OnlineModel, Pool

__all__ = ["FollowingCounts", "LastOutcome"]

Floats = NDArray[np.float64]
NEVER = 3  # the last outcome of a prompt that was never rolled out


class FollowingCounts(NamedTuple):
    """State of `LastOutcome`, for each cluster and prompt."""

    counts: Floats  # (next last cluster) discounted number of groups
    last: NDArray[np.int8]  # (prompt,) last outcome
    cluster: NDArray[np.int32]  # (prompt,) codes


@dataclass(frozen=True)
class LastOutcome(OnlineModel[FollowingCounts]):
    """Forecasts outcomes by what followed the prompt's last outcome in its cluster.

    Attributes:
        cluster: column(s) whose labels are the clusters. Default None: one table for the whole pool.
        decay: share of the counts kept from one step to the next, in (0, 1]; default 0.995.
        prior: number of groups that the pool's chances are worth to a cluster, above 0; default 4.

    Raises:
        InputError: a setting is out of range.
    """

    cluster: str | tuple[str, ...] | None = None
    decay: float = 0.995
    prior: float = 4.0

    name = "last"
    shared = ("counts",)

    def __post_init__(self) -> None:
        check_decay(self.decay, "LastOutcome")
        if not 0 < self.prior < np.inf:
            raise InputError(f"LastOutcome: prior={self.prior} must be finite and above 0")

    def init(self, pool: Pool) -> FollowingCounts:
        """Return a state without counts."""
        last = np.full(pool.num_prompts, NEVER, np.int8)
        return FollowingCounts(np.zeros((3, 4, pool.num_clusters)), last, pool.cluster)

    def step(
        self,
        state: FollowingCounts,
        rows: NDArray[np.intp],
        num_successes: NDArray,
        num_rollouts: NDArray,
        trained: NDArray[np.bool_],
    ) -> FollowingCounts:
        """Discount the counts and add the step's groups, in place. `trained` is not used."""
        counts, last, cluster = state
        outcome = outcome_of(num_successes, num_rollouts)
        counts *= self.decay
        np.add.at(counts, (outcome, last[rows], cluster[rows]), 1.0)
        last[rows] = outcome
        return state

    def _expected(self, state: FollowingCounts) -> Floats:
        """Return (next last cluster) counts with the prior's."""
        pool = state.counts.sum(axis=2) + PRIOR_SHARES[:, None]
        return state.counts + self.prior * (pool / pool.sum(axis=0))[:, :, None]

    def belief(self, state: FollowingCounts) -> Floats:
        """Return (outcome prompt) chances that none, some and all rollouts of a group succeed."""
        expected = self._expected(state)
        return (expected / expected.sum(axis=0))[:, state.last, state.cluster]

    def outcome(self, state: FollowingCounts, num_rollouts: int | NDArray) -> Floats:
        """Return the (outcome prompt) belief, which does not depend on `num_rollouts`."""
        return self.belief(state)

    def informative(
        self, state: FollowingCounts, num_rollouts: int | NDArray, rng: np.random.Generator | None = None
    ) -> Floats:
        """Return (prompt,) chances of an informative group, for any `num_rollouts`; with `rng`, Dirichlet draws."""
        return self._chances(state, rng)[1][state.last, state.cluster]

    def success_rate(self, state: FollowingCounts, rng: np.random.Generator | None = None) -> Floats:
        """Return (prompt,) P(all) + P(some) / 2, as if half the rollouts of an informative group succeeded."""
        _, some, every = self._chances(state, rng)
        return (every + 0.5 * some)[state.last, state.cluster]

    def _chances(self, state: FollowingCounts, rng: np.random.Generator | None) -> Floats:
        """Return (next last cluster) chances; with `rng`, a draw of each cluster's."""
        expected = self._expected(state)
        if rng is not None:
            expected = np.maximum(rng.standard_gamma(expected), np.finfo(float).tiny)
        return expected / expected.sum(axis=0)
