"""The contract of whatever filters a pool of prompts live. Knows nothing of fitting.

An *outcome* is one of three kinds of rollout group: none succeeded, some did (informative: 0 < k < n), all did.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = ["OnlineModel"]

Floats = NDArray[np.float64]


@runtime_checkable
class OnlineModel(Protocol):
    """A recursion over training steps for a pool of prompts, as a pair of functions `init` / `step` on a state.

    A state is a NamedTuple of arrays whose last axis is `prompt`; `step` may update it in place, so whatever
    the other methods return are arrays of its own. Beliefs are always about the *next* step, P(z_{t+1} | y_{0:t}).

    Optional attributes: `cluster`, the column(s) of a history whose labels `init` is given, and `shared`, the names of
    the state's fields whose last axis is not `prompt` but `cluster`, in the order in which labels first appear, or
    another that does not grow with the pool.

    A model that reads features of the prompts has an attribute `features`, which says which: `init` is then given
    (prompt feature) numbers after the labels, and the state has a field `features`, (feature prompt). `derived` names
    the fields that follow from it and are therefore not saved. `at_mean`, where true, says that forecasts are those of
    the parameters' mean, so that posterior draws need not average to them.
    """

    name: str

    def describe(self) -> dict[str, Any]:
        """JSON-able name and settings: a saved state is only loaded back into an equal model."""

    def init(self, clusters: Sequence[str | None]) -> Any:
        """State of fresh prompts, one for each cluster label given; that of a longer list begins alike."""

    def step(
        self,
        state: Any,
        rows: NDArray[np.intp],
        num_successes: NDArray,
        num_rollouts: NDArray,
        trained: NDArray[np.bool_],
    ) -> Any:
        """Absorb one training step's counts for the prompts `rows` and move every prompt to the next step."""

    def belief(self, state: Any) -> Floats:
        """(state prompt) probabilities."""

    def outcome(self, state: Any, num_rollouts: int | NDArray) -> Floats:
        """(outcome prompt): forecast chances that none, some, all of `num_rollouts` rollouts succeed."""

    def informative(self, state: Any, num_rollouts: int | NDArray, rng: np.random.Generator | None = None) -> Floats:
        """(prompt,) forecast P(0 < k < n); given `rng`, at one posterior draw per prompt instead of the mean."""

    def success_rate(self, state: Any, rng: np.random.Generator | None = None) -> Floats:
        """(prompt,) forecast chance that a rollout succeeds; given `rng`, one posterior draw per prompt."""
