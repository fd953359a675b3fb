"""Rewards of rollouts, one per reward function, compared within the rounding of single precision."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["FOLDED", "ROUNDING", "Rewards", "moments", "spread"]

# The folded reward's name in a rule, as in TRL's logs, and the name of a reward function that has no name.
FOLDED = "reward"
# Rewards whose relative difference is below this are equal: single precision has 7 digits, and sums lose one or two.
ROUNDING = 1e-5


class Rewards(NamedTuple):
    """The rewards that each reward function gave to each rollout."""

    functions: tuple[str, ...]
    weights: NDArray[np.float64]  # (function,)
    values: NDArray[np.float64]  # (rollout function), NaN where a function gave none

    @property
    def folded(self) -> NDArray[np.float64]:
        """(rollout,) weighted sum over the functions that gave a reward, as in TRL; NaN if none did."""
        with np.errstate(invalid="ignore"):  # an infinite reward may have weight 0
            total = np.nansum(self.values * self.weights, axis=1)
        return np.where(np.isnan(self.values).all(axis=1), np.nan, total)

    def column(self, function: str | None) -> NDArray[np.float64]:
        """Return (rollout,) rewards of a function; None, and "reward" if no function has that name, mean the folded."""
        if function is None or (function == FOLDED and FOLDED not in self.functions):
            return self.folded
        return self.values[:, self.functions.index(function)]


def spread(folded: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (group,) the range of (group, rollout) rewards, NaN left out; 0 if they differ by rounding only.

    A group without spread has no advantages, and gives GRPO no gradient.
    """
    graded = ~np.isnan(folded)
    low = np.where(graded, folded, np.inf).min(axis=1, initial=np.inf)
    high = np.where(graded, folded, -np.inf).max(axis=1, initial=-np.inf)
    any_graded = graded.any(axis=1)
    low, high = np.where(any_graded, low, 0.0), np.where(any_graded, high, 0.0)
    return np.where(high - low > ROUNDING * np.maximum(1.0, np.maximum(abs(low), abs(high))), high - low, 0.0)


def moments(
    folded: NDArray[np.float64], group: NDArray[np.intp], num_groups: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return (group,) means and (group,) standard deviations of rewards, of divisor n - 1 as TRL logs them.

    The deviation of a single reward is 0. A group without rewards, or with rewards beyond single precision, has NaN.

    Args:
        folded: (rollout,) rewards, NaN for none.
        group: (rollout,) index of each rollout's group.
        num_groups: number of groups.
    """
    finite = np.isfinite(folded)
    folded, group = folded[finite], group[finite]
    n = np.bincount(group, minlength=num_groups)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        mean = np.bincount(group, folded, minlength=num_groups) / n
        squares = np.bincount(group, (folded - mean[group]) ** 2, minlength=num_groups)
        std = np.sqrt(squares / np.maximum(n - 1, 1))
        both = np.stack([mean, std]).astype(np.float32)
    both[:, ~np.isfinite(both).all(axis=0)] = np.nan
    return both[0], both[1]
