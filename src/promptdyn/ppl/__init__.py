"""Interpreters of a model's program: NumPyro, Pyro, and NumPy at given parameters. They know no model.

A backend is a file here with a class `Program`, which runs a model's program over a pool at given parameters. It loads
when it is first used, so that JAX users need no torch, and torch users no JAX.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError, check_choice, install_hint
from promptdyn.models.base import Array, Chain, DynamicsLike, Params, Pool, cluster_of, for_pool
from promptdyn.models.checks import check_dynamics
from promptdyn.ppl import observed as observed_programs
from promptdyn.ppl.fixed import chain_at

if TYPE_CHECKING:
    from promptdyn.history import DenseHistory, Observed, RewardHistory

__all__ = ["BACKENDS", "Backend", "Program", "chain_at", "load_backend", "program"]

Backend = Literal["numpyro", "pyro"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)


class Program(Protocol):
    """A model's program over a pool, in a backend's arrays. Make one with `load_backend(name).Program(model, pool)`.

    Raises:
        InputError: the program breaks its contract, as by a chain of the wrong shape or a site that is sampled twice.
    """

    model: DynamicsLike
    pool: Pool
    start: Params
    """Values at which a fit starts, in NumPy: each site's `init`, or the mean of its distribution."""
    dims: dict[str, tuple[str, ...]]
    """Site -> the names of its axes: those of its plates, and "" for an axis within a single draw."""
    axis: str
    """The meaning of the chain's cluster axis: "cluster" or "prompt"."""
    cluster_index: NDArray[np.integer] | None
    """(prompt,) index of each prompt on the chain's cluster axis; None if all prompts share one entry."""

    num_states: int
    """Number of states of the chain."""

    def evaluate(self, params: Mapping[str, Array]) -> tuple[Chain, Array]:
        """Return the chain at given parameters, and the sites' log prior density, differentiable in the parameters."""

    def unconstrain(self, params: Mapping[str, Array]) -> dict[str, Array]:
        """Return some or all sites as arrays of real numbers, by the bijection of each site's support."""

    def constrain(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """Return sites from arrays of real numbers; the inverse of `unconstrain`."""

    def prior(self, num_samples: int, seed: int) -> Params:
        """Draw site -> (draw ...) values from the prior, in NumPy."""

    def predictive(self, dense: DenseHistory, draws: Params, seed: int) -> NDArray[np.integer]:
        """Draw (draw prompt step) success counts for the groups of a history, one set per draw of the sites."""


def load_backend(name: Backend) -> ModuleType:
    """Return the module of a backend.

    Raises:
        InputError: the name is none of `BACKENDS`.
        ModuleNotFoundError: the backend's library is not installed.
    """
    check_choice("backend", name, BACKENDS)
    with install_hint():
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
    """Return a plain program of a model with a history's counts observed, for your own MCMC, SVI or Predictive.

    The sites are those of the model's program and `num_successes`, (prompt step), in the plate "prompt": the counts of
    the groups that were observed, 0 elsewhere, with the latent paths summed out by the exact kernel.

        posterior = MCMC(NUTS(promptdyn.program(model, history)), ...).get_samples()
        forward = promptdyn.program(model, history, condition=False)
        shown = Predictive(forward, posterior)(key)["num_successes"]  # (draw prompt step)

    Args:
        model: the model.
        history: the history whose counts are observed.
        backend: "numpyro" (default) or "pyro".
        observed: the rows to observe: "trained" (default), as live training would have, or "all".
        enumerated: True makes each state a site `latent_0`, `latent_1`, ... marked for parallel enumeration, instead
            of the kernel: the readable definition, for short histories. NumPyro needs the package `funsor` for it.
            Default False.
        condition: True (default) observes the counts, so that `Predictive` returns them as they were logged. False
            draws counts for the same groups; if a drawn group has no variance, its prompt moves accordingly.

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
    interpreter.Program(model, Pool.from_dense(dense))  # checks the contract
    if not enumerated:
        return lambda: interpreter.run(observed_programs.observed, model, dense, condition=condition)
    if not condition:
        raise InputError("enumerated=True with condition=False: an enumerated program draws no counts; leave one out")
    return lambda: interpreter.run(observed_programs.enumerated, model, dense)
