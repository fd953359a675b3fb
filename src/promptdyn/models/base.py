"""The contracts that every dynamics model meets. Knows nothing of inference algorithms and trainers.

Two kinds of model:

- a `MarkovModel` is fitted offline; its parameters are then frozen and filtered online;
- an `OnlineModel` (`promptdyn.online`) needs no fit: it learns while it filters (`DPS`, `BetaBernoulli`). A fitted
  Markov model becomes one of these as a `FrozenChain`.

Axis words everywhere: ``prompt step state symbol exposure cluster``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from promptdyn.errors import InputError
from promptdyn.online import OnlineFilter

__all__ = ["Components", "Conjugate", "MarkovModel", "Params", "Statistics", "check_decay"]

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
