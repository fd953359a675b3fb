"""How a rule of success is found in rewards, where it is not given."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from promptdyn.success.rewards import ROUNDING, Rewards
from promptdyn.success.rules import ANY, ONE_HALF, Condition, Conditions, short

__all__ = ["find"]


def find(wanted: Conditions, seen: Rewards, many: bool, last: bool) -> Conditions | None:
    """The rule in force by what was seen; None while it cannot be told.

    Args:
        wanted: the conditions that are given, bounds or all of them left open.
        seen: rewards of all rollouts so far.
        many: whether that is enough for rewards of more than two values.
        last: whether functions that gave one value only, or none, are waited for no longer.
    """
    if wanted == ANY:
        return _auto(seen, many, last)
    rule = Conditions(
        tuple(
            tuple(_completed(condition, seen, many, last) for condition in conditions)
            for conditions in wanted.alternatives
        )
    )
    return rule if rule.is_complete else None


def _completed(condition: Condition, seen: Rewards, many: bool, last: bool) -> Condition:
    """A condition with its bound found, if it can be told."""
    if condition.bound is not None:
        return condition
    values = seen.of(condition.function)
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
    """The rule that "auto" finds in rewards; None while it cannot be told."""
    decide = [i for i, weight in enumerate(seen.weights) if weight != 0] or list(range(len(seen.weights)))
    levels = {i: _levels(seen.values[:, i]) for i in decide}
    if not last and not all(_shows_its_best(values) for values in levels.values()):
        return None
    # In the end functions that never showed their best are left out. Where none did, better than ever is a success.
    decide = [i for i in decide if _shows_its_best(levels[i])] or [i for i in decide if len(levels[i])]
    if not decide:
        return None
    if len(seen.functions) == 1 and seen.weights[0] == 1 and _zero_or_one(levels[0]):
        return ONE_HALF
    given = ~np.isnan(seen.values[:, decide])
    patterns = [[decide[i] for i in np.flatnonzero(row)] for row in _largest_patterns(given)]
    if all(len(levels[i]) <= 2 for i in decide):
        best = {i: _at_its_best(seen.functions[i], levels[i], down=bool(seen.weights[i] < 0)) for i in decide}
        return Conditions(tuple(tuple(best[i] for i in pattern) for pattern in patterns))
    if not many:
        return None
    counted = np.zeros(len(seen.values), bool)
    for pattern in patterns:
        counted |= ~np.isnan(seen.values[:, pattern]).any(axis=1)
    threshold = Condition(None, _otsu_threshold(seen.folded[counted]))
    if len(seen.functions) == 1:
        return Conditions(((threshold,),))
    # Of the folded reward alone, what a function did not grade would pass for a failure.
    return Conditions(
        tuple((*(Condition(seen.functions[i], -math.inf) for i in pattern), threshold) for pattern in patterns)
    )


def _levels(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distinct values, those that differ by rounding taken together."""
    distinct = np.unique(values[np.isfinite(values)])
    if not len(distinct):
        return distinct
    last_of_each = np.diff(distinct, append=np.inf) > ROUNDING * np.abs(distinct).max()
    return distinct[last_of_each]


def _zero_or_one(levels: NDArray[np.float64]) -> bool:
    return bool(np.all(np.minimum(np.abs(levels), np.abs(levels - 1.0)) <= ROUNDING))


def _shows_its_best(levels: NDArray[np.float64]) -> bool:
    """Whether the best reward of a function is known: of 0 and 1 it is, even before both were seen."""
    return len(levels) > 1 or (len(levels) == 1 and _zero_or_one(levels))


def _at_its_best(function: str | None, levels: NDArray[np.float64], down: bool = False) -> Condition:
    """The condition that a function of one or two values gives the better one."""
    if _zero_or_one(levels):
        return Condition(function, 0.0 if down else 1.0, at_most=down)
    best = float(levels[0] if down else levels[-1])
    if len(levels) == 1:  # what is better was not seen yet
        step = 1e-3 * max(1.0, abs(best))
        best += -step if down else step
    return Condition(function, float(short(best)), at_most=down)


def _largest_patterns(graded: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(pattern function) which functions grade rollouts together, without patterns that are part of another."""
    patterns = np.unique(graded[graded.any(axis=1)], axis=0)
    part_of = (patterns[:, None] <= patterns[None]).all(axis=2) & (patterns[:, None] != patterns[None]).any(axis=2)
    return patterns[~part_of.any(axis=1)][::-1]


def _otsu_threshold(values: NDArray[np.float64]) -> float:
    """The threshold that parts rewards best (Otsu 1979), in few digits; 0.5 where that parts them as well."""
    value, count = np.unique(values[np.isfinite(values)], return_counts=True)
    if len(value) < 2:
        return float(value[0]) if len(value) else 0.5
    # Of every place between two values: the variance between the two sides.
    scaled = value / np.abs(value).max()
    below, total = np.cumsum(count)[:-1], np.cumsum(count * scaled)[:-1]
    above, rest = count.sum() - below, (count * scaled).sum() - total
    i = int(np.argmax(below * above * (total / below - rest / above) ** 2))
    threshold = float(np.format_float_positional(value[i] / 2 + value[i + 1] / 2, 3, fractional=False))
    if not value[i] < threshold <= value[i + 1]:
        threshold = float(value[i + 1])
    return 0.5 if value[i] < 0.5 <= value[i + 1] else threshold
