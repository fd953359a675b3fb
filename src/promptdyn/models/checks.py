"""Check models, their settings and the chains that their programs return."""

from __future__ import annotations

import inspect
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from promptdyn.errors import InputError
from promptdyn.history import Counts, Exposure
from promptdyn.models.base import Array, Chain, DynamicsLike, Floats
from promptdyn.online import Forecaster, OnlineModel, Pool
from promptdyn.registry import subclass_fault

__all__ = [
    "check_chain",
    "check_decay",
    "check_dynamics",
    "check_forecaster",
    "check_whole",
    "model_fault",
    "probability_vector",
]

MAX_EXPOSURES = len(Exposure)
_online_fault = subclass_fault("model", OnlineModel, "promptdyn.online")
# Counts at which `check_chain` tries a chain's emission.
TRIED = Counts(*np.array([(0, 0)] + [(k, n) for n in (1, 2, 8) for k in range(n + 1)]).T)


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
