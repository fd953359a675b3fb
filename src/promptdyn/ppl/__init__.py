"""Interpreters of a model's program: NumPyro, Pyro, and NumPy at given parameters. They know of no model.

A backend is a file here with a class `Program`: a model's program over a pool, run at chosen parameters. It loads when
first asked for, so that a JAX-only user needs no torch and a torch-only user no JAX.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError, check_choice
from promptdyn.models.base import Array, Chain, DynamicsLike, Params, Pool, check_dynamics, cluster_of, for_pool
from promptdyn.ppl import observed as observed_programs
from promptdyn.ppl.fixed import chain_at

if TYPE_CHECKING:
    from promptdyn.history import DenseHistory, Observed, RewardHistory

__all__ = ["BACKENDS", "Backend", "Program", "chain_at", "load_backend", "program"]

Backend = Literal["numpyro", "pyro"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)


class Program(Protocol):
    """A model's program over a pool, in a backend's arrays. Made by `load_backend(name).Program(model, pool)`.

    Raises InputError, when made, if the program fails the contract: a chain of the wrong shape, a site sampled twice.
    """

    model: DynamicsLike
    pool: Pool
    start: Params
    """Where fitting starts, in NumPy: each site's `init`, or the mean of its distribution."""
    dims: dict[str, tuple[str, ...]]
    """Of each site the names of its axes: those of its plates, and "" for an axis of a single draw."""
    axis: str
    """What the chain's cluster axis is: "cluster" or "prompt"."""
    places: NDArray[np.integer] | None
    """(prompt,) of each prompt on the chain's cluster axis; None where one entry serves all."""

    num_states: int
    """The chain's."""

    def at(self, params: Mapping[str, Array]) -> tuple[Chain, Array]:
        """The chain, and the log density of the sites under their priors, differentiable in the parameters."""

    def unconstrain(self, params: Mapping[str, Array]) -> dict[str, Array]:
        """Some or all sites as arrays of real numbers, by the bijection to each one's support."""

    def constrain(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """The inverse of `unconstrain`."""

    def prior(self, num_samples: int, seed: int) -> Params:
        """site -> (draw ...) drawn from the program run forward, in NumPy."""

    def predictive(self, dense: DenseHistory, draws: Params, seed: int) -> NDArray[np.integer]:
        """(draw prompt step) success counts drawn for the groups of a history, one set per (draw ...) of the sites."""


def load_backend(name: Backend) -> ModuleType:
    """The module of a backend.

    Raises:
        InputError: it is none of `BACKENDS`.
        ModuleNotFoundError: what it stands on is not installed.
    """
    check_choice("backend", name, BACKENDS)
    return import_module(f"promptdyn.ppl.{name}")


def program(
    model: DynamicsLike,
    history: RewardHistory,
    backend: Backend = "numpyro",
    *,
    observed: Observed = "trained",
    enumerated: bool = False,
    condition: bool = True,
) -> Callable[[], Chain]:
    """A model with a history's counts observed, as a plain program: for your own MCMC, SVI, Predictive, render_model.

    Sites are those of the model's program and `num_successes`, (prompt step), in the plate "prompt": the counts of the
    groups that were observed, 0 elsewhere, with the latent paths summed out by the exact kernel.

        posterior = MCMC(NUTS(promptdyn.program(model, history)), ...).get_samples()
        forward = promptdyn.program(model, history, condition=False)
        shown = Predictive(forward, posterior)(key)["num_successes"]  # (draw prompt step)

    Args:
        model: what was declared.
        history: what was logged.
        backend: "numpyro" (default) or "pyro".
        observed: the rows to observe: "trained" (default), as live training would have, or "all".
        enumerated: instead of the kernel, make each state a site `latent_0`, `latent_1`, ... marked for parallel
            enumeration: the readable definition, for short histories. NumPyro enumerates with the package `funsor`.
        condition: True (default) observes the counts: what `Predictive` returns of them is what was logged. False
            draws them, those that the groups of the history might have shown; a group that comes out without variance
            moves its prompt as such.

    Returns:
        A function of no arguments that runs the program and returns its chain.

    Raises:
        InputError: no such backend, a model without a program, no rows, a program that fails the contract, or
            `enumerated` with `condition=False`.
    """
    check_dynamics(model)
    interpreter = load_backend(backend)
    visible = history.observed(observed)
    if len(visible) == 0:
        mend = "; observed='all' would use the others" if observed == "trained" and len(history) else ""
        raise InputError(f"the history has no rows (observed={observed!r}){mend}")
    model = for_pool(model, history.prompts)
    dense = visible.dense(cluster_of(model))
    interpreter.Program(model, Pool.of(dense))  # checks the contract
    if not enumerated:
        return lambda: interpreter.run(observed_programs.observed, model, dense, condition=condition)
    if not condition:
        raise InputError("enumerated=True with condition=False: an enumerated program draws no counts; leave one out")
    return lambda: interpreter.run(observed_programs.enumerated, model, dense)
