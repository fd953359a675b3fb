"""Watch a run, and warn once if the rewards give the selector nothing to choose by."""

from __future__ import annotations

import warnings
from collections import deque
from typing import NamedTuple

import numpy as np

from promptdyn.errors import PromptdynWarning
from promptdyn.selection.groups import Groups, Observation
from promptdyn.success import Rule, spread

__all__ = ["SuccessWatch"]

# Number of generations that are judged together.
WINDOW = 20
# Least number of varying groups, and of groups, in them for a judgment.
LEAST_VARYING, LEAST_GROUPS = 10, 40
# A share of the varying groups below this is almost none.
ALMOST_NONE = 0.05


class _Counts(NamedTuple):
    """Numbers of groups of one generation."""

    rolled_out: int
    rewarded: int  # have rewards
    varying: int  # have rewards that differ, so that GRPO has a gradient
    informative: int
    both: int  # vary and are informative
    ungraded: int  # have rewards and no grade
    more_than_two: bool  # whether the rewards take more than two values


class SuccessWatch:
    """Warns once if the groups that give a gradient are not those with both successes and failures.

    It warns if, in the last twenty generations, groups vary in their rewards but almost none has both successes and
    failures; or all have both, though rewards take more than two values; or half of the groups have rewards but no
    grade; or none has a reward.
    """

    def __init__(self) -> None:
        self._last: deque[_Counts] = deque(maxlen=WINDOW)
        self._warned = False

    def see(self, groups: Groups, observation: Observation, rule: Rule) -> None:
        """Take one generation into account.

        Args:
            groups: the generation's groups.
            observation: their counts by the rule.
            rule: the rule of success.
        """
        if self._warned or not len(groups.group):
            return
        num, folded = len(groups.prompt_ids), groups.rewards.folded
        size = np.bincount(groups.group, minlength=num)
        rewards = np.full((num, size.max()), np.nan)
        rewards[groups.group, np.arange(len(folded)) - np.repeat(np.cumsum(size) - size, size)] = folded
        varies, rewarded = spread(rewards) > 0, ~np.isnan(rewards).all(axis=1)
        graded = np.isin(groups.prompt_ids, observation.prompt_ids)
        informative = np.zeros(num, bool)
        informative[graded] = observation.informative
        self._last.append(
            _Counts(
                num,
                int(rewarded.sum()),
                int(varies.sum()),
                int(informative.sum()),
                int((varies & informative).sum()),
                int((rewarded & ~graded).sum()),
                len(np.unique(folded[~np.isnan(folded)])) > 2,
            )
        )
        if len(self._last) < WINDOW:
            return
        num_groups, num_rewarded, num_varying, num_informative, num_both, num_ungraded, many_rewards = (
            sum(counts) for counts in zip(*self._last, strict=True)
        )
        when = f"step {groups.step}: in the last {WINDOW} generations"
        by = f"by success={str(rule)!r}"
        mend = (
            "selection has little to go by; say what a success is by success=..., a number (threshold on the folded "
            "reward), FUNCTION, or FUNCTION>=NUMBER"
        )
        if num_varying >= LEAST_VARYING and num_both <= ALMOST_NONE * num_varying:
            problem = (
                f"{when} the rewards of {num_varying} of {num_rewarded} groups vary, and {by} {num_both} of these are "
                "informative"
            )
        elif num_rewarded >= LEAST_GROUPS and num_informative == num_rewarded and many_rewards:
            problem = f"{when} all {num_rewarded} groups are informative {by}, which tells nothing apart"
        elif num_rewarded >= LEAST_GROUPS and 2 * num_ungraded >= num_rewarded:
            problem = f"{when} {num_ungraded} of {num_rewarded} groups have rewards and no grade {by}"
        elif num_groups >= LEAST_GROUPS and not num_rewarded:
            problem = f"{when} the reward functions gave None for all rollouts of all {num_groups} groups"
            mend = "nothing is learned; check that they know this dataset's columns and how the policy answers"
        else:
            return
        self._warned = True
        warnings.warn(f"{problem}: {mend}", PromptdynWarning, stacklevel=3)
