"""Emissions: how likely k successes in n rollouts are in each state. Pure array code for any array module.

Every emission is a distribution of k given n, so that models with different ones can be compared by likelihood.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from promptdyn.models.base import Array
from promptdyn.online import outcome_of

__all__ = ["BetaBinomial", "Binomial", "Ternary"]


def _log_choose(counts: NDArray) -> NDArray[np.float64]:
    n, k = counts.T
    return gammaln(n + 1.0) - gammaln(k + 1.0) - gammaln(n - k + 1.0)


@dataclass(frozen=True)
class Binomial:
    """k | state ~ Binomial(n, success_rates[state]).

    Attributes:
        success_rates: (state,) inside (0, 1), so that no count is impossible.
    """

    success_rates: Array

    def log_prob(self, counts: NDArray[np.integer], xp: ModuleType = np) -> Array:
        """(symbol, 2) num_rollouts, num_successes -> (state symbol)."""
        num_rollouts, num_successes = xp.asarray(counts.T.astype(float))
        rates = self.success_rates[:, None]
        chances = num_successes * xp.log(rates) + (num_rollouts - num_successes) * xp.log1p(-rates)
        return xp.asarray(_log_choose(counts)) + chances


@dataclass(frozen=True)
class BetaBinomial:
    """k | state ~ BetaBinomial(n, p precision, (1 - p) precision): a group's success rate varies around its state's.

    Attributes:
        success_rates: (state,) p, inside (0, 1).
        precision: () or (state,) above 0; towards infinity this is `Binomial`.
    """

    success_rates: Array
    precision: Array

    def log_prob(self, counts: NDArray[np.integer], xp: ModuleType = np) -> Array:
        """(symbol, 2) num_rollouts, num_successes -> (state symbol)."""
        num_rollouts, num_successes = counts.T
        steps = xp.asarray(np.arange(max(int(num_rollouts.max(initial=0)), 1), dtype=float))
        succeed, fail = self.success_rates * self.precision, (1.0 - self.success_rates) * self.precision

        def rising(start: Array, times: NDArray) -> Array:
            """(state symbol) log of start (start + 1) ... (start + times - 1), which needs no gamma function."""
            logs = xp.log(start[:, None] + steps)
            return xp.cumulative_sum(logs, axis=-1, include_initial=True)[:, times]

        return (
            xp.asarray(_log_choose(counts))
            + rising(succeed, num_successes)
            + rising(fail, num_rollouts - num_successes)
            - rising(succeed + fail, num_rollouts)
        )


@dataclass(frozen=True)
class Ternary:
    """States unsolved, partly solved and solved show none, some and all of a group: the observation of DPS.

    Of the counts 1 to n - 1 that are "some" each is as likely as the other. A group of one rollout cannot show "some":
    in the partly solved state it succeeds with an even chance.

    Attributes:
        noise: chance that a group shows an outcome other than its state's, in [0, 1); default 0.
    """

    noise: float = 0.0

    def log_prob(self, counts: NDArray[np.integer], xp: ModuleType = np) -> Array:
        """(symbol, 2) num_rollouts, num_successes -> (state symbol)."""
        num_rollouts, num_successes = counts.T
        several = np.where(np.eye(3, dtype=bool), 1.0 - self.noise, self.noise / 2.0)
        single = np.array([[1.0 - self.noise, 0.0, self.noise], [0.5, 0.0, 0.5], [self.noise, 0.0, 1.0 - self.noise]])
        outcome = outcome_of(num_successes, num_rollouts)
        chance = np.where(num_rollouts == 1, single[:, outcome], several[:, outcome])
        chance = chance / np.where(outcome == 1, np.maximum(num_rollouts - 1, 1), 1)
        with np.errstate(divide="ignore"):
            return xp.asarray(np.log(np.where(num_rollouts == 0, 1.0, chance)))
