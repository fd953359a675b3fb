"""How often a cluster's groups are informative, lately: the plainest forecast that is shared by prompts.

Of each cluster the groups that none, some and all of whose rollouts succeeded are counted, M = (M_0, M_1, M_2), and at
every step all counts decay before the step's are added. The forecast for each of its prompts, seen or not, is

    P(outcome) = (M + prior * (1/4, 1/2, 1/4)) / (sum M + prior).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError
from promptdyn.models.base import check_decay
from promptdyn.online import OnlineModel, Pool, outcome_of

__all__ = ["InformativeRate", "OutcomeCounts"]

PRIOR_SHARES = np.array([0.25, 0.5, 0.25])


class OutcomeCounts(NamedTuple):
    outcomes: NDArray[np.float64]  # (outcome cluster) groups none, some, all of whose rollouts succeeded, decayed
    solved: NDArray[np.float64]  # (cluster,) sum of the groups' success rates, decayed
    cluster: NDArray[np.int32]  # (prompt,) codes


@dataclass(frozen=True)
class InformativeRate(OnlineModel[OutcomeCounts]):
    """Outcomes of a cluster's groups, pooled over its prompts and decayed.

    Attributes:
        cluster: column(s) whose labels are the clusters. Default None: one rate for the whole pool.
        decay: share of the counts kept from one step to the next, in (0, 1]; default 0.98.
        prior: groups that the prior is worth, above 0; default 1. Half of them are informative.

    Raises:
        InputError: a setting is out of range, naming it.
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
        """Nothing counted."""
        return OutcomeCounts(np.zeros((3, pool.num_clusters)), np.zeros(pool.num_clusters), pool.cluster)

    def step(
        self,
        state: OutcomeCounts,
        rows: NDArray[np.intp],
        num_successes: NDArray,
        num_rollouts: NDArray,
        trained: NDArray[np.bool_],
    ) -> OutcomeCounts:
        """Decay, and count the groups, in place; `trained` is not used."""
        outcomes, solved, cluster = state
        outcomes *= self.decay
        np.add.at(outcomes, (outcome_of(num_successes, num_rollouts), cluster[rows]), 1.0)
        solved *= self.decay
        np.add.at(solved, cluster[rows], num_successes / num_rollouts)
        return state

    def belief(self, state: OutcomeCounts) -> NDArray[np.float64]:
        """(outcome prompt): chances that none, some, all of a group's rollouts succeed."""
        counts = state.outcomes + self.prior * PRIOR_SHARES[:, None]
        return (counts / counts.sum(axis=0))[:, state.cluster]

    def outcome(self, state: OutcomeCounts, num_rollouts: int | NDArray) -> NDArray[np.float64]:
        """(outcome prompt): the belief, whatever `num_rollouts`, since only outcomes were counted."""
        return self.belief(state)

    def informative(
        self, state: OutcomeCounts, num_rollouts: int | NDArray, rng: np.random.Generator | None = None
    ) -> NDArray[np.float64]:
        """(prompt,) the rate of the prompt's cluster, whatever `num_rollouts`; given `rng`, a Beta draw per cluster."""
        informative = state.outcomes[1] + 0.5 * self.prior
        others = state.outcomes[0] + state.outcomes[2] + 0.5 * self.prior
        rate = informative / (informative + others) if rng is None else rng.beta(informative, others)
        return rate[state.cluster]

    def success_rate(self, state: OutcomeCounts, rng: np.random.Generator | None = None) -> NDArray[np.float64]:
        """(prompt,) mean success rate of the cluster's groups; given `rng`, a Beta draw per cluster."""
        total = state.outcomes.sum(axis=0)
        solved, failed = state.solved + 0.5 * self.prior, total - state.solved + 0.5 * self.prior
        rate = solved / (solved + failed) if rng is None else rng.beta(solved, failed)
        return rate[state.cluster]
