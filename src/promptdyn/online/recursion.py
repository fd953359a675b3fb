"""The mathematics of a model that filters a pool of prompts live. This module knows nothing of fitting.

An *outcome* of a rollout group is one of three (`promptdyn.history.Outcome`): none succeeded, some did, or all did.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, ClassVar, Generic, Self, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from promptdyn.online.pool import Pool
from promptdyn.prompts import Columns, Prompts
from promptdyn.registry import describe

__all__ = ["Recursion", "State"]

Floats = NDArray[np.float64]
State = TypeVar("State")


class Recursion(ABC, Generic[State]):
    """A recursion over training steps for a pool of prompts: what an `OnlineFilter` runs.

    `init` makes a state, `step` moves it to the next training step, and the other methods read it. A state is a
    NamedTuple of arrays whose last axis is `prompt`. `step` may update it in place, so the other methods return new
    arrays. Beliefs are always about the *next* step, P(z_{t+1} | y_{0:t}).

    Attributes:
        name: name of the model in texts and files.
        cluster: column(s) whose labels are the pool's clusters, or "auto" (`Prompts.auto_columns`). Default None: one
            cluster, and no labels are needed.
        features: column(s) from which the pool's features are made. Default None: the model uses none. The state of a
            model that does has a field `features`, (feature prompt).
        shared: names of the state's fields whose last axis is not `prompt` but `cluster`, or another axis that does not
            grow with the number of prompts.
        derived: names of the state's fields that can be computed from its features, and are therefore not saved.
        at_mean: True if forecasts are computed at the mean of the parameters, so that draws need not average to them.
    """

    name: str
    cluster: Columns | None = None
    features: Columns | None = None
    shared: ClassVar[tuple[str, ...]] = ()
    derived: ClassVar[tuple[str, ...]] = ()
    at_mean: ClassVar[bool] = False

    def describe(self) -> dict[str, Any]:
        """Return JSON-able name and settings. A saved state loads only into a model with the same ones."""
        return describe(self)

    def for_pool(self, prompts: Prompts) -> Self:
        """Return the model with a `cluster` of "auto" replaced by the names of the pool's columns."""
        cluster = prompts.resolve(self.cluster)
        return self if cluster == self.cluster else replace(cast(Any, self), cluster=cluster)

    @abstractmethod
    def init(self, pool: Pool) -> State:
        """Return the initial state of a pool. The state of a longer pool must begin with that of a shorter one."""

    @abstractmethod
    def step(
        self,
        state: State,
        rows: NDArray[np.intp],
        num_successes: NDArray,
        num_rollouts: NDArray,
        trained: NDArray[np.bool_],
    ) -> State:
        """Condition the prompts `rows` on one training step's counts, and move every prompt to the next step.

        Args:
            state: the state before the step.
            rows: (group,) index of each group's prompt, each prompt at most once.
            num_successes: (group,) k.
            num_rollouts: (group,) n >= 1.
            trained: (group,) whether the group fed the gradient.
        """

    @abstractmethod
    def belief(self, state: State) -> Floats:
        """Return (state prompt) probabilities."""

    @abstractmethod
    def outcome(self, state: State, num_rollouts: int | NDArray) -> Floats:
        """Return (outcome prompt) forecast chances that none, some and all of `num_rollouts` rollouts succeed."""

    @abstractmethod
    def informative(self, state: State, num_rollouts: int | NDArray, rng: np.random.Generator | None = None) -> Floats:
        """Return (prompt,) forecasts P(0 < k < n); with `rng`, at one posterior draw per prompt instead of the mean."""

    @abstractmethod
    def success_rate(self, state: State, rng: np.random.Generator | None = None) -> Floats:
        """Return (prompt,) forecast chances that a rollout succeeds; with `rng`, one posterior draw per prompt."""

    def weights(self, state: State) -> dict[str, float]:
        """Return what the forecasts go by, name -> weight. Default: {}, for a model that weighs nothing."""
        return {}
