"""`promptdyn simulate`: a history drawn from a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from promptdyn.cli.options import JsonPath
from promptdyn.cli.process import check_targets
from promptdyn.cli.tables import console, show
from promptdyn.models import MODELS
from promptdyn.readers import read_history

__all__ = ["simulate"]


def simulate(
    source: Annotated[
        str,
        typer.Argument(help="A fit (.npz), or a model and its settings, whose parameters are drawn from the prior."),
    ],
    out: Annotated[Path, typer.Argument(help="History file to write (Parquet).")],
    like: Annotated[Path | None, typer.Option(help="History whose prompts, steps and group sizes to copy.")] = None,
    num_prompts: Annotated[int, typer.Option(help="Pool size.")] = 500,
    num_steps: Annotated[int, typer.Option(help="Training steps.")] = 100,
    prompts_per_step: Annotated[int | None, typer.Option(help="Groups in a step; default the whole pool.")] = None,
    num_generations: Annotated[int, typer.Option(help="Rollouts in a group.")] = 8,
    truth: Annotated[Path | None, typer.Option(help="Also write the parameters, as a fit (.npz).")] = None,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    json_path: JsonPath = None,
) -> None:
    """Draw a history from a model run forward."""
    from promptdyn.evaluation import simulate as run_forward
    from promptdyn.inference import Fit
    from promptdyn.models.checks import check_dynamics

    check_targets(out, truth, json_path, sources=[like, Path(source)])
    declared = MODELS.parse_one(source, load=Fit.load)
    simulated = run_forward(
        declared if isinstance(declared, Fit) else check_dynamics(declared),
        num_prompts=num_prompts,
        num_steps=num_steps,
        prompts_per_step=prompts_per_step,
        num_generations=num_generations,
        like=None if like is None else read_history(like),
        seed=seed,
    )
    simulated.history.to_parquet(out)
    if truth is not None:
        simulated.truth.save(truth)
    summary = simulated.history.summary()
    show([{"history": name.replace("_", " "), "": fact} for name, fact in summary.items()], json_path, summary)
    console.print(f"wrote {out}" + (f" and {truth}" if truth else ""))
