"""The contracts that every dynamics model meets. Knows nothing of inference algorithms and trainers.

Two kinds of model:

- a `MarkovModel` is fitted offline; its parameters are then frozen and filtered online;
- an `OnlineModel` needs no fit: it learns while it filters (`DPS`, `BetaBernoulli`), as a pair of functions
  `init` / `step` on a state. A frozen Markov model is turned into one of these by `promptdyn.inference`.

Axis words everywhere: ``prompt step state symbol exposure cluster``. An *outcome* is one of three kinds of
rollout group: none succeeded, some did (informative: 0 < k < n), all did.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from promptdyn.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptdyn.inference.online import OnlineFilter

__all__ = ["Components", "Conjugate", "MarkovModel", "OnlineModel", "Params", "Statistics", "check_decay"]

Floats = NDArray[np.float64]
Params = dict[str, Floats]


class Components(NamedTuple):
    """A finite-state Markov model of prompts, spelled out as arrays."""

    initial: NDArray  # (cluster state) probabilities
    transition: NDArray  # (exposure cluster state state) row-stochastic [current, next]
    log_emission: NDArray  # (state symbol) log-probabilities; (n, k) = (0, 0), "missing", is 0


class Statistics(NamedTuple):
    """Expected counts from which a model re-estimates its parameters (the M-step of EM)."""

    initial: Floats  # (cluster state)
    transition: Floats  # (exposure cluster state state)
    emission: Floats  # (state symbol)
    counts: NDArray[np.int32]  # (symbol, 2): num_rollouts, num_successes of each symbol


@runtime_checkable
class MarkovModel(Protocol):
    """A model that is (or is discretised to) a finite-state Markov chain per prompt."""

    name: str
    num_states: int

    @property
    def cluster(self) -> str | tuple[str, ...] | None:
        """Column(s) of the history whose levels have parameters of their own; None for one set for all."""

    def describe(self) -> dict[str, Any]:
        """JSON-able name and settings, from which the registry makes the model again."""

    def initial_params(self, num_clusters: int) -> Params:
        """Where fitting starts from."""

    def components(self, params: Params, counts: NDArray, xp: Any = np) -> Components:
        """Pure array code: `params` and symbols' (num_rollouts, num_successes) -> the arrays of the chain."""

    def maximise(self, statistics: Statistics) -> Params:
        """Parameters that maximise expected complete-data log likelihood plus log prior."""

    def log_prior(self, params: Params) -> float:
        """Log prior density of the parameters, up to a constant."""

    def success_rates(self, params: Params) -> Floats:
        """(state,) chance that a rollout succeeds."""


@runtime_checkable
class OnlineModel(Protocol):
    """A recursion over training steps for a pool of prompts.

    A state is a NamedTuple of arrays whose last axis is `prompt`; `step` may update it in place, so whatever
    the other methods return are arrays of its own. Beliefs are always about the *next* step, P(z_{t+1} | y_{0:t}).
    """

    name: str

    def describe(self) -> dict[str, Any]:
        """JSON-able name and settings: a saved state is only loaded back into an equal model."""

    def init(self, clusters: Sequence[str | None]) -> Any:
        """State of fresh prompts, one for each cluster label given."""

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


class Conjugate:
    """Gives an `OnlineModel` that learns without a fit its `online` method."""

    def online(self: Any, prompt_ids: Sequence[str], clusters: Sequence[str | None] | None = None) -> OnlineFilter:
        """Start filtering a pool.

        Args:
            prompt_ids: (prompt,) unique ids.
            clusters: (prompt,) labels, for models that use them.

        Raises:
            InputError: an id appears twice or the pool is empty.
        """
        from promptdyn.inference.online import OnlineFilter

        return OnlineFilter(self, prompt_ids, clusters)


def check_decay(decay: float, model: str) -> None:
    """Raise InputError unless 0 < decay <= 1."""
    if not 0.0 < decay <= 1.0:
        raise InputError(f"{model}: decay={decay} is outside (0, 1]; 1 never forgets, 0.5 halves old counts each step")


def probability_vector(values: ArrayLike, length: int, name: str) -> Floats:
    """Return `values` as a (length,) float array, or raise InputError where it is no probability vector."""
    vector = np.asarray(values, dtype=float)
    if vector.shape != (length,) or not np.all(vector >= 0) or not np.isclose(vector.sum(), 1.0):
        raise InputError(f"{name}={values!r} is not {length} probabilities that add up to 1")
    return vector
