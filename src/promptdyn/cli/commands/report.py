"""`promptdyn report`: a page of plots and scores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from promptdyn.cli.options import AllowSeen, HistoryPath, ObservedOption, num_fit_steps
from promptdyn.cli.process import check_targets
from promptdyn.cli.tables import console
from promptdyn.errors import InputError
from promptdyn.history import RewardHistory
from promptdyn.models import MODELS
from promptdyn.progress import bars
from promptdyn.readers import read_history

__all__ = ["report"]


def report(
    history_path: HistoryPath,
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("report.html"),
    model: Annotated[
        str | None,
        typer.Option(
            help="Forecaster whose beliefs to show: a model or a fit; default the one with the least log loss."
        ),
    ] = None,
    models: Annotated[str, typer.Option(help="Models whose forecasts to compare.")] = "dps,mopps,hmm",
    fit_steps: Annotated[int | None, typer.Option(help="First steps, for fitting only; default half.")] = None,
    observed: ObservedOption = "trained",
    allow_seen: AllowSeen = False,
    pool_size: Annotated[
        int | None,
        typer.Option(
            help="Number of prompts that the run could choose from; default the number in the history's file."
        ),
    ] = None,
    baseline: Annotated[list[str] | None, typer.Option(help="Another run to compare with, NAME=HISTORY.")] = None,
) -> None:
    """Write one self-contained HTML page of plots and scores."""
    from promptdyn.evaluation import compare as compare_models
    from promptdyn.inference import Fit
    from promptdyn.models.checks import check_forecaster
    from promptdyn.report import RUN, all_runs, findings, pool_size_of, write_report

    sources = [history_path, Path(model or ""), *(Path(text.partition("=")[2]) for text in baseline or [])]
    check_targets(out, sources=sources)
    history = read_history(history_path)
    forecaster = None
    if model is not None:
        forecaster = check_forecaster(MODELS.parse_one(model, load=Fit.load))
    declared = MODELS.parse(models, load=Fit.load)
    baselines: dict[str, RewardHistory] = {}
    for text in baseline or []:
        name, separator, path = text.partition("=")
        if not separator or name in baselines:
            raise InputError(f"baseline {text!r} is not NAME=HISTORY, with a name of its own")
        baselines[name] = read_history(path)
    pool_size_of(all_runs(RUN, history, baselines), pool_size)  # before the long work
    with bars() as show_progress:
        comparison = compare_models(
            declared, history, num_fit_steps(history, fit_steps), observed, show_progress, allow_seen=allow_seen
        )
        write_report(
            out,
            history,
            forecaster,
            title=f"Prompt learning dynamics: {history_path}",
            baselines=baselines,
            comparison=comparison,
            observed=observed,
            pool_size=pool_size,
            progress=show_progress,
        )
    console.print(findings(RUN, {RUN: history, **baselines}, comparison, pool_size))
    console.print(f"wrote {out}")
