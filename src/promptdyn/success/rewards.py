"""Rewards of rollouts, one a reward function, and what is equal within the rounding of single precision."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["FOLDED", "ROUNDING", "Rewards", "moments", "spread"]

# What a rule calls the folded reward, as TRL's logs do; and the name of a reward function that has none.
FOLDED = "reward"
# Rewards closer than this part of their size are equal: single precision holds 7 digits, and sums lose one or two.
ROUNDING = 1e-5


class Rewards(NamedTuple):
    """What each reward function gave each rollout."""

    functions: tuple[str, ...]
    weights: NDArray[np.float64]  # (function,)
    values: NDArray[np.float64]  # (rollout function), NaN where a function gave none

    @property
    def folded(self) -> NDArray[np.float64]:
        """(rollout,) weighted sum over the functions that gave a reward, as TRL folds it; NaN where none did."""
        with np.errstate(invalid="ignore"):  # an infinite reward at weight 0
            total = np.nansum(self.values * self.weights, axis=1)
        return np.where(np.isnan(self.values).all(axis=1), np.nan, total)

    def of(self, function: str | None) -> NDArray[np.float64]:
        """(rollout,) rewards of one function; the folded ones for None, and for "reward" unless a function has it."""
        if function is None or (function == FOLDED and FOLDED not in self.functions):
            return self.folded
        return self.values[:, self.functions.index(function)]


def spread(folded: NDArray[np.float64]) -> NDArray[np.float64]:
    """(group,) highest less lowest of rewards (group, rollout), without NaN; 0 where they differ by rounding only.

    A group without spread has no advantages, and gives GRPO no gradient.
    """
    graded = ~np.isnan(folded)
    low = np.where(graded, folded, np.inf).min(axis=1, initial=np.inf)
    high = np.where(graded, folded, -np.inf).max(axis=1, initial=-np.inf)
    some = graded.any(axis=1)
    low, high = np.where(some, low, 0.0), np.where(some, high, 0.0)
    return np.where(high - low > ROUNDING * np.maximum(1.0, np.maximum(abs(low), abs(high))), high - low, 0.0)


def moments(
    folded: NDArray[np.float64], group: NDArray[np.intp], num_groups: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(group,) mean and standard deviation (divisor n - 1, as TRL logs it; 0 for one) of the rewards of each group.

    Args:
        folded: (rollout,) rewards, NaN for none.
        group: (rollout,) index of each one's group.
        num_groups: how many groups there are; a group without rewards, or of rewards beyond single precision, has NaN.
    """
    there = np.isfinite(folded)
    folded, group = folded[there], group[there]
    n = np.bincount(group, minlength=num_groups)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        mean = np.bincount(group, folded, minlength=num_groups) / n
        squares = np.bincount(group, (folded - mean[group]) ** 2, minlength=num_groups)
        std = np.sqrt(squares / np.maximum(n - 1, 1))
        both = np.stack([mean, std]).astype(np.float32)
    both[:, ~np.isfinite(both).all(axis=0)] = np.nan
    return both[0], both[1]
