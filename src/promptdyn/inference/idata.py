"""Draws as ArviZ data, for ArviZ 0.2x and 1.x, which differ in one call."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from promptdyn.history import DenseHistory
from promptdyn.models.base import Dynamics, Pool
from promptdyn.ppl import Program
from promptdyn.ppl.fixed import Fixed

__all__ = ["inference_data", "rhat_and_ess"]

Draws = Mapping[str, NDArray]
Dims = dict[str, tuple[str, ...]]
# Labels of the exposures of a chain that has so many.
EXPOSURES = {1: ["any"], 2: ["idle", "trained"], 3: ["idle", "trained", "trained without variance"]}


@cache
def _arviz() -> Any:
    with warnings.catch_warnings():
        # 0.23 announces 1.0 each time it is loaded.
        warnings.filterwarnings("ignore", category=FutureWarning)
        import arviz
    return arviz


def _from_dict(groups: dict[str, dict[str, NDArray]], coords: dict[str, Any], dims: dict[str, list[str]]) -> Any:
    """InferenceData (ArviZ 0.2x) or DataTree (1.x)."""
    az = _arviz()
    if hasattr(az, "InferenceData"):
        return az.from_dict(**groups, coords=coords, dims=dims)
    return az.from_dict(groups, coords=coords, dims=dims)


def rhat_and_ess(draws: Draws) -> tuple[dict[str, float], dict[str, float]]:
    """Rank-normalised split R-hat and bulk effective sample size of every entry that moves, by "site[index]".

    Those of Vehtari et al. 2021; R-hat is that of the draws, not also of the folded ones, which among hundreds of
    entries exceeds any strict bound by chance.
    """
    az = _arviz()

    def chains(value: NDArray) -> NDArray:
        """A single chain as its two halves: ArviZ wants two."""
        half = value.shape[1] // 2
        return value if len(value) > 1 else np.stack([value[0, :half], value[0, -half:]])

    data = _from_dict({"posterior": {name: chains(np.asarray(value)) for name, value in draws.items()}}, {}, {})

    def entries(of: Any) -> dict[str, float]:
        made = of(data)
        dataset = made.posterior.dataset if hasattr(made, "posterior") else made
        found = {}
        for name in draws:
            for place, value in np.ndenumerate(dataset[name].values):
                label = f"{name}[{', '.join(map(str, place))}]" if place else name
                if not np.isnan(value):
                    found[label] = float(value)
        return found

    return entries(partial(az.rhat, method="z_scale")), entries(az.ess)


def inference_data(
    program: Program,
    draws: Draws,
    sample_stats: Draws,
    prior: Draws,
    dense: DenseHistory | None,
    log_likelihood: NDArray | None,
    predictive: Draws,
) -> Any:
    """ArviZ data of a fit.

    Args:
        program: what was fitted.
        draws: site -> (chain draw ...).
        sample_stats: name -> (chain draw); may be empty.
        prior: site -> (draw ...); may be empty.
        dense: the observed rows, and
        log_likelihood: (chain draw prompt) log p(a prompt's counts | draw); None where the history is not at hand.
        predictive: group of ArviZ -> (chain draw prompt step) success counts that the groups might have shown.
    """
    model, pool = program.model, program.pool
    first = {name: value[0, 0] for name, value in draws.items()}
    num_states = Fixed(first).run(model, pool).initial.shape[1]
    sizes: dict[str, int] = {"cluster": len(pool.cluster_names), "state": num_states}
    named: Dims = {}

    def name_axes(name: str, shape: tuple[int, ...], given: tuple[str, ...]) -> None:
        names: list[str] = []
        for i, size in enumerate(shape):
            axis = given[i] if i < len(given) else ""
            if not axis and size == num_states:
                axis = "next_state" if "state" in names else "state"
            axis = axis or f"{name}_dim_{i}"
            # An axis of a name that means another size elsewhere gets a name of its own.
            names.append(axis if sizes.setdefault(axis, size) == size and axis not in names else f"{name}_dim_{i}")
            sizes.setdefault(names[-1], size)
        named[name] = tuple(names)

    for name, value in first.items():
        name_axes(name, value.shape, program.dims[name])
    groups: dict[str, dict[str, NDArray]] = {"posterior": {k: np.asarray(v) for k, v in draws.items()}}
    if sample_stats:
        groups["sample_stats"] = dict(sample_stats)
    if prior:
        groups["prior"] = {name: np.asarray(value)[None] for name, value in prior.items()}
    for group in ("posterior", "prior"):
        if group in groups:
            for name, (value, given) in _recorded(model, pool, groups[group]).items():
                name_axes(name, value.shape[2:], given)
                groups[group][name] = value
    coords: dict[str, Any] = {name: np.arange(size) for name, size in sizes.items()}
    coords["cluster"] = list(pool.cluster_names)
    if "exposure" in sizes:
        coords["exposure"] = EXPOSURES.get(sizes["exposure"], coords["exposure"])
    if dense is not None and log_likelihood is not None:
        # A prompt that was never observed says nothing, and is there only where it has parameters of its own.
        own = any("prompt" in axes for axes in named.values())
        kept = np.arange(len(dense.prompt_ids)) if own else np.flatnonzero(dense.symbols.any(axis=0))
        groups["log_likelihood"] = {"history": log_likelihood[..., kept]}
        prompt, step = np.nonzero(dense.symbols.T)
        num_rollouts, num_successes = dense.counts[dense.symbols[step, prompt]].T
        groups["observed_data"] = {"num_successes": num_successes}
        groups["constant_data"] = {
            "prompt_id": np.array([str(i) for i in dense.prompt_ids])[prompt],
            "at_step": dense.steps[step],
            "num_rollouts": num_rollouts,
        }
        groups |= {name: {"num_successes": drawn[..., prompt, step]} for name, drawn in predictive.items()}
        named |= {"history": ("prompt",), **dict.fromkeys(("num_successes", *groups["constant_data"]), ("group",))}
        coords |= {"prompt": [str(i) for i in dense.prompt_ids[kept]], "group": np.arange(len(prompt))}
    used = {axis for axes in named.values() for axis in axes}
    return _from_dict(
        groups,
        {name: value for name, value in coords.items() if name in used},
        {name: list(axes) for name, axes in named.items()},
    )


def _recorded(model: Dynamics, pool: Pool, draws: Draws) -> dict[str, tuple[NDArray, tuple[str, ...]]]:
    """What the program records at each draw: name -> (chain draw ...) and names of its axes."""
    chains, num_draws = next(iter(draws.values())).shape[:2]
    runs = []
    for chain, draw in np.ndindex(chains, num_draws):
        fixed = Fixed({name: value[chain, draw] for name, value in draws.items()})
        fixed.run(model, pool)
        runs.append(fixed.recorded)
    return {
        name: (np.stack([run[name][0] for run in runs]).reshape(chains, num_draws, *value.shape), given)
        for name, (value, given) in runs[0].items()
    }
