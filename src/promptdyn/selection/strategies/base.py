"""The base class of whatever decides which prompts are taken. Knows no model and no trainer."""

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

# Odds of a prompt that has none: the least that can be divided by.
LEAST_ODDS = 1e-300
State = TypeVar("State")


@dataclass(frozen=True)
class Outlook:
    """What a strategy may know of the prompts of a pool before it takes some.

    Attributes:
        online: the filter, whose forecasts are about the next step.
        score: what a prompt is worth.
        num_rollouts: rollouts per prompt that forecasts are made for.
        times_seen: (prompt,) groups that were rolled out of each so far.
    """

    online: OnlineFilter
    score: Score
    num_rollouts: int
    times_seen: NDArray[np.int32]

    @property
    def num_prompts(self) -> int:
        return self.online.num_prompts

    def worth(self, rng: np.random.Generator | None = None) -> NDArray[np.float64]:
        """(prompt,) scores; given `rng`, each at one draw from the prompt's posterior.

        Raises:
            InputError: the score gives another shape, or none (NaN) for some prompt.
        """
        worth = np.asarray(self.score(self.online, self.num_rollouts, rng), dtype=float)
        if worth.shape != (self.num_prompts,):
            raise InputError(f"score {text_of(self.score)} is of shape {worth.shape} for {self.num_prompts} prompts")
        unknown = np.flatnonzero(np.isnan(worth))
        if unknown.size:
            raise InputError(f"score {text_of(self.score)} of prompt {self.online.ids(unknown[:1])[0]!r} is NaN")
        return worth

    def outcome(self) -> NDArray[np.float64]:
        """(prompt outcome) forecast chances that none, some, all of a prompt's rollouts succeed."""
        return self.online.outcome(self.num_rollouts)


class Stateless(NamedTuple):
    """The state of a strategy that remembers nothing."""


class Strategy(ABC, Generic[State]):
    """Which prompts to take: `priorities` ranks them, and the highest are taken.

    Of equal priorities those of the prompts seen least are taken, and of these some at random, never by position in the
    pool. A strategy that goes by what was observed has a state, which `init` makes and `step` moves: a NamedTuple of
    arrays whose last axis is `prompt`. It sees what the rule of success makes of the rewards, all of it anew where that
    rule changes, and its state is saved with the selector's.

        @dataclass(frozen=True)
        class LeastSeen(Strategy):
            weight: float = 0.1  # settings are fields

            name = "least_seen"

            def priorities(self, state, outlook, rng):
                return outlook.worth() - self.weight * outlook.times_seen

    For type checkers it may inherit from `Strategy[MyState]`, or `Strategy[Stateless]`.

    Attributes:
        name: what the strategy is called in texts and files.
        rule: how it chooses, in words, where it goes by no forecast. Default "": it goes by the score.
        shared: fields of the state whose last axis is not `prompt`.
    """

    name: str
    rule: ClassVar[str] = ""
    shared: ClassVar[tuple[str, ...]] = ()

    def init(self, num_prompts: int) -> State:
        """State of a pool of which nothing was seen; that of a longer pool begins alike. Default: no fields."""
        return cast(State, Stateless())

    def step(
        self,
        state: State,
        rows: NDArray[np.intp],
        num_successes: NDArray[np.int64],
        num_rollouts: NDArray[np.int64],
        trained: NDArray[np.bool_],
    ) -> State:
        """See one training step's counts for the prompts `rows`, none where no group ended; default: learn nothing.

        The state may be changed in place.
        """
        return state

    @abstractmethod
    def priorities(self, state: State, outlook: Outlook, rng: np.random.Generator) -> NDArray[np.float64]:
        """(prompt,) priorities for the next step, higher first, in an array of their own."""


def draw(odds: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """(prompt,) priorities whose order is a draw without replacement.

    It is an exponential race, equal to Gumbel top-k on log(odds) (Efraimidis and Spirakis 2006).

    Args:
        odds: (prompt,) at least 0; those of 0 come last.
        rng: draws.
    """
    race = rng.standard_exponential(odds.shape)
    race /= np.maximum(odds, LEAST_ODDS)
    return np.negative(race, out=race)
