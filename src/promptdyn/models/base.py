"""The interface of dynamics models. This module knows nothing of inference algorithms, backends and trainers.

Two kinds of model:

- `Dynamics`: a generative program, fitted offline; the chain that it returns is then frozen and filtered online;
- `OnlineModel` (`promptdyn.online`): a recursion that learns while it filters, with no fit (`DPS`, `BetaBernoulli`).

The axes have the same names everywhere: ``prompt step state symbol exposure cluster``. A *symbol* is one distinct
success count and group size, k of n; symbol 0 is 0 of 0, "not observed". *Exposure* tells what a step did to a prompt:
0 left it idle, 1 trained on it, 2 trained on a group of it without variance (`promptdyn.history.Exposure`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from types import ModuleType
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias, TypeVar, cast, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from promptdyn.history import Counts
from promptdyn.online import Pool
from promptdyn.prompts import Columns, Prompts

__all__ = [
    "PPL",
    "Array",
    "Chain",
    "Distribution",
    "Dynamics",
    "DynamicsLike",
    "Emission",
    "Params",
    "Statistics",
    "as_dynamics",
    "cluster_of",
    "for_pool",
]

Floats = NDArray[np.float64]
Params = dict[str, Floats]
Array: TypeAlias = Any
"""An array of the library that the program runs in: NumPy's, JAX's or torch's, which have no type in common."""
Distribution: TypeAlias = Any
"""A distribution of `ppl.dist`: NumPyro's or Pyro's, which have no type in common either."""
Declared = TypeVar("Declared", bound="DynamicsLike")


class PPL(Protocol):
    """What a program may use of its backend: the names that NumPyro and Pyro share, and an array module."""

    @property
    def dist(self) -> ModuleType:
        """Distributions: `numpyro.distributions`, `pyro.distributions`."""

    @property
    def xp(self) -> ModuleType:
        """Array functions by their array-API names: `jax.numpy`, torch, `numpy`."""

    def sample(self, name: str, distribution: Distribution, init: ArrayLike | None = None) -> Array:
        """Draw a named random value. A fit starts from `init`, by default from the distribution's mean."""

    def plate(self, name: str, size: int) -> AbstractContextManager:
        """Make independent copies along a new axis. The first plate entered is the rightmost batch axis."""

    def deterministic(self, name: str, value: Array, dims: Sequence[str] = ()) -> Array:
        """Record a value under a name, so that draws show it. `dims` names its axes; by default they are numbered."""


class Emission(Protocol):
    """The probability of k successes in n rollouts in each state."""

    def log_prob(
        self, num_successes: NDArray[np.integer], num_rollouts: NDArray[np.integer], xp: ModuleType = np
    ) -> Array:
        """Return (state symbol) log-probabilities of (symbol,) counts of group sizes; 0 where `num_rollouts` is 0.

        Args:
            num_successes: (symbol,) k, NumPy's integers.
            num_rollouts: (symbol,) n, NumPy's integers.
            xp: array module of the result: `numpy`, `jax.numpy`, or torch's of `array_api_compat`.
        """


class Chain(NamedTuple):
    """A finite-state Markov chain for each prompt, which a program returns.

    The cluster axis has one entry that all prompts share, or one per cluster, or, with `axis="prompt"`, one per prompt.
    """

    initial: Array  # (cluster state) probabilities
    transition: Array  # (exposure cluster state state), row-stochastic [current, next]; one to three exposures
    emission: Emission
    axis: str = "cluster"

    def cluster_index(self, pool: Pool) -> NDArray[np.integer] | None:
        """Return each prompt's (prompt,) index on the cluster axis; None where all prompts share one entry."""
        if max(self.initial.shape[0], self.transition.shape[1]) == 1:
            return None
        return np.arange(pool.num_prompts) if self.axis == "prompt" else pool.cluster

    def log_emission(self, counts: Counts, xp: ModuleType = np) -> Array:
        """Return the emission's (state symbol) log-probabilities of `counts`, in arrays of `xp`."""
        return self.emission.log_prob(num_successes=counts.num_successes, num_rollouts=counts.num_rollouts, xp=xp)


@runtime_checkable
class DynamicsLike(Protocol):
    """A dynamics model as `fit` and the others take it: `name` and `program`, whether or not it inherits `Dynamics`."""

    @property
    def name(self) -> str:
        """Name of the model in texts and files."""

    def program(self, ppl: PPL, pool: Pool) -> Chain:
        """Draw the parameters with `ppl.sample` and return the chain that they give."""


class Dynamics(ABC):
    """A dynamics model: its settings, and one method that is its generative program.

    A model may inherit from this class, or only have the same names. All but `name` and `program` may be left out.

    Attributes:
        name: name of the model in texts and files.
        cluster: column(s) of the history whose labels are the pool's clusters, or "auto" (`Prompts.auto_columns`).
            Default None: one cluster.
        fitted_by: method that `fit` uses by default; "em" if left out.
        empirical_bayes: True if `m_step` maximizes the likelihood of some sites with the others summed out, so that EM
            need not raise the log joint. Default False.
    """

    name: str
    cluster: Columns | None = None
    fitted_by: ClassVar[str] = "em"
    empirical_bayes: ClassVar[bool] = False

    @abstractmethod
    def program(self, ppl: PPL, pool: Pool) -> Chain:
        """Draw the parameters with `ppl.sample` and return the chain that they give."""

    def m_step(self, statistics: Statistics, params: Params) -> Params:
        """Return new values of some or all sites by the closed form of EM's M-step; EM climbs to the others' values.

        The default has a closed form for no site.

        Args:
            statistics: expected counts.
            params: values of all sites before the step.
        """
        return {}


class _Completed(Dynamics):
    """A model that does not inherit `Dynamics`, with the base class's defaults for what it leaves out."""

    def __init__(self, model: DynamicsLike) -> None:
        self._model, self.name = model, model.name
        for side in ("cluster", "fitted_by", "empirical_bayes", "m_step"):
            setattr(self, side, getattr(model, side, getattr(self, side)))

    def program(self, ppl: PPL, pool: Pool) -> Chain:
        return self._model.program(ppl, pool)


def as_dynamics(model: DynamicsLike) -> Dynamics:
    """Return the model with everything that `Dynamics` declares: itself if it inherits it, else a wrapper."""
    return model if isinstance(model, Dynamics) else _Completed(model)


class Statistics(NamedTuple):
    """Expected counts, on the chain's own axes, from which a model re-estimates its parameters (EM's M-step)."""

    initial: Floats  # (cluster state)
    transition: Floats  # (exposure cluster state state)
    emission: Floats  # (state symbol)
    counts: Counts  # of each symbol


def cluster_of(model: DynamicsLike) -> Columns | None:
    """Return the column(s) of the history whose levels have parameters of their own; None if all prompts share them."""
    return as_dynamics(model).cluster


def for_pool(model: Declared, prompts: Prompts) -> Declared:
    """Return the model with a `cluster` of "auto" replaced by the names of the pool's columns."""
    cluster = cluster_of(model)
    named = prompts.resolve(cluster)
    return model if named == cluster else cast(Declared, replace(cast(Any, model), cluster=named))
