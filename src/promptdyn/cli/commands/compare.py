"""`promptdyn compare`: models scored by their forecasts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from promptdyn.cli.options import AllowSeen, HistoryPath, JsonPath, ObservedOption, num_fit_steps
from promptdyn.cli.process import check_targets
from promptdyn.cli.tables import console, show
from promptdyn.errors import InputError
from promptdyn.models import MODELS
from promptdyn.progress import bars
from promptdyn.readers import read_history
from promptdyn.storage import atomic

__all__ = ["compare"]

PLOT_SUFFIXES = (".svg", ".png", ".pdf")


def compare(
    history_path: HistoryPath,
    models: Annotated[
        str, typer.Option(help="Models, with settings after a colon; FILE.py:NAME for your own; fits (.npz).")
    ] = "dps,mopps,hmm",
    fit_steps: Annotated[int | None, typer.Option(help="First steps, for fitting only; default half.")] = None,
    observed: ObservedOption = "trained",
    allow_seen: AllowSeen = False,
    json_path: JsonPath = None,
    plot: Annotated[Path | None, typer.Option(help="Write the reliability diagram here (.svg, .png, .pdf).")] = None,
) -> None:
    """Score models on one-step-ahead forecasts of which prompts will be informative."""
    from promptdyn.evaluation import compare as compare_models
    from promptdyn.inference import Fit

    check_targets(json_path, plot, sources=[history_path])
    if plot is not None:
        if plot.suffix not in PLOT_SUFFIXES:
            raise InputError(f"{plot}: a plot is one of {', '.join(PLOT_SUFFIXES)}: name the file so")
        from promptdyn.plots import reliability_diagram  # what it needs may be missing, which is told before long work
    declared = MODELS.parse(models, load=Fit.load)
    history = read_history(history_path)
    with bars() as show_progress:
        result = compare_models(
            declared, history, num_fit_steps(history, fit_steps), observed, show_progress, allow_seen=allow_seen
        )
    show(result.table(), json_path, result.to_records())
    console.print(f"{result.scores[0].num_scored:,} rows forecast one step ahead, of {history.num_prompts:,} prompts")
    console.print(result.verdict)
    if plot is not None:
        with atomic(plot) as part:
            reliability_diagram(result.forecasts).savefig(part, format=plot.suffix[1:])
        console.print(f"wrote {plot}")
