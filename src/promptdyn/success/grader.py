"""What grades the rollouts of a run."""

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

# Rollouts after which the rule that was found stays for the run; and after which it no longer waits for functions that
# have shown a single value, or none.
LOOK, LONG_LOOK = 200, 2_000


class Grader:
    """Grades a run's rollouts, and finds the rule where it is not given.

    What is to be found is found from the first rewards (`see`):

    - A function whose rewards are all 0 or 1, or have two values in all, succeeds at the better one (the lower one
      where its weight is negative). Of several such functions all are to be at their best: full marks. One function
      with rewards of 0 and 1 succeeds at 0.5.
    - Otherwise the folded reward is to reach the threshold that parts it best (Otsu 1979).
    - A rollout is not graded where a function gave none that graded others along with the same functions.
    - Functions of weight 0, which the gradient does not see, decide nothing.

    The rule is in force at once where every function has shown 0 and 1 alone, or two values. Otherwise it is None, and
    nothing is graded, until 200 rollouts were seen. From then on it stays for the run. A function that gave a single
    value, such as -1, is waited for up to 2,000 rollouts.

    Args:
        success: what a success is, see `promptdyn.success`; default "auto".

    Attributes:
        rule: in force; None while it cannot be told.
        settled: whether it stays for the run.
        num_seen: rollouts that it was found from.

    Raises:
        InputError: a text that is no rule, or a number that is not finite.

    Example:
        >>> grader = Grader("correct>=0.8")
        >>> rewards = Rewards(("correct", "format"), np.ones(2), np.array([[0.9, 0.0], [0.2, 1.0], [np.nan, 1.0]]))
        >>> grader.grades(rewards)
        array([ 1.,  0., nan])
    """

    def __init__(self, success: Success = AUTO) -> None:
        self.given, self.wanted = success, parse(success)
        self.rule: Rule | None = None
        self.settled = False
        self.num_seen = 0
        self._seen: list[Rewards] = []
        self._looked = False  # whether anything else was seen than rewards of 0 and 1 by one function
        if self.wanted is ANY:
            self.rule = ONE_HALF  # until something else is seen than 0 and 1
        elif isinstance(self.wanted, ByFunction) or self.wanted.is_complete:
            self.rule, self.settled = self.wanted, True

    def __str__(self) -> str:
        """What was asked for."""
        return AUTO if self.wanted is ANY else str(self.wanted)

    def check(self, functions: Sequence[str]) -> None:
        """Raise InputError where the rule, asked for or found, names a reward function that is not among these."""
        for rule in (self.wanted, self.rule):
            for name in rule.functions if isinstance(rule, Conditions) else ():
                if name not in (*functions, FOLDED):
                    near = get_close_matches(name, functions, n=1)
                    mend = f"did you mean {near[0]!r}?" if near else f"name one of {', '.join(functions)}"
                    asked = str(self) if rule is self.wanted else str(rule)
                    raise InputError(f"success={asked!r}: no reward function is called {name!r}: {mend}")

    def see(self, rewards: Rewards) -> None:
        """Find the rule from these rewards and those before, unless it is settled.

        Raises:
            InputError: the rule names a function that is not there.
        """
        if not rewards.functions:  # of a step without groups
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
        self._looked = self._looked or self.rule is not ONE_HALF
        if self.num_seen >= LOOK:
            self._settle()

    def settle(self) -> None:
        """Let the rule stay that is best by what was seen, however little that is, if there is one."""
        if not self.settled:
            if self.num_seen:
                self.rule = self._found(many=True, last=True)
                self._looked = self._looked or self.rule is not ONE_HALF
            self._settle()

    def _settle(self) -> None:
        if self.rule is not None:
            self.settled, self._seen = True, []

    def grades(self, rewards: Rewards) -> NDArray[np.float64]:
        """(rollout,) 1 for a success, 0 for a failure, NaN for no grade; all NaN while the rule cannot be told.

        Raises:
            InputError: as `check`.
        """
        if not rewards.functions:  # of a step without groups
            return np.zeros(0)
        self.check(rewards.functions)
        return np.full(len(rewards.values), np.nan) if self.rule is None else self.rule.grades(rewards)

    @property
    def words(self) -> str:
        """The rule that was found, and how to set another, in a line; empty where there was nothing to look for."""
        if not (self.settled and self._looked):
            return ""
        return (
            f"a success is {str(self.rule)!r}, found from the first {self.num_seen} rollouts; success=... (a number, "
            "FUNCTION>=NUMBER, ...) sets another"
        )

    def state_dict(self) -> dict[str, Any]:
        """The rule as text, None while it is not settled; what was seen is not in it."""
        return {"rule": str(self.rule) if self.settled else None, "num_seen": self.num_seen}

    def loaded(self, state: Mapping[str, Any], seen: Sequence[Rewards]) -> Grader:
        """A grader that goes on with a saved state.

        Args:
            state: what `state_dict` gave.
            seen: all that was seen until then, where the rule was not settled.

        Raises:
            InputError: the state is not whole.
        """
        fresh = Grader(self.given)
        rule, num_seen = state["rule"], state["num_seen"]
        if not (rule is None or isinstance(rule, str)) or not isinstance(num_seen, int):
            raise InputError(f"the state's rule of success {rule!r} is no text: start without it")
        if rule is not None and not fresh.settled:
            found = parse(rule)
            if not isinstance(found, Conditions) or not found.is_complete:
                raise InputError(f"the state's rule of success {rule!r} is none: start without it")
            fresh.rule, fresh.settled, fresh.num_seen = found, True, num_seen
        for rewards in seen:
            fresh.see(rewards)
        return fresh

    def _found(self, many: bool, last: bool) -> Conditions | None:
        assert isinstance(self.wanted, Conditions)
        values = np.concatenate([rewards.values for rewards in self._seen])
        return find(self.wanted, self._seen[0]._replace(values=values), many, last)
