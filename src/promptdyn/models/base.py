"""The interface of dynamics models. This module knows nothing of inference algorithms, backends and trainers.

Two kinds of model:

- `Dynamics`: a generative program, fitted offline; the chain that it returns is then frozen and filtered online;
- `OnlineModel` (`promptdyn.online`): a recursion that learns while it filters, with no fit (`DPS`, `BetaBernoulli`).

The axes have the same names everywhere: ``prompt step state symbol exposure cluster``. A *symbol* is one distinct
success count and group size, k of n; symbol 0 is 0 of 0, "not observed". *Exposure* tells what a step did to a prompt:
0 left it idle, 1 trained on it, 2 trained on a group of it without variance (all rollouts failed or all succeeded),
which gives no gradient.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from numbers import Integral
from types import ModuleType
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias, TypeVar, cast, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from promptdyn.errors import InputError
from promptdyn.history import Counts
from promptdyn.online import Forecaster, OnlineModel, Pool
from promptdyn.prompts import Columns, Prompts
from promptdyn.registry import subclass_fault

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
    "check_chain",
    "check_decay",
    "check_dynamics",
    "check_forecaster",
    "check_whole",
    "cluster_of",
    "for_pool",
    "model_fault",
]

Floats = NDArray[np.float64]
Params = dict[str, Floats]
Array: TypeAlias = Any
"""An array of the library that the program runs in: NumPy's, JAX's or torch's, which have no type in common."""
Distribution: TypeAlias = Any
"""A distribution of `ppl.dist`: NumPyro's or Pyro's, which have no type in common either."""
MAX_EXPOSURES = 3
Declared = TypeVar("Declared", bound="DynamicsLike")
_online_fault = subclass_fault("model", OnlineModel, "promptdyn.online")
# Counts at which `check_chain` tries a chain's emission.
TRIED = Counts(*np.array([(0, 0)] + [(k, n) for n in (1, 2, 8) for k in range(n + 1)]).T)


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


def model_fault(cls: type) -> str:
    """Say what a class lacks that a model of either kind needs; "" if nothing is missing."""
    if not issubclass(cls, OnlineModel):
        if callable(getattr(cls, "program", None)):
            return ""
        return "is no model: give it program(self, ppl, pool), or let it inherit from promptdyn.online.OnlineModel"
    return _online_fault(cls)


def check_dynamics(model: object) -> DynamicsLike:
    """Return a model that has a program, or raise InputError that says what it is instead."""
    _check_is_no_class(model)
    if isinstance(model, DynamicsLike):
        return model
    kind = type(model).__name__
    if callable(getattr(model, "program", None)):
        raise InputError(f"{kind} has a program and no name: give the class one, name = {kind.lower()!r}")
    if isinstance(model, OnlineModel):
        raise InputError(
            f"{kind} has no program, nothing to fit or to run forward: it learns online, by .online(prompts)"
        )
    raise InputError(f"{model!r} is no dynamics model: give one with a program, such as promptdyn.models.DiscreteHMM()")


def check_forecaster(model: object) -> Forecaster:
    """Return a model that can forecast without a fit, or raise InputError that says what it is instead."""
    _check_is_no_class(model)
    if isinstance(model, DynamicsLike):
        raise InputError(
            f"model {model.name!r} must be fitted first: give a fit (.npz) made by `promptdyn fit`, or let "
            "a run refit it (`Refitted`, `train --refit-every`)"
        )
    if not isinstance(model, Forecaster):
        raise InputError(
            f"{model!r} is no dynamics model: give a Fit, a Refitted, or a model that inherits from OnlineModel"
        )
    return model


def _check_is_no_class(model: object) -> None:
    """Raise InputError if `model` is a class and not an instance of one."""
    if isinstance(model, type):
        raise InputError(f"{model.__name__} is a class: give a model made of it, {model.__name__}()")


def cluster_of(model: DynamicsLike) -> Columns | None:
    """Return the column(s) of the history whose levels have parameters of their own; None if all prompts share them."""
    return as_dynamics(model).cluster


def for_pool(model: Declared, prompts: Prompts) -> Declared:
    """Return the model with a `cluster` of "auto" replaced by the names of the pool's columns."""
    cluster = cluster_of(model)
    named = prompts.resolve(cluster)
    return model if named == cluster else cast(Declared, replace(cast(Any, model), cluster=named))


def check_chain(name: str, chain: object, pool: Pool, tolerance: float = 1e-4) -> None:
    """Raise InputError unless a program returned a chain of the right shapes, with rows that are probabilities.

    Args:
        name: name of the model, for the message.
        chain: what the program returned when it ran in NumPy.
        pool: the pool that the program ran for.
        tolerance: how far the sum of a row may be from 1; default 1e-4.
    """

    def error(fault: str) -> InputError:
        return InputError(f"model {name!r}: its program's {fault}")

    if not isinstance(chain, Chain):
        raise error(f"result is a {type(chain).__name__}: return a Chain(initial, transition, emission)")
    if chain.axis not in ("cluster", "prompt"):
        raise error(f"chain has axis={chain.axis!r}: it is 'cluster' or 'prompt'")

    def in_numpy(array_name: str, array: Array) -> NDArray[Any]:
        """Return a NumPy array, or raise: an array of JAX or torch would make every live filter load that package."""
        package = type(array).__module__.partition(".")[0]
        if package in ("jax", "jaxlib", "torch"):
            raise error(
                f"{array_name} is an array of {package} where it runs in NumPy: compute with ppl.xp, not with {package}"
            )
        return np.asarray(array)

    initial, transition = in_numpy("initial", chain.initial), in_numpy("transition", chain.transition)
    entries = pool.num_prompts if chain.axis == "prompt" else pool.num_clusters
    if initial.ndim != 2 or initial.shape[0] not in (1, entries):
        raise error(f"initial has shape {initial.shape}: need ({chain.axis} state), with 1 or {entries} rows")
    num_states = initial.shape[1]
    shape = transition.shape
    if (
        transition.ndim != 4
        or not 1 <= shape[0] <= MAX_EXPOSURES
        or shape[1] not in (1, entries)
        or shape[2:] != (num_states, num_states)
    ):
        raise error(
            f"transition has shape {shape}: need (exposure {chain.axis} state state), 1 to {MAX_EXPOSURES} x 1 or "
            f"{entries} x {num_states} x {num_states}"
        )
    for array_name, rows in (("initial", initial), ("transition", transition)):
        bad = ~((rows >= 0).all(axis=-1) & (np.abs(rows.sum(axis=-1) - 1.0) <= tolerance))
        for index in np.argwhere(bad)[:1]:
            raise error(
                f"{array_name}[{', '.join(map(str, index))}] is "
                f"{np.array2string(rows[tuple(index)], precision=4, threshold=8)}: a row must hold probabilities that "
                "add up to 1"
            )
    arguments = list(inspect.signature(chain.emission.log_prob).parameters)
    if arguments != ["num_successes", "num_rollouts", "xp"]:
        raise error(
            f"emission has log_prob({', '.join(arguments)}): write log_prob(self, num_successes, num_rollouts, xp=np), "
            "which takes (symbol,) counts and group sizes"
        )
    table = in_numpy("emission", chain.log_emission(TRIED))
    num_symbols = len(TRIED.num_rollouts)
    if table.shape != (num_states, num_symbols):
        raise error(f"emission gives log_prob of shape {table.shape}: need (state symbol) = {num_states, num_symbols}")
    symbols = [f"{k} of {n}" for k, n in zip(*TRIED, strict=True)]
    for state, symbol in np.argwhere(np.isnan(table) | (table > tolerance))[:1]:
        raise error(
            f"emission gives log P({symbols[symbol]}) = {table[state, symbol]} in state {state}: need a number <= 0"
        )
    for symbol in np.flatnonzero(np.all(table == -np.inf, axis=0))[:1]:
        raise error(f"emission gives {symbols[symbol]} successes no chance in any state: at least one state must")
    if np.any(np.abs(table[:, 0]) > tolerance):
        raise error("emission gives log_prob other than 0 at 0 of 0: a group that was not observed says nothing")


def check_decay(decay: float, model: str, setting: str = "decay") -> None:
    """Raise InputError unless 0 < decay <= 1."""
    if not 0.0 < decay <= 1.0:
        raise InputError(f"{model}: {setting}={decay} is outside (0, 1]; 1 never forgets, 0.5 halves old counts")


def check_whole(model: object, setting: str, least: int) -> None:
    """Raise InputError unless a model's setting is a whole number of at least `least`."""
    value = getattr(model, setting)
    if not isinstance(value, Integral) or value < least:
        raise InputError(f"{type(model).__name__}: {setting}={value} must be a whole number, at least {least}")


def probability_vector(values: ArrayLike, length: int, name: str) -> Floats:
    """Return `values` as a (length,) float array, or raise InputError if it is no probability vector."""
    vector = np.asarray(values, dtype=float)
    if vector.shape != (length,) or not np.all(vector >= 0) or not np.isclose(vector.sum(), 1.0):
        raise InputError(f"{name}={values!r} is not {length} probabilities that add up to 1")
    return vector
