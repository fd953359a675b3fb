"""Emissions: how likely k successes in n rollouts are in each state, in array code for NumPy, JAX and torch.

Every emission is a distribution of k given n, so that likelihoods of models with different emissions can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from promptdyn.history import outcome_of
from promptdyn.models.base import Array

__all__ = ["BetaBinomial", "Binomial", "Ternary"]


Integers = NDArray[np.integer]


def _log_choose(num_successes: Integers, num_rollouts: Integers) -> NDArray[np.float64]:
    num_failures = num_rollouts - num_successes
    return gammaln(num_rollouts + 1.0) - gammaln(num_successes + 1.0) - gammaln(num_failures + 1.0)


@dataclass(frozen=True)
class Binomial:
    """k | state ~ Binomial(n, success_rates[state]).

    Attributes:
        success_rates: (state,) each inside (0, 1), so that every count is possible.
    """

    success_rates: Array

    def log_prob(self, num_successes: Integers, num_rollouts: Integers, xp: ModuleType = np) -> Array:
        """See `promptdyn.models.Emission`."""
        successes, failures = (
            xp.asarray(count.astype(float)) for count in (num_successes, num_rollouts - num_successes)
        )
        rates = self.success_rates[:, None]
        sequence = successes * xp.log(rates) + failures * xp.log1p(-rates)
        return xp.asarray(_log_choose(num_successes, num_rollouts)) + sequence


@dataclass(frozen=True)
class BetaBinomial:
    """k | state ~ BetaBinomial(n, p precision, (1 - p) precision): a group's success rate varies around its state's.

    Attributes:
        success_rates: (state,) p, each inside (0, 1).
        precision: () or (state,) above 0. As it grows, the distribution approaches `Binomial`.
    """

    success_rates: Array
    precision: Array

    def log_prob(self, num_successes: Integers, num_rollouts: Integers, xp: ModuleType = np) -> Array:
        """See `promptdyn.models.Emission`."""
        steps = xp.asarray(np.arange(max(int(num_rollouts.max(initial=0)), 1), dtype=float))
        succeed, fail = self.success_rates * self.precision, (1.0 - self.success_rates) * self.precision

        def rising(start: Array, times: NDArray) -> Array:
            """Return (state symbol) log of start (start + 1) ... (start + times - 1), without a gamma function."""
            logs = xp.log(start[:, None] + steps)
            return xp.cumulative_sum(logs, axis=-1, include_initial=True)[:, times]

        return (
            xp.asarray(_log_choose(num_successes, num_rollouts))
            + rising(succeed, num_successes)
            + rising(fail, num_rollouts - num_successes)
            - rising(succeed + fail, num_rollouts)
        )


@dataclass(frozen=True)
class Ternary:
    """The observation of DPS: in the states unsolved, partly solved and solved, none, some and all of a group succeed.

    The counts 1 to n - 1, which are "some", are equally likely. A group of one rollout cannot show "some": in the
    partly solved state it succeeds with chance 1/2.

    Attributes:
        noise: chance that a group shows another outcome than its state's, in [0, 1); default 0.
    """

    noise: float = 0.0

    def log_prob(self, num_successes: Integers, num_rollouts: Integers, xp: ModuleType = np) -> Array:
        """See `promptdyn.models.Emission`."""
        several = np.where(np.eye(3, dtype=bool), 1.0 - self.noise, self.noise / 2.0)
        single = np.array([[1.0 - self.noise, 0.0, self.noise], [0.5, 0.0, 0.5], [self.noise, 0.0, 1.0 - self.noise]])
        outcome = outcome_of(num_successes, num_rollouts)
        chance = np.where(num_rollouts == 1, single[:, outcome], several[:, outcome])
        chance = chance / np.where(outcome == 1, np.maximum(num_rollouts - 1, 1), 1)
        with np.errstate(divide="ignore"):
            return xp.asarray(np.log(np.where(num_rollouts == 0, 1.0, chance)))
