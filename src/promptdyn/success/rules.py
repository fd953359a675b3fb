"""Rules of success: conditions on rewards, or a function of them; how they grade, and how they are written."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError
from promptdyn.plugins import load_object, where
from promptdyn.success.rewards import FOLDED, ROUNDING, Rewards

__all__ = ["AUTO", "ONE_HALF", "ByFunction", "Condition", "Conditions", "Rule", "Success", "parse", "short"]

AUTO = "auto"

Success = float | str | Callable[[Mapping[str, NDArray[np.float64]]], Any]
"""How people say what a success is: a number, a text (see `promptdyn.success`), or a function that is given {reward
function: (rollout,) rewards} and gives (rollout,) booleans."""


class Rule(Protocol):
    """A rule that is complete: nothing of it is still to be found."""

    def grades(self, rewards: Rewards) -> NDArray[np.float64]:
        """(rollout,) 1 for a success, 0 for a failure, NaN for no grade."""

    def __str__(self) -> str: ...


@dataclass(frozen=True)
class Condition:
    """That a reward reaches a bound, within rounding.

    Attributes:
        function: whose reward; None: the folded one, and so is "reward" where no function is called that.
        bound: what it is to reach; None: to be found.
        at_most: whether it is to be the bound or less.
    """

    function: str | None
    bound: float | None
    at_most: bool = False

    def met(self, values: NDArray[np.float64]) -> NDArray[np.bool_]:
        assert self.bound is not None
        slack = ROUNDING * abs(self.bound) if 0 < abs(self.bound) < math.inf else ROUNDING
        return values <= self.bound + slack if self.at_most else values >= self.bound - slack

    def __str__(self) -> str:
        name = FOLDED if self.function is None else self.function
        return name if self.bound is None else f"{name}{'<=' if self.at_most else '>='}{short(self.bound)}"


@dataclass(frozen=True)
class Conditions:
    """A rule of conditions: alternatives, each of conditions that hold together.

    An alternative counts where every one of its functions gave a reward. A rollout is graded where one counts, and
    succeeds where one that counts holds.
    """

    alternatives: tuple[tuple[Condition, ...], ...]

    @property
    def functions(self) -> list[str]:
        """Names of the reward functions that decide."""
        named = [condition.function for conditions in self.alternatives for condition in conditions]
        return list(dict.fromkeys(name for name in named if name is not None))

    @property
    def is_complete(self) -> bool:
        """Whether there are conditions, and each has its bound."""
        bounds = [condition.bound for conditions in self.alternatives for condition in conditions]
        return len(bounds) > 0 and None not in bounds

    def grades(self, rewards: Rewards) -> NDArray[np.float64]:
        grades = np.full(len(rewards.values), np.nan)
        for conditions in self.alternatives:
            columns = [rewards.of(condition.function) for condition in conditions]
            counts = ~np.isnan(columns).any(axis=0)
            met = [condition.met(column) for condition, column in zip(conditions, columns, strict=True)]
            holds = np.all(met, axis=0)
            grades[counts] = np.fmax(grades[counts], holds[counts])
        return grades

    def __str__(self) -> str:
        if len(self.alternatives) == len(self.alternatives[0]) == 1:
            (((condition,),)) = self.alternatives
            if condition.function is None and condition.bound is not None and not condition.at_most:
                return short(condition.bound)
        return " or ".join(" and ".join(map(str, conditions)) for conditions in self.alternatives)


@dataclass(frozen=True)
class ByFunction:
    """A rule that is a function of the rewards by name. It grades rollouts with one of the rewards that it reads."""

    function: Callable[[Mapping[str, NDArray[np.float64]]], Any]

    def grades(self, rewards: Rewards) -> NDArray[np.float64]:
        shown = _Shown({name: rewards.of(name) for name in rewards.functions})
        try:
            given = np.asarray(self.function(shown))
            if given.shape != (len(rewards.values),) or given.dtype.kind not in "biuf":
                raise TypeError(f"it gave an array of shape {given.shape} and type {given.dtype}")
        except (TypeError, ValueError, KeyError) as error:
            raise InputError(
                f"success: {self}: {' '.join(str(error).split())}: it is given {{function name: (rollout,) rewards}} "
                f"of {', '.join(rewards.functions)} and gives (rollout,) booleans, as by (a >= 1) & (b >= 1)"
            ) from error
        read = [rewards.of(name) for name in shown.read or rewards.functions]
        values = given.astype(np.float64)
        grades = np.where(np.isnan(values), np.nan, values != 0)
        return np.where(np.isnan(read).all(axis=0), np.nan, grades)

    def __str__(self) -> str:
        return where(self.function) if hasattr(self.function, "__qualname__") else type(self.function).__qualname__


class _Shown(dict[str, NDArray[np.float64]]):
    """Rewards by name, which keeps the names that were read."""

    def __init__(self, rewards: Mapping[str, NDArray[np.float64]]) -> None:
        super().__init__(rewards)
        self.read: list[str] = []

    def __getitem__(self, name: str) -> NDArray[np.float64]:
        values = super().__getitem__(name)
        self.read.append(name)
        return values


ONE_HALF = Conditions(((Condition(None, 0.5),),))
"""The folded reward is at least one half: the rule of rewards that are 0 or 1."""
ANY = Conditions(())
"""Stands for "auto": nothing of the rule is given."""
CONDITION = re.compile(r"(?P<name>.+?)\s*(?P<sign><=|>=)\s*(?P<bound>\S+)")


def parse(success: Success) -> Conditions | ByFunction:
    """The rule that people say, with what they leave open; `ANY` where that is everything.

    Raises:
        InputError: it is no rule.
    """
    if callable(success):
        return ByFunction(success)
    if isinstance(success, int | float | np.number) and not isinstance(success, bool):
        return Conditions(((Condition(None, _finite(success, success)),),))
    if not isinstance(success, str) or not success.strip():
        raise InputError(f"success={success!r}: give a number, a reward function's name, FUNCTION>=NUMBER, or 'auto'")
    text = success.strip()
    if text == AUTO:
        return ANY
    if re.fullmatch(r"(.+\.py|[\w.]+):\w+", text):
        return ByFunction(load_object(text, "success"))
    number = _number(text)
    if number is not None:
        return Conditions(((Condition(None, _finite(number, success)),),))
    alternatives = [re.split(r"\s+and\s+", part) for part in re.split(r"\s+or\s+", text)]
    return Conditions(tuple(tuple(_condition(part, text) for part in parts) for parts in alternatives))


def _condition(part: str, text: str) -> Condition:
    match = CONDITION.fullmatch(part.strip())
    if match is None:
        if not part.strip() or re.search(r"[<>=]", part):
            raise InputError(f"success={text!r}: {part.strip()!r} is no condition: write FUNCTION>=NUMBER")
        name, bound, at_most = part.strip(), None, False
    else:
        name, bound, at_most = match["name"], _number(match["bound"]), match["sign"] == "<="
        if bound is None or math.isnan(bound):
            raise InputError(f"success={text!r}: {match['bound']!r} is no number: write FUNCTION>=NUMBER")
    return Condition(name, bound, at_most)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _finite(number: float, given: Any) -> float:
    if not math.isfinite(number):
        raise InputError(f"success={given} is not finite: give the least reward of a success")
    return float(number)


def short(number: float) -> str:
    """A number in the fewest digits that tell it from others in single precision."""
    if not math.isfinite(number) or abs(number) > 1e30:
        return str(number)
    if 0 < abs(number) < 1e-4:
        return f"{number:g}"
    return np.format_float_positional(np.float32(number), trim="-")
