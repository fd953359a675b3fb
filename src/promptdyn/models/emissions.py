"""Emissions: how likely k successes in n rollouts are in each state. Pure array code for any array module."""

from __future__ import annotations

from math import lgamma
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["binomial", "outcome_of", "ternary"]


def outcome_of(num_rollouts: NDArray, num_successes: NDArray) -> NDArray[np.intp]:
    """Outcome of each group: 0 where none of n >= 1 rollouts succeeded, 1 some, 2 all."""
    return np.where(num_successes == 0, 0, np.where(num_successes == num_rollouts, 2, 1))


def binomial(success_rates: Any, counts: NDArray, xp: Any = np) -> Any:
    """(state symbol) log Binomial(k | n, p_state). Success rates must lie inside (0, 1)."""
    num_rollouts, num_successes = counts[:, 0].astype(float), counts[:, 1].astype(float)
    choose = np.array(
        [lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1) for n, k in zip(num_rollouts, num_successes, strict=True)]
    )
    rates = xp.asarray(success_rates)[:, None]
    return choose + num_successes * xp.log(rates) + (num_rollouts - num_successes) * xp.log1p(-rates)


def ternary(noise: float, counts: NDArray, xp: Any = np) -> Any:
    """(state symbol) log-probability of the outcome of a group in states unsolved, partly solved, solved.

    With probability `noise` the outcome shown is not the state's own: one of the other two. A group of one rollout
    cannot show "some"; it fails or succeeds with even chances in the partly solved state. Without noise this is the
    observation of DPS; a missing observation (n = 0) is 0 in every state.
    """
    several = np.where(np.eye(3, dtype=bool), 1.0 - noise, noise / 2.0)
    single = np.array([[1.0 - noise, 0.0, noise], [0.5, 0.0, 0.5], [noise, 0.0, 1.0 - noise]])
    outcome = outcome_of(*counts.T)
    chance = np.where(counts[:, 0] == 1, single[:, outcome], several[:, outcome])
    with np.errstate(divide="ignore"):
        return xp.asarray(np.log(np.where(counts[:, 0] == 0, 1.0, chance)))
