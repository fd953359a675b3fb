"""`promptdyn fit`: a model fitted to a history."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import typer

from promptdyn.cli.options import HistoryPath, JsonPath, ObservedOption
from promptdyn.cli.process import check_targets
from promptdyn.cli.tables import console, show
from promptdyn.models import MODELS
from promptdyn.ppl import Backend
from promptdyn.readers import read_history

__all__ = ["fit"]


def fit(
    history_path: HistoryPath,
    out: Annotated[Path, typer.Option(help="Where to write the fit (.npz).")],
    model: Annotated[
        str, typer.Option(help="Model and settings: hmm:num_states=6,cluster=task; your own: FILE.py:NAME.")
    ] = "hmm",
    fit_steps: Annotated[int | None, typer.Option(help="Fit on the first steps only, this many; default all.")] = None,
    observed: ObservedOption = "trained",
    method: Annotated[
        str | None,
        typer.Option(
            help="em, map, svi or nuts, with settings (svi:num_steps=5000), or your own, FILE.py:NAME; default the one "
            "that suits the model."
        ),
    ] = None,
    backend: Annotated[
        Backend, typer.Option(parser=str, help="Library that evaluates the program: numpyro or pyro.")
    ] = "numpyro",
    seed: Annotated[int, typer.Option(help="Random seed of svi and nuts.")] = 0,
    json_path: JsonPath = None,
) -> None:
    """Fit a model to a history and save it."""
    from promptdyn.errors import ConvergenceWarning
    from promptdyn.evaluation.forecast import split
    from promptdyn.inference import fit as fit_model
    from promptdyn.models.checks import check_dynamics

    check_targets(out, json_path, sources=[history_path])
    declared = check_dynamics(MODELS.parse_one(model))
    history = read_history(history_path)
    if fit_steps is not None:
        history = history.before(split(history, fit_steps))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # printed below
        result = fit_model(declared, history, method, backend=backend, seed=seed, observed=observed, progress=True)
    result.save(out)
    row = {
        "model": model,
        "method": result.method["name"],
        "groups": result.num_observed,
        "converged": result.converged,
        "log_marginal": result.log_marginal,
        "per_group": result.log_marginal / result.num_observed,
        "seconds": result.seconds,
    }
    show([row], json_path, {**row, "verdict": result.verdict, "diagnostics": result.diagnostics})
    console.print(result.verdict, style=None if result.converged else "yellow")
    console.print(f"wrote {out}")
