"""Turn a fit into ArviZ data."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import PromptdynWarning
from promptdyn.history import DenseHistory
from promptdyn.history.events import exposure_names
from promptdyn.inference._arviz import from_dict
from promptdyn.inference.densities import load_density
from promptdyn.models.base import DynamicsLike, Pool
from promptdyn.ppl import Program, load_backend
from promptdyn.ppl.fixed import Fixed

if TYPE_CHECKING:
    from promptdyn.inference._arviz import InferenceData

__all__ = ["Fitted", "inference_data"]

# Number of draws from the prior, and number of sets of counts that are drawn at a single point.
PRIOR_DRAWS, POINT_DRAWS = 500, 100

Draws = Mapping[str, NDArray]
Groups = dict[str, dict[str, NDArray]]
Dims = dict[str, tuple[str, ...]]


class Fitted(Protocol):
    """What ArviZ data takes of a `Fit`."""

    @property
    def model(self) -> DynamicsLike:
        """The model that was fitted."""

    @property
    def pool(self) -> Pool:
        """Its clusters, and the prompts that have parameters of their own."""

    @property
    def prompt_ids(self) -> Sequence[str]:
        """Ids of these prompts."""

    @property
    def method(self) -> Mapping[str, Any]:
        """Name and settings of the engine, and its backend."""

    @property
    def params(self) -> Draws:
        """Site -> array."""

    @property
    def draws(self) -> Draws:
        """Site -> (chain draw ...) array; empty for one point."""

    @property
    def sample_stats(self) -> Draws:
        """ArviZ's name -> (chain draw) array."""


def inference_data(
    fit: Fitted, dense: DenseHistory | None, posterior_predictive: bool, prior_predictive: bool
) -> InferenceData:
    """Return ArviZ data of a fit, with the groups that need a history if `dense` is one; see `Fit.inference_data`."""
    backend = fit.method["backend"]
    draws = fit.draws or {name: value[None, None] for name, value in fit.params.items()}
    groups: Groups = {"posterior": {name: np.asarray(value) for name, value in draws.items()}}
    if fit.sample_stats:
        groups["sample_stats"] = dict(fit.sample_stats)
    if dense is None:
        program = load_backend(backend).Program(fit.model, fit.pool)
    else:
        density = load_density(backend)(fit.model, dense)
        program = density.program
        shape = next(iter(draws.values())).shape[:2]
        by_draw = [
            density.log_marginals({name: value[index] for name, value in draws.items()}) for index in np.ndindex(shape)
        ]
        groups["log_likelihood"] = {"history": np.reshape(by_draw, (*shape, -1))}
        _warn_of_log_likelihood(fit)
    prior = program.prior(PRIOR_DRAWS, seed=0)
    if prior:
        groups["prior"] = {name: np.asarray(value)[None] for name, value in prior.items()}
    if dense is not None and posterior_predictive:
        sites = draws if fit.draws else {name: np.repeat(value, POINT_DRAWS, axis=1) for name, value in draws.items()}
        groups["posterior_predictive"] = {"num_successes": _draw_counts(program, dense, sites)}
    if dense is not None and prior_predictive:
        groups["prior_predictive"] = {"num_successes": _draw_counts(program, dense, groups["prior"])}
    return _with_axes(program, groups, dense, fit.prompt_ids)


def _draw_counts(program: Program, dense: DenseHistory, draws: Draws) -> NDArray[np.integer]:
    """Draw (chain draw prompt step) success counts at (chain draw ...) sites."""
    shape = next(iter(draws.values())).shape[:2]
    counts = program.predictive(
        dense, {name: value.reshape(-1, *value.shape[2:]) for name, value in draws.items()}, seed=0
    )
    return counts.reshape(*shape, *counts.shape[1:])


def _warn_of_log_likelihood(fit: Fitted) -> None:
    """Warn if prompts cannot be left out by weighing draws (PSIS): `arviz.loo` would fail, or be too favorable."""
    if not fit.draws:
        reason = f"{fit.method['name']} finds one point and no posterior"
        mend = "fit with method='nuts' or 'svi'"
    elif fit.prompt_ids:
        reason = "it is conditional on each prompt's own parameters, which were learned from what is to be left out"
        mend = "fit a model in which clusters share chains"
    else:
        return
    warnings.warn(
        f"{fit.model.name}: the log likelihood in this ArviZ data is not for arviz.loo or arviz.compare: {reason}; "
        f"{mend}, or compare forecasts (promptdyn.compare)",
        PromptdynWarning,
        stacklevel=4,
    )


def _with_axes(
    program: Program, groups: Groups, dense: DenseHistory | None, prompt_ids: Sequence[str]
) -> InferenceData:
    """Return ArviZ data of the groups, with names for their axes.

    Args:
        program: the program that was fitted.
        groups: posterior, prior, sample_stats and, if there is a history, log_likelihood (chain draw prompt) and the
            predictive groups (chain draw prompt step).
        dense: that history; None without one.
        prompt_ids: ids of prompts that have parameters of their own.
    """
    model, pool = program.model, program.pool
    first = {name: value[0, 0] for name, value in groups["posterior"].items()}
    num_states = Fixed(first).run(model, pool).initial.shape[1]
    sizes: dict[str, int] = {"cluster": len(pool.cluster_names), "state": num_states}
    dims: Dims = {}

    def name_axes(name: str, shape: tuple[int, ...], axis_names: tuple[str, ...]) -> None:
        names: list[str] = []
        for i, size in enumerate(shape):
            axis = axis_names[i] if i < len(axis_names) else ""
            if not axis and size == num_states:
                axis = "next_state" if "state" in names else "state"
            axis = axis or f"{name}_dim_{i}"
            # An axis whose name has another size elsewhere gets a name of its own.
            names.append(axis if sizes.setdefault(axis, size) == size and axis not in names else f"{name}_dim_{i}")
            sizes.setdefault(names[-1], size)
        dims[name] = tuple(names)

    for name, value in first.items():
        name_axes(name, value.shape, program.dims[name])
    for group in ("posterior", "prior"):
        if group in groups:
            for name, (value, axes) in _recorded(model, pool, groups[group]).items():
                name_axes(name, value.shape[2:], axes)
                groups[group][name] = value
    coords: dict[str, Any] = {name: np.arange(size) for name, size in sizes.items()}
    coords["cluster"] = list(pool.cluster_names)
    if "exposure" in sizes:
        coords["exposure"] = list(exposure_names(sizes["exposure"]))
    if sizes.get("prompt") == len(prompt_ids):
        coords["prompt"] = list(prompt_ids)
    if dense is not None:
        # A prompt that was never observed is left out, unless it has parameters of its own.
        included = slice(None) if "prompt" in sizes else dense.symbols.any(axis=0)
        groups["log_likelihood"]["history"] = groups["log_likelihood"]["history"][..., included]
        prompt, step = np.nonzero(dense.symbols.T)
        num_successes, num_rollouts = (count[dense.symbols[step, prompt]] for count in dense.counts)
        ids = np.array([str(prompt_id) for prompt_id in dense.prompt_ids])
        groups["observed_data"] = {"num_successes": num_successes}
        groups["constant_data"] = {"prompt_id": ids[prompt], "at_step": dense.steps[step], "num_rollouts": num_rollouts}
        for name in ("posterior_predictive", "prior_predictive"):
            if name in groups:
                groups[name]["num_successes"] = groups[name]["num_successes"][..., prompt, step]
        dims |= {"history": ("prompt",), **dict.fromkeys(("num_successes", *groups["constant_data"]), ("group",))}
        coords |= {"prompt": list(ids[included]), "group": np.arange(len(prompt))}
    used = {axis for axes in dims.values() for axis in axes}
    return from_dict(
        groups,
        {name: value for name, value in coords.items() if name in used},
        {name: list(axes) for name, axes in dims.items()},
    )


def _recorded(model: DynamicsLike, pool: Pool, draws: Draws) -> dict[str, tuple[NDArray, tuple[str, ...]]]:
    """Return the values that the program records: name -> (chain draw ...) values, and the names of their axes."""
    chains, num_samples = next(iter(draws.values())).shape[:2]
    runs = []
    for chain, draw in np.ndindex(chains, num_samples):
        fixed = Fixed({name: value[chain, draw] for name, value in draws.items()})
        fixed.run(model, pool)
        runs.append(fixed.recorded)
    return {
        name: (np.stack([run[name][0] for run in runs]).reshape(chains, num_samples, *value.shape), axes)
        for name, (value, axes) in runs[0].items()
    }
