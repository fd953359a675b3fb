"""Grade the rollouts of a run by a rule of success."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError
from promptdyn.success.finding import find
from promptdyn.success.rewards import FOLDED, Rewards
from promptdyn.success.rules import ANY, AUTO, ONE_HALF, ByFunction, Conditions, Rule, Success, parse

__all__ = ["Grader"]

# A rule that was found after so many rollouts is final. Functions that have shown only a single value, or none, are
# waited for until the second number of rollouts.
LOOK, LONG_LOOK = 200, 2_000


class Grader:
    """Grades a run's rollouts, and finds the rule of success where the user left it open.

    The grader finds a rule from the first rewards (`see`):

    - A function whose rewards are all 0 or 1, or take two values in all, succeeds at the better value (the lower one
      if its weight is negative). With several such functions, all must give their best value. A single function with
      rewards of 0 and 1 succeeds at 0.5.
    - Otherwise the folded reward must reach the threshold that separates it best (Otsu 1979).
    - Functions may reward some kinds of tasks only. If the functions that rewarded a rollout are only a part of those
      that rewarded others together, a reward is missing, and the rollout has no grade.
    - Functions of weight 0, which the gradient does not see, decide nothing.

    The rule applies at once if every function has shown only 0 and 1, or two values. Otherwise it is None, and no
    rollout is graded, until 200 rollouts have been seen. From then on the rule is final. A function that has given a
    single value, such as -1, is waited for up to 2,000 rollouts.

    Args:
        success: what a success is, see `promptdyn.success`; default "auto".

    Attributes:
        success: the rule as the user gave it.
        rule: the rule that applies now; None while the rewards determine none.
        settled: whether the rule is final.
        num_seen: number of rollouts from which the rule was found.

    Raises:
        InputError: a text that is no rule, or a number that is not finite.

    Example:
        >>> grader = Grader("correct>=0.8")
        >>> rewards = Rewards(("correct", "format"), np.ones(2), np.array([[0.9, 0.0], [0.2, 1.0], [np.nan, 1.0]]))
        >>> grader.grades(rewards)
        array([ 1.,  0., nan])
    """

    def __init__(self, success: Success = AUTO) -> None:
        self.success, self.requested = success, parse(success)
        self.rule: Rule | None = None
        self.settled = False
        self.num_seen = 0
        self._seen: list[Rewards] = []
        self._plain = True  # whether all rewards so far were 0 or 1, by one function
        if self.requested is ANY:
            self.rule = ONE_HALF  # until rewards other than 0 and 1 are seen
        elif isinstance(self.requested, ByFunction) or self.requested.is_complete:
            self.rule, self.settled = self.requested, True

    def __str__(self) -> str:
        """The rule that was asked for, as text."""
        return AUTO if self.requested is ANY else str(self.requested)

    def check(self, functions: Sequence[str]) -> None:
        """Raise InputError if the rule, asked for or found, names a reward function that is not among `functions`."""
        for rule in (self.requested, self.rule):
            for name in rule.functions if isinstance(rule, Conditions) else ():
                if name not in (*functions, FOLDED):
                    similar = get_close_matches(name, functions, n=1)
                    mend = f"did you mean {similar[0]!r}?" if similar else f"name one of {', '.join(functions)}"
                    rule_text = str(self) if rule is self.requested else str(rule)
                    raise InputError(f"success={rule_text!r}: no reward function is called {name!r}: {mend}")

    def see(self, rewards: Rewards) -> None:
        """Find the rule from these rewards and earlier ones, unless it is final.

        Raises:
            InputError: the rule names an unknown function, or the functions are not those of earlier rewards.
        """
        if not rewards.functions:  # a step without groups
            return
        self.check(rewards.functions)
        if self.settled:
            return
        if self._seen and self._seen[0].functions != rewards.functions:
            raise InputError(
                f"rewards by {', '.join(rewards.functions)}, before by {', '.join(self._seen[0].functions)}: give "
                "those of the same functions at every step"
            )
        graded = ~np.isnan(rewards.values).all(axis=1)
        self._seen.append(rewards._replace(values=rewards.values[graded]))
        self.num_seen += int(np.count_nonzero(graded))
        if self.num_seen:
            self.rule = self._found(many=self.num_seen >= LOOK, last=self.num_seen >= LONG_LOOK)
        self._plain = self._plain and self.rule is ONE_HALF
        if self.num_seen >= LOOK:
            self._settle()

    def settle(self) -> None:
        """Make final the best rule that the rewards so far give, however few they are, if they give one."""
        if not self.settled:
            if self.num_seen:
                self.rule = self._found(many=True, last=True)
                self._plain = self._plain and self.rule is ONE_HALF
            self._settle()

    def _settle(self) -> None:
        if self.rule is not None:
            self.settled, self._seen = True, []

    def grades(self, rewards: Rewards) -> NDArray[np.float64]:
        """Return (rollout,) grades: 1 for a success, 0 for a failure, NaN for no grade; all NaN while there is no rule.

        Raises:
            InputError: as in `check`.
        """
        if not rewards.functions:  # a step without groups
            return np.zeros(0)
        self.check(rewards.functions)
        return np.full(len(rewards.values), np.nan) if self.rule is None else self.rule.grades(rewards)

    @property
    def notice(self) -> str:
        """One line that tells the rule that was found, and how to set another; empty if nothing had to be found."""
        if not self.settled or self._plain:
            return ""
        return (
            f"a success is {str(self.rule)!r}, found from the first {self.num_seen} rollouts; success=... (a number, "
            "FUNCTION>=NUMBER, ...) sets another"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the rule as text, None while it is not final. The rewards seen are not part of the state."""
        return {"rule": str(self.rule) if self.settled else None, "num_seen": self.num_seen}

    def resumed(self, state: Mapping[str, Any], seen: Sequence[Rewards]) -> Grader:
        """Return a grader that goes on from a saved state.

        Args:
            state: what `state_dict` returned.
            seen: all rewards seen until then, if the rule was not final; else none.

        Raises:
            InputError: the state is not whole.
        """
        fresh = Grader(self.success)
        rule, num_seen = state["rule"], state["num_seen"]
        if not (rule is None or isinstance(rule, str)) or not isinstance(num_seen, int):
            raise InputError(f"the state's rule of success {rule!r} is no text: start without it")
        if rule is not None and not fresh.settled:
            saved_rule = parse(rule)
            if not isinstance(saved_rule, Conditions) or not saved_rule.is_complete:
                raise InputError(f"the state's rule of success {rule!r} is none: start without it")
            fresh.rule, fresh.settled, fresh.num_seen = saved_rule, True, num_seen
        for rewards in seen:
            fresh.see(rewards)
        return fresh

    def _found(self, many: bool, last: bool) -> Conditions | None:
        assert isinstance(self.requested, Conditions)
        values = np.concatenate([rewards.values for rewards in self._seen])
        return find(self.requested, self._seen[0]._replace(values=values), many, last)
