"""The base class of whatever filters a pool of prompts live. Knows nothing of fitting.

An *outcome* is one of three kinds of rollout group: none succeeded, some did (informative: 0 < k < n), all did.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, ClassVar, Generic, Self, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from promptdyn.online.filter import OnlineFilter
from promptdyn.online.pool import Pool
from promptdyn.prompts import Columns, Ids, Prompts
from promptdyn.registry import describe

__all__ = ["OnlineModel"]

Floats = NDArray[np.float64]
State = TypeVar("State")


class OnlineModel(ABC, Generic[State]):
    """A recursion over training steps for a pool of prompts: `init` makes a state, `step` moves it, others read it.

    A state is a NamedTuple of arrays whose last axis is `prompt`; `step` may update it in place, so whatever
    the other methods return are arrays of its own. Beliefs are always about the *next* step, P(z_{t+1} | y_{0:t}).

        @dataclass(frozen=True)
        class Mine(OnlineModel):
            decay: float = 0.9  # settings are fields

            name = "mine"  # the rest of what the base class declares, where it differs

    For type checkers it may inherit from `OnlineModel[MyState]`.

    Attributes:
        name: what the model is called in texts and files.
        cluster: column(s) whose labels are the pool's clusters, or "auto" (`Prompts.kinds`). Default None: one cluster,
            labels are not asked for.
        features: column(s) that the pool's features come from. Default None: the model reads none. The state of one
            that does has a field `features`, (feature prompt).
        shared: fields of the state whose last axis is not `prompt` but `cluster`, or another that does not grow with
            the number of prompts.
        derived: fields of the state that follow from its features, and are therefore not saved.
        at_mean: True where forecasts are those at the mean of the parameters, to which draws need not average.
    """

    name: str
    cluster: Columns | None = None
    features: Columns | None = None
    shared: ClassVar[tuple[str, ...]] = ()
    derived: ClassVar[tuple[str, ...]] = ()
    at_mean: ClassVar[bool] = False

    def describe(self) -> dict[str, Any]:
        """JSON-able name and settings: a saved state is only loaded back into an equal model."""
        return describe(self)

    def for_pool(self, prompts: Prompts) -> Self:
        """The model for a pool: the same, or, where `cluster` is "auto", one that names the pool's own columns."""
        cluster = prompts.named(self.cluster)
        return self if cluster == self.cluster else replace(cast(Any, self), cluster=cluster)

    def online(self, prompts: Prompts | Ids) -> OnlineFilter:
        """Start filtering a pool.

        Args:
            prompts: the pool, with the columns that `cluster` and `features` name; where they name none, (prompt,) ids
                will do.

        Raises:
            InputError: an id appears twice, the pool is empty, or a column is missing or cannot be used.
        """
        return OnlineFilter(self, prompts)

    @abstractmethod
    def init(self, pool: Pool) -> State:
        """State of a pool of fresh prompts; that of a longer pool begins alike."""

    @abstractmethod
    def step(
        self,
        state: State,
        rows: NDArray[np.intp],
        num_successes: NDArray,
        num_rollouts: NDArray,
        trained: NDArray[np.bool_],
    ) -> State:
        """Absorb one training step's counts for the prompts `rows` and move every prompt to the next step."""

    @abstractmethod
    def belief(self, state: State) -> Floats:
        """(state prompt) probabilities."""

    @abstractmethod
    def outcome(self, state: State, num_rollouts: int | NDArray) -> Floats:
        """(outcome prompt): forecast chances that none, some, all of `num_rollouts` rollouts succeed."""

    @abstractmethod
    def informative(self, state: State, num_rollouts: int | NDArray, rng: np.random.Generator | None = None) -> Floats:
        """(prompt,) forecast P(0 < k < n); given `rng`, at one posterior draw per prompt instead of the mean."""

    @abstractmethod
    def success_rate(self, state: State, rng: np.random.Generator | None = None) -> Floats:
        """(prompt,) forecast chance that a rollout succeeds; given `rng`, one posterior draw per prompt."""
