"""Fit a model to a reward history."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial

import numpy as np

from promptdyn.errors import ConvergenceWarning, InputError
from promptdyn.history import Observed, RewardHistory
from promptdyn.inference.densities import load_density
from promptdyn.inference.engines import METHODS, Engine
from promptdyn.inference.engines.base import check_result
from promptdyn.inference.fit import Fit
from promptdyn.models.base import DynamicsLike, as_dynamics, cluster_of, for_pool
from promptdyn.models.checks import check_dynamics
from promptdyn.ppl import Backend
from promptdyn.progress import Report, bars
from promptdyn.registry import describe

__all__ = ["engine_for", "fit"]


def fit(
    model: DynamicsLike,
    history: RewardHistory,
    method: str | Engine | None = None,
    *,
    backend: Backend = "numpyro",
    seed: int = 0,
    observed: Observed = "trained",
    progress: bool | Report = False,
    **options: object,
) -> Fit:
    """Fit a model to a reward history.

    Args:
        model: a model with parameters to learn: `DiscreteHMM`, or a program of your own. Models that learn online
            need no fit.
        history: the history to fit on.
        method: "em", "map" (the same mode, by gradient), "svi" (approximate posterior, in mini-batches) or "nuts"
            (posterior draws), with settings as in "svi:num_steps=5000"; your own in a file, "FILE.py:NAME"; or an
            engine, `SVI(num_steps=5000)`. Default: the model's `fitted_by`, else "em".
        backend: library that evaluates the program, "numpyro" (default) or "pyro".
        seed: seed of SVI and NUTS; default 0.
        observed: the rows to fit on: "trained" (default), as live training would have observed them, or "all".
        progress: True shows a progress bar on stderr; or a function of (done, total, numbers to watch). Default: none.
        **options: settings of the engine; see `EM`, `MAP`, `SVI`, `NUTS` in `promptdyn.inference`.

    Warns:
        ConvergenceWarning: the engine has not converged; the fit's `verdict` says what to do.

    Raises:
        InputError: a model that needs no fit; an unknown method, option or backend; a method that has no loop for the
            backend, or returns no `Result`; no observed rows; an unknown label column; a program that breaks its
            contract; or a prompt whose observations are impossible under the model.
    """
    check_dynamics(model)
    engine = engine_for(model, method, options)
    visible = history.observed(observed)
    if len(visible) == 0:
        mend = "; observed='all' would use the others" if observed == "trained" and len(history) else ""
        raise InputError(f"the history has no rows to fit on (observed={observed!r}){mend}")
    start_time = time.perf_counter()
    model = for_pool(model, visible.prompts)
    dense = visible.dense(cluster_of(model))
    density = load_density(backend)(model, dense)
    with _reporting(progress, f"{engine.name}: {model.name}") as report:
        result = engine.run(density, seed, report)
    check_result(engine, result, density.program)
    log_marginal = float(density.log_marginals(result.params).sum())
    if not np.isfinite(log_marginal):
        raise InputError(
            f"{engine.name} of {model.name!r} found parameters at which the observations have log density "
            f"{log_marginal}: see that the program's chain holds probabilities wherever its priors allow"
        )
    if not result.converged:
        warnings.warn(f"{engine.name} of {model.name!r}: {result.verdict}", ConvergenceWarning, stacklevel=2)
    return replace(
        Fit.from_parameters(density.program, result.params, dense),
        log_marginal=log_marginal,
        num_observed=len(visible),
        steps=visible.steps,
        marks=visible.marks(),
        method={**describe(engine), "backend": backend, "seed": seed},
        trace=result.trace,
        converged=result.converged,
        verdict=result.verdict,
        diagnostics=result.diagnostics,
        seconds=time.perf_counter() - start_time,
        draws=result.draws,
        sample_stats=result.sample_stats,
        dense=dense,
    )


def engine_for(model: DynamicsLike, method: str | Engine | None, options: Mapping[str, object]) -> Engine:
    """Return the engine that a method names, or else the model's own. Raises as `Registry.resolve` does."""
    return METHODS.resolve(method or as_dynamics(model).fitted_by, options)


@contextmanager
def _reporting(progress: bool | Report, work: str) -> Iterator[Report]:
    """Yield an engine's `report`. At the end it reports full progress, since an engine may end early."""
    with bars() if progress is True else nullcontext() as show:
        report: Report = partial(show, work) if show else progress or (lambda done, total, watch: None)  # type: ignore[assignment]
        last: tuple[int, int, Mapping[str, float]] = (0, 0, {})

        def report_and_remember(done: int, total: int, watch: Mapping[str, float]) -> None:
            nonlocal last
            last = done, total, watch
            report(done, total, watch)

        yield report_and_remember
        done, total, watch = last
        if done < total:
            report(done, done, watch)
