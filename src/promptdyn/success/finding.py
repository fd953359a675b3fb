"""Find a rule of success in rewards, where the user left it open."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from promptdyn.success.rewards import ROUNDING, Rewards
from promptdyn.success.rules import ANY, ONE_HALF, Condition, Conditions, short

__all__ = ["find"]


def find(requested: Conditions, seen: Rewards, many: bool, last: bool) -> Conditions | None:
    """Return the rule that the rewards so far determine; None while they determine none.

    Args:
        requested: the conditions that the user gave; bounds, or all of them, may be left open.
        seen: rewards of all rollouts so far.
        many: whether these are enough to find a bound for rewards of more than two values.
        last: whether to stop waiting for functions that have given only one value, or none.
    """
    if requested == ANY:
        return _auto(seen, many, last)
    rule = Conditions(
        tuple(
            tuple(_completed(condition, seen, many, last) for condition in conditions)
            for conditions in requested.alternatives
        )
    )
    return rule if rule.is_complete else None


def _completed(condition: Condition, seen: Rewards, many: bool, last: bool) -> Condition:
    """Return the condition with its bound, if the rewards determine it."""
    if condition.bound is not None:
        return condition
    values = seen.column(condition.function)
    levels = _levels(values)
    if not len(levels) or not (last or _shows_its_best(levels)):
        return condition
    down = condition.function in seen.functions and seen.weights[seen.functions.index(condition.function)] < 0
    if len(levels) <= 2:
        return _at_its_best(condition.function, levels, bool(down))
    if not many:
        return condition
    graded = values[~np.isnan(values)]
    bound = -_otsu_threshold(-graded) if down else _otsu_threshold(graded)
    return replace(condition, bound=bound, at_most=bool(down))


def _auto(seen: Rewards, many: bool, last: bool) -> Conditions | None:
    """Return the rule that "auto" finds in the rewards; None while they determine none."""
    deciding = [i for i, weight in enumerate(seen.weights) if weight != 0] or list(range(len(seen.weights)))
    levels = {i: _levels(seen.values[:, i]) for i in deciding}
    if not last and not all(_shows_its_best(values) for values in levels.values()):
        return None
    # In the end, functions that never showed their best are left out. If none did, a success is a new best reward.
    deciding = [i for i in deciding if _shows_its_best(levels[i])] or [i for i in deciding if len(levels[i])]
    if not deciding:
        return None
    if len(seen.functions) == 1 and seen.weights[0] == 1 and _zero_or_one(levels[0]):
        return ONE_HALF
    graded = ~np.isnan(seen.values[:, deciding])
    patterns = [[deciding[i] for i in np.flatnonzero(row)] for row in _largest_patterns(graded)]
    if all(len(levels[i]) <= 2 for i in deciding):
        best = {i: _at_its_best(seen.functions[i], levels[i], down=bool(seen.weights[i] < 0)) for i in deciding}
        return Conditions(tuple(tuple(best[i] for i in pattern) for pattern in patterns))
    if not many:
        return None
    counted = np.zeros(len(seen.values), bool)
    for pattern in patterns:
        counted |= ~np.isnan(seen.values[:, pattern]).any(axis=1)
    threshold = Condition(None, _otsu_threshold(seen.folded[counted]))
    if len(seen.functions) == 1:
        return Conditions(((threshold,),))
    # By the folded reward alone, a rollout that a function did not grade would count as a failure.
    return Conditions(
        tuple((*(Condition(seen.functions[i], -math.inf) for i in pattern), threshold) for pattern in patterns)
    )


def _levels(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return distinct values; values that differ by rounding only count as one."""
    distinct = np.unique(values[np.isfinite(values)])
    if not len(distinct):
        return distinct
    last_of_each = np.diff(distinct, append=np.inf) > ROUNDING * np.abs(distinct).max()
    return distinct[last_of_each]


def _zero_or_one(levels: NDArray[np.float64]) -> bool:
    return bool(np.all(np.minimum(np.abs(levels), np.abs(levels - 1.0)) <= ROUNDING))


def _shows_its_best(levels: NDArray[np.float64]) -> bool:
    """Whether a function's best reward is known. It is for rewards of 0 and 1, even before both have been seen."""
    return len(levels) > 1 or (len(levels) == 1 and _zero_or_one(levels))


def _at_its_best(function: str | None, levels: NDArray[np.float64], down: bool = False) -> Condition:
    """Return the condition that a function with one or two values gives the better one."""
    if _zero_or_one(levels):
        return Condition(function, 0.0 if down else 1.0, at_most=down)
    best = float(levels[0] if down else levels[-1])
    if len(levels) == 1:  # a better value has not been seen yet
        step = 1e-3 * max(1.0, abs(best))
        best += -step if down else step
    return Condition(function, float(short(best)), at_most=down)


def _largest_patterns(graded: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return (pattern function) sets of functions that grade rollouts together, without sets inside a larger one."""
    patterns = np.unique(graded[graded.any(axis=1)], axis=0)
    part_of = (patterns[:, None] <= patterns[None]).all(axis=2) & (patterns[:, None] != patterns[None]).any(axis=2)
    return patterns[~part_of.any(axis=1)][::-1]


def _otsu_threshold(values: NDArray[np.float64]) -> float:
    """Return the threshold that separates the rewards best (Otsu 1979), in few digits; 0.5 if it does so as well."""
    value, count = np.unique(values[np.isfinite(values)], return_counts=True)
    if len(value) < 2:
        return float(value[0]) if len(value) else 0.5
    # Maximize the variance between the two sides of a threshold between adjacent values.
    scaled = value / np.abs(value).max()
    below, total = np.cumsum(count)[:-1], np.cumsum(count * scaled)[:-1]
    above, rest = count.sum() - below, (count * scaled).sum() - total
    i = int(np.argmax(below * above * (total / below - rest / above) ** 2))
    threshold = float(np.format_float_positional(value[i] / 2 + value[i + 1] / 2, 3, fractional=False))
    if not value[i] < threshold <= value[i + 1]:
        threshold = float(value[i + 1])
    return 0.5 if value[i] < 0.5 <= value[i + 1] else threshold
