"""Watches over a run: a selector that sees nothing to choose by says so, once."""

from __future__ import annotations

import warnings
from collections import deque
from typing import NamedTuple

import numpy as np

from promptdyn.errors import PromptdynWarning
from promptdyn.selection.groups import Groups, Observation
from promptdyn.success import Rule, spread

__all__ = ["SuccessWatch"]

# Generations that are looked at together.
WINDOW = 20
# Groups in them that must vary, or be there at all, before anything is said of them.
LEAST_VARYING, LEAST_GROUPS = 10, 40
# Share of the groups that vary which is almost none.
ALMOST_NONE = 0.05


class _Counts(NamedTuple):
    rolled_out: int
    groups: int  # of these, have rewards
    varying: int  # GRPO has a gradient of them
    informative: int
    both: int
    ungraded: int  # have rewards and no grade
    more_than_two: bool  # whether there are rewards of more than two values


class SuccessWatch:
    """Warns once where the groups that give a gradient and those with successes and failures are not the same.

    Of the last twenty generations: groups vary in their reward and almost none has both successes and failures; or all
    have, though the reward has more than two values; or half of the groups have rewards and no grade; or none has a
    reward at all.
    """

    def __init__(self) -> None:
        self._last: deque[_Counts] = deque(maxlen=WINDOW)
        self._told = False

    def see(self, groups: Groups, seen: Observation, rule: Rule) -> None:
        """Take note of one generation.

        Args:
            groups: what was told of it.
            seen: what the rule makes of it.
            rule: what a success is.
        """
        if self._told or not len(groups.group):
            return
        num, folded = len(groups.prompt_ids), groups.rewards.folded
        size = np.bincount(groups.group, minlength=num)
        rewards = np.full((num, size.max()), np.nan)
        rewards[groups.group, np.arange(len(folded)) - np.repeat(np.cumsum(size) - size, size)] = folded
        varies, there = spread(rewards) > 0, ~np.isnan(rewards).all(axis=1)
        graded = np.isin(groups.prompt_ids, seen.prompt_ids)
        informative = np.zeros(num, bool)
        informative[graded] = seen.informative
        self._last.append(
            _Counts(
                num,
                int(there.sum()),
                int(varies.sum()),
                int(informative.sum()),
                int((varies & informative).sum()),
                int((there & ~graded).sum()),
                len(np.unique(folded[~np.isnan(folded)])) > 2,
            )
        )
        if len(self._last) < WINDOW:
            return
        rolled_out, total, varying, known, both, ungraded, more = (sum(part) for part in zip(*self._last, strict=True))
        found = f"step {groups.step}: in the last {WINDOW} generations"
        by = f"by success={str(rule)!r}"
        mend = (
            "selection has little to go by; say what a success is by success=..., a number (threshold on the folded "
            "reward), FUNCTION, or FUNCTION>=NUMBER"
        )
        if varying >= LEAST_VARYING and both <= ALMOST_NONE * varying:
            told = f"{found} the rewards of {varying} of {total} groups vary, and {by} {both} of these are informative"
        elif total >= LEAST_GROUPS and known == total and more:
            told = f"{found} all {total} groups are informative {by}, which tells nothing apart"
        elif total >= LEAST_GROUPS and 2 * ungraded >= total:
            told = f"{found} {ungraded} of {total} groups have rewards and no grade {by}"
        elif rolled_out >= LEAST_GROUPS and not total:
            told = f"{found} the reward functions gave None for all rollouts of all {rolled_out} groups"
            mend = "nothing is learned; check that they know this dataset's columns and how the policy answers"
        else:
            return
        self._told = True
        warnings.warn(f"{told}: {mend}", PromptdynWarning, stacklevel=3)
