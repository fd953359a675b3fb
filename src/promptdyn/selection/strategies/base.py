"""The base class of strategies, which decide which prompts are taken. This module knows no model and no trainer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Generic, NamedTuple, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError
from promptdyn.online import OnlineFilter
from promptdyn.registry import text_of
from promptdyn.selection.scores import Score

__all__ = ["Outlook", "Strategy", "draw"]

# Odds below this are raised to it, so that they can be divided by.
LEAST_ODDS = 1e-300
State = TypeVar("State")


@dataclass(frozen=True)
class Outlook:
    """What a strategy may know about the pool when it chooses prompts.

    Attributes:
        online: the filter, whose forecasts are about the next step.
        score: function that tells what each prompt is worth.
        num_rollouts: number of rollouts per prompt for which forecasts are made.
        times_seen: (prompt,) number of groups rolled out of each prompt so far.
    """

    online: OnlineFilter
    score: Score
    num_rollouts: int
    times_seen: NDArray[np.int32]

    @property
    def num_prompts(self) -> int:
        """Number of prompts in the pool."""
        return self.online.num_prompts

    def scores(self, rng: np.random.Generator | None = None) -> NDArray[np.float64]:
        """Return the (prompt,) scores; with `rng`, each at one draw from the prompt's posterior.

        Raises:
            InputError: the score function returns another shape, or NaN.
        """
        scores = np.asarray(self.score(self.online, self.num_rollouts, rng), dtype=float)
        if scores.shape != (self.num_prompts,):
            raise InputError(f"score {text_of(self.score)} is of shape {scores.shape} for {self.num_prompts} prompts")
        unknown = np.flatnonzero(np.isnan(scores))
        if unknown.size:
            raise InputError(f"score {text_of(self.score)} of prompt {self.online.ids(unknown[:1])[0]!r} is NaN")
        return scores

    def outcome(self) -> NDArray[np.float64]:
        """Return (prompt outcome) forecast chances that none, some and all rollouts of a prompt succeed."""
        return self.online.outcome(self.num_rollouts)


class Stateless(NamedTuple):
    """The state of a strategy that remembers nothing."""


class Strategy(ABC, Generic[State]):
    """Decides which prompts to take: those with the highest `priorities`.

    Among equal priorities, prompts seen least are taken first, and among these some at random, never by position in the
    pool. A strategy that depends on what was observed has a state, a NamedTuple of arrays whose last axis is `prompt`:
    `init` makes it and `step` updates it. The strategy is shown the counts by the rule of success; if that rule
    changes, it is shown all steps again from the start. Its state is saved with the selector's.

        @dataclass(frozen=True)
        class LeastSeen(Strategy):
            weight: float = 0.1  # settings are fields

            name = "least_seen"

            def priorities(self, state, outlook, rng):
                return outlook.scores() - self.weight * outlook.times_seen

    For type checkers a subclass may inherit from `Strategy[MyState]`, or from `Strategy[Stateless]`.

    Attributes:
        name: name of the strategy in texts and files.
        rule: how it chooses, in words, if it uses no forecast. Default "": it uses the score.
        shared: names of the state's fields whose last axis is not `prompt`.
    """

    name: str
    rule: ClassVar[str] = ""
    shared: ClassVar[tuple[str, ...]] = ()

    def init(self, num_prompts: int) -> State:
        """Return the initial state of a pool. The state of a longer pool must begin with it. Default: no fields."""
        return cast(State, Stateless())

    def step(
        self,
        state: State,
        rows: NDArray[np.intp],
        num_successes: NDArray[np.int64],
        num_rollouts: NDArray[np.int64],
        trained: NDArray[np.bool_],
    ) -> State:
        """Return the state after one training step's counts. Default: unchanged.

        Args:
            state: the state before the step; it may be changed in place.
            rows: (group,) index of each group's prompt; empty if no group ended.
            num_successes: (group,) k.
            num_rollouts: (group,) n >= 1.
            trained: (group,) whether the group fed the gradient.
        """
        return state

    @abstractmethod
    def priorities(self, state: State, outlook: Outlook, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return (prompt,) priorities for the next step, in a new array. The highest are taken."""


def draw(odds: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return (prompt,) priorities whose order is a draw without replacement.

    The method is an exponential race, equal to Gumbel top-k on log(odds) (Efraimidis and Spirakis 2006).

    Args:
        odds: (prompt,) odds, at least 0; prompts with odds 0 come last.
        rng: generator of the draw.
    """
    race = rng.standard_exponential(odds.shape)
    race /= np.maximum(odds, LEAST_ODDS)
    return np.negative(race, out=race)
