"""Rules of success: conditions on rewards or a function of them, how they grade, and how to write them as text."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError
from promptdyn.plugins import load_object, object_reference
from promptdyn.success.rewards import FOLDED, ROUNDING, Rewards

__all__ = ["AUTO", "ONE_HALF", "ByFunction", "Condition", "Conditions", "Rule", "Success", "parse", "short"]

AUTO = "auto"

Success = float | str | Callable[[Mapping[str, NDArray[np.float64]]], Any]
"""What a success is, as users say it: a number, a text (see `promptdyn.success`), or a function that takes {reward
function: (rollout,) rewards} and returns (rollout,) booleans."""


class Rule(Protocol):
    """A complete rule, with nothing left to be found."""

    def grades(self, rewards: Rewards) -> NDArray[np.float64]:
        """Return (rollout,) grades: 1 for a success, 0 for a failure, NaN for no grade."""

    def __str__(self) -> str: ...


@dataclass(frozen=True)
class Condition:
    """The condition that a reward reaches a bound, within rounding.

    Attributes:
        function: name of the reward function; None for the folded reward, as is "reward" if no function has that name.
        bound: value to reach; None if it must still be found.
        at_most: True if the reward must be the bound or less. Default False: the bound or more.
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
    """A rule of alternatives, each a set of conditions that must all hold.

    An alternative applies to a rollout if all of its functions gave it a reward. A rollout is graded if an alternative
    applies, and succeeds if one that applies holds.
    """

    alternatives: tuple[tuple[Condition, ...], ...]

    @property
    def functions(self) -> list[str]:
        """Names of the reward functions that decide."""
        names = [condition.function for conditions in self.alternatives for condition in conditions]
        return list(dict.fromkeys(name for name in names if name is not None))

    @property
    def is_complete(self) -> bool:
        """Whether there are conditions, and each has its bound."""
        bounds = [condition.bound for conditions in self.alternatives for condition in conditions]
        return len(bounds) > 0 and None not in bounds

    def grades(self, rewards: Rewards) -> NDArray[np.float64]:
        grades = np.full(len(rewards.values), np.nan)
        for conditions in self.alternatives:
            columns = [rewards.column(condition.function) for condition in conditions]
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
    """A rule that is a function of the rewards by name. It grades rollouts that have one of the rewards it reads."""

    function: Callable[[Mapping[str, NDArray[np.float64]]], Any]

    def grades(self, rewards: Rewards) -> NDArray[np.float64]:
        tracked = _Tracked({name: rewards.column(name) for name in rewards.functions})
        try:
            result = np.asarray(self.function(tracked))
            if result.shape != (len(rewards.values),) or result.dtype.kind not in "biuf":
                raise TypeError(f"it returned an array of shape {result.shape} and type {result.dtype}")
        except (TypeError, ValueError, KeyError) as error:
            raise InputError(
                f"success: {self}: {' '.join(str(error).split())}: it takes {{function name: (rollout,) rewards}} "
                f"of {', '.join(rewards.functions)} and returns (rollout,) booleans, as (a >= 1) & (b >= 1)"
            ) from error
        read = [rewards.column(name) for name in tracked.read or rewards.functions]
        values = result.astype(np.float64)
        grades = np.where(np.isnan(values), np.nan, values != 0)
        return np.where(np.isnan(read).all(axis=0), np.nan, grades)

    def __str__(self) -> str:
        return (
            object_reference(self.function)
            if hasattr(self.function, "__qualname__")
            else type(self.function).__qualname__
        )


class _Tracked(dict[str, NDArray[np.float64]]):
    """Rewards by name that remember which names were read."""

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
"""No conditions: stands for "auto", where the whole rule must be found."""
CONDITION = re.compile(r"(?P<name>.+?)\s*(?P<sign><=|>=)\s*(?P<bound>\S+)")


def parse(success: Success, setting: str = "success") -> Conditions | ByFunction:
    """Return the rule that a user asked for, with open bounds; `ANY` if the whole rule is open.

    Args:
        success: what the user asked for.
        setting: its name, for messages.

    Raises:
        InputError: `success` is no rule.
    """
    if callable(success):
        return ByFunction(success)
    if isinstance(success, int | float | np.number) and not isinstance(success, bool):
        return Conditions(((Condition(None, _finite(success, f"{setting}={success}")),),))
    if not isinstance(success, str) or not success.strip():
        raise InputError(f"{setting}={success!r}: give a number, a reward function's name, FUNCTION>=NUMBER, or 'auto'")
    text = success.strip()
    if text == AUTO:
        return ANY
    if re.fullmatch(r"(.+\.py|[\w.]+):\w+", text):
        return ByFunction(load_object(text, setting))
    number = _number(text)
    if number is not None:
        return Conditions(((Condition(None, _finite(number, f"{setting}={success}")),),))
    alternatives = [re.split(r"\s+and\s+", part) for part in re.split(r"\s+or\s+", text)]
    return Conditions(tuple(tuple(_condition(part, f"{setting}={text!r}") for part in parts) for parts in alternatives))


def _condition(part: str, asked: str) -> Condition:
    match = CONDITION.fullmatch(part.strip())
    if match is None:
        if not part.strip() or re.search(r"[<>=]", part):
            raise InputError(f"{asked}: {part.strip()!r} is no condition: write FUNCTION>=NUMBER")
        name, bound, at_most = part.strip(), None, False
    else:
        name, bound, at_most = match["name"], _number(match["bound"]), match["sign"] == "<="
        if bound is None or math.isnan(bound):
            raise InputError(f"{asked}: {match['bound']!r} is no number: write FUNCTION>=NUMBER")
    return Condition(name, bound, at_most)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _finite(number: float, asked: str) -> float:
    if not math.isfinite(number):
        raise InputError(f"{asked} is not finite: give the least reward of a success")
    return float(number)


def short(number: float) -> str:
    """Return a number as text, in the fewest digits that single precision needs."""
    if not math.isfinite(number) or abs(number) > 1e30:
        return str(number)
    if 0 < abs(number) < 1e-4:
        return f"{number:g}"
    return np.format_float_positional(np.float32(number), trim="-")
