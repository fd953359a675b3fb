"""Write one self-contained HTML page about a training run: beliefs, outcomes, and which model forecasts best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, PackageLoader

from promptdyn import plots
from promptdyn.errors import InputError
from promptdyn.evaluation.compare import Comparison
from promptdyn.evaluation.forecast import track
from promptdyn.history import Observed, RewardHistory
from promptdyn.inference.fit import Fit
from promptdyn.models.checks import check_forecaster
from promptdyn.online import Forecaster
from promptdyn.progress import Tell
from promptdyn.storage import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Section", "all_runs", "findings", "pool_size_of", "svg", "write_page", "write_report"]

RUN = "this run"
NUM_OFTEN = NUM_SPREAD = 4
MAX_CLUSTERS_SHOWN = 6


@dataclass
class Section:
    """A part of the page: a title, a paragraph, a table (rows as dicts with the same keys), figures as SVG."""

    title: str
    note: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)
    figures: list[str] = field(default_factory=list)


def all_runs(
    name: str, history: RewardHistory, baselines: Mapping[str, RewardHistory] | None = None
) -> dict[str, RewardHistory]:
    """Return the run and its baselines by name, after checking that a report can be written about them.

    Raises:
        InputError: a history without trained rows, or a baseline with the name of the run.
    """
    if name in (baselines or {}):
        raise InputError(f"a baseline cannot be called {name!r} as the run itself: choose another name")
    runs = {name: history, **(baselines or {})}
    for key, run in runs.items():
        if not run.trained.any():
            raise InputError(f"{key}: no row of the history was trained on: a report is about trained prompts")
    return runs


def write_report(
    path: str | Path,
    history: RewardHistory,
    model: Forecaster | None = None,
    *,
    title: str = "Prompt learning dynamics",
    name: str = RUN,
    baselines: Mapping[str, RewardHistory] | None = None,
    comparison: Comparison | None = None,
    observed: Observed = "trained",
    pool_size: int | None = None,
    first: list[Section] | None = None,
    progress: Tell | None = None,
) -> Path:
    """Write the report.

    Args:
        path: HTML file, written atomically.
        history: history of the run that the page is about.
        model: the forecaster whose beliefs the page shows: a `Fit`, or a model that learns online. Default: the one
            with the least log loss in the comparison.
        title: heading of the page.
        name: name of the run.
        baselines: name -> history of other runs to show beside it, such as uniform selection.
        comparison: scores of forecasters to show, with their reliability diagram.
        observed: the rows of the history that the model sees: "trained" (default) or "all".
        pool_size: number of prompts in the pool; default what the histories tell. If none tells, shares are of the
            prompts in the histories, and the page says so.
        first: sections to put at the top; default none.
        progress: function of (name of the work, done, total, numbers to watch). Default: none.

    Returns:
        The path.

    Raises:
        InputError: a history without trained rows, a baseline with the name of the run, a model that must be fitted
            first, neither a model nor a comparison, a pool smaller than the number of prompts seen, or a path that
            cannot be written.
    """
    runs = all_runs(name, history, baselines)
    if model is None:
        if comparison is None:
            raise InputError("a report shows a model's beliefs: give a model, or a comparison to take the best of")
        model = comparison.models[comparison.scores[0].model]
    check_forecaster(model)
    visible = history.observed(observed)
    num_generations = int(np.median(visible.num_rollouts))
    seen_often = np.argsort(-np.bincount(visible.prompt, minlength=history.num_prompts), kind="stable")
    # Panels show the prompts with most groups, and as many spread over the rest.
    most, rest = seen_often[:NUM_OFTEN], seen_often[NUM_OFTEN:]
    spread = rest[np.unique(np.linspace(0, max(len(rest) - 1, 0), min(NUM_SPREAD, len(rest))).astype(int))]
    follow = [str(history.prompt_ids[i]) for i in (*most, *spread)]
    online = model.online(history.prompts)
    forecaster = online.model.name
    report_progress = progress or (lambda work, done, total, watch: None)
    beliefs = track(
        online, history, follow, num_generations, observed, partial(report_progress, f"drawing beliefs of {forecaster}")
    )
    pool_size = pool_size_of(runs, pool_size)
    pool = "prompts in the log" if pool_size is None else f"pool of {pool_size:,} prompts"
    fitted = _fitted_on(model, history)
    smoothed = f"Lines are running means over {plots.smoothing_window(len(history.steps))} steps"
    truth_known = bool(np.isfinite(beliefs.true).any())

    sections = [
        *(first or []),
        Section(
            "The run",
            findings(name, runs, comparison, pool_size),
            [_run_row(key, run, pool_size) for key, run in runs.items()],
        ),
        Section(
            "Where the pool stands",
            f"Shares of the pool's prompts that {forecaster} forecasts to have no, some, or only successes in "
            f"{num_generations} rollouts. "
            + (
                "Dashed lines are the true shares, known because every prompt was rolled out."
                if truth_known
                else "The true shares are not known: only some prompts were rolled out at each step."
            )
            + fitted,
            figures=[svg(plots.outcome_shares(beliefs))],
        ),
        Section(
            "Predicted and realized",
            f"Mean forecast of {forecaster} that the prompts of a step are informative, and the share that were (dots: "
            f"single steps). {smoothed}.{fitted}",
            figures=[svg(plots.predicted_informative(beliefs))],
        ),
        Section(
            "Effective-sample ratio",
            f"Share of trained groups with 0 < k < n: only these give a gradient (dots: single steps). {smoothed}. "
            + (
                "Black: the ratio of the whole pool, which a uniform draw would get."
                if truth_known
                else "This run does not tell what a uniform draw would get: show a uniform run beside it."
            ),
            figures=[svg(plots.effective_sample_ratio(runs, beliefs))],
        ),
        Section(
            "Which prompts were trained on",
            f"First: share of the {pool} trained on at least once by each step. Second: how often each prompt was "
            "trained on, most often first.",
            figures=[svg(plots.share_trained_on(runs, pool_size)), svg(plots.selection_frequency(runs, pool_size))],
        ),
    ]
    for column in history.columns:
        levels = len(set(history.columns[column]))
        if levels > 1:
            sections.append(
                Section(
                    f"Success by {column}",
                    "Share of rollouts that succeeded, over the prompts that were rolled out: a run with selection "
                    f"prefers prompts that are neither solved nor out of reach. {smoothed}."
                    + (f" The {plots.MAX_LEVELS} largest of {levels:,} levels." if levels > plots.MAX_LEVELS else ""),
                    figures=[svg(plots.success_by_cluster(history, column))],
                )
            )
    if comparison is not None:
        sections.append(
            Section(
                "Forecasts compared",
                "One-step-ahead forecasts of 0 < k < n after the fitting steps, best log loss first. ± is half a 95 % "
                "bootstrap interval over prompts; 'behind' is the log loss above the best model's, on the same "
                "prompts. The base rate is the share of groups that taught, as the forecast for every group. "
                "Precision is that of the prompts that each forecaster would have taken; it is not known if only "
                "trained prompts were logged. In the diagram, calibrated forecasts lie on the diagonal; larger dots "
                "are more forecasts.",
                comparison.table(),
                [svg(plots.reliability_diagram(comparison.forecasts))],
            )
        )
    sections.append(
        Section(
            "A few prompts",
            f"The prompts trained on most often, and some others: {forecaster}'s chances of no, some and only "
            "successes, and the success rates that were observed.",
            figures=[svg(plots.prompt_timelines(history, beliefs, observed))],
        )
    )
    if weights := online.weights:
        sections.append(
            Section(
                "What the forecasts go by",
                f"Mean weights of {forecaster} at the end of the run, in the log odds that a group is informative: of "
                "the log odds that other models forecast, and of what a prompt itself has shown.",
                [
                    {"input": name, "weight": f"{weight:+.2f}"}
                    for name, weight in sorted(weights.items(), key=lambda item: -abs(item[1]))
                ],
            )
        )
    fit = _fit_to_show(model, comparison)
    if fit is not None:
        sections += _fit_sections(fit)

    subtitle = f"{len(history):,} rollout groups, {history.num_prompts:,} prompts, {len(history.steps):,} steps"
    return write_page(path, title, subtitle, sections)


def findings(
    name: str, runs: Mapping[str, RewardHistory], comparison: Comparison | None = None, pool_size: int | None = None
) -> str:
    """Describe a run in a few sentences.

    Args:
        name: name of the run among `runs`; the others are mentioned beside it.
        runs: name -> history with trained rows.
        comparison: a comparison whose verdict is added; default none.
        pool_size: number of prompts in the pool; default what the histories tell.

    Raises:
        InputError: a pool smaller than the number of prompts seen.
    """
    trained = runs[name].select(runs[name].trained)
    pool_size = pool_size_of(runs, pool_size)
    steps = trained.steps
    tenth = max(1, len(steps) // 10)
    early, late = trained.step < steps[min(tenth, len(steps) - 1)], trained.step >= steps[-tenth]
    num_touched = len(np.unique(trained.prompt))
    text = (
        f"In {len(steps):,} steps {len(trained):,} groups of rollouts were trained on, of {num_touched:,} prompts "
        + (
            "(of how many, the log does not say)"
            if pool_size is None
            else f"({num_touched / pool_size:.0%} of the pool)"
        )
        + f". {trained.informative.mean():.0%} of the groups taught something: some of their rollouts succeeded and "
        "some failed."
    )
    if runs[name].survivors_only:
        text += (
            " All groups in the log do: it seems to keep only what dynamic sampling keeps. Then every share here is "
            "that of survivors, and the other groups are not known."
        )
    if trained.success is not None:
        text += f" A rollout succeeded by the rule {trained.success!r}."
    if len(steps) >= 10:
        solved = [trained.num_successes[part].sum() / trained.num_rollouts[part].sum() for part in (early, late)]
        text += (
            f" In the first tenth of the steps it was {trained.informative[early].mean():.0%}, in the last "
            f"{trained.informative[late].mean():.0%}; {solved[0]:.0%} of the rollouts succeeded in the first, "
            f"{solved[1]:.0%} in the last."
        )
    others = [f"{other} {run.informative[run.trained].mean():.0%}" for other, run in runs.items() if other != name]
    if others:
        text += f" The share that taught in the other runs: {', '.join(others)}."
    if comparison is not None:
        text += f" {comparison.verdict}"
    return text


def pool_size_of(runs: Mapping[str, RewardHistory], pool_size: int | None = None) -> int | None:
    """Return the number of prompts in the pool: as given, or as the histories tell; None if they do not.

    Raises:
        InputError: the number given is smaller than the number of prompts in a run.
    """
    if pool_size is not None:
        for name, run in runs.items():
            run.with_pool_size(pool_size, name)
        return pool_size
    known = [run.pool_size for run in runs.values() if run.pool_size is not None]
    return max(*known, *(run.num_prompts for run in runs.values())) if known else None


def _fitted_on(model: Forecaster, history: RewardHistory) -> str:
    """Say in words which of a history's steps the fit was made on; "" if none."""
    fitted_steps = history.steps[model.was_fitted_on(history) if isinstance(model, Fit) else []]
    if len(fitted_steps) == 0:
        return ""
    return (
        f" {model.name} was fitted on {len(fitted_steps):,} of these {len(history.steps):,} steps, "
        f"{fitted_steps[0]} to {fitted_steps[-1]}: for these its beliefs are no forecasts."
    )


def _fit_to_show(model: Forecaster, comparison: Comparison | None) -> Fit | None:
    """Return the model if it is a fit, else the comparison's best fit, else None."""
    scored = [] if comparison is None else [comparison.models[score.model] for score in comparison.scores]
    return next((fit for fit in (model, *scored) if isinstance(fit, Fit)), None)


def _fit_sections(fit: Fit) -> list[Section]:
    """Return the sections about a fit: its objective and its transitions."""
    note = f"{fit.model}, log marginal {fit.log_marginal:,.1f} on {fit.num_observed:,} groups. {fit.verdict}."
    sections = [
        Section("The fit", note, figures=[svg(plots.objective(fit))] if len(fit.trace) > 1 else []),
    ]
    names = fit.cluster_names[:MAX_CLUSTERS_SHOWN]
    for code, label in enumerate(names):
        heading = "Learned transitions" + (f": {label}" if len(fit.cluster_names) > 1 else "")
        note = "Chances to move from a row's state to a column's in one step, by what the step did to the prompt."
        if len(names) < len(fit.cluster_names):
            note += f" The first {len(names)} of {len(fit.cluster_names):,} clusters."
        sections.append(Section(heading, "" if code else note, figures=[svg(plots.transitions(fit, code))]))
    return sections


def write_page(path: str | Path, title: str, subtitle: str, sections: list[Section]) -> Path:
    """Write sections as one self-contained HTML page, atomically, and return its path.

    Raises:
        InputError: the path cannot be written.
    """
    page = Environment(loader=PackageLoader("promptdyn", ""), autoescape=True).get_template("report.html.jinja")
    with atomic(path) as part:
        part.write_text(
            page.render(title=title, subtitle=subtitle, sections=sections, version=version("promptdyn")),
            encoding="utf-8",
        )
    return Path(path)


def _run_row(name: str, history: RewardHistory, pool_size: int | None) -> dict[str, Any]:
    """Return the table row of a run."""
    trained = history.select(history.trained)
    return {
        "run": name,
        "steps": len(trained.steps),
        "rollouts": int(trained.num_rollouts.sum()),
        "effective-sample ratio": f"{trained.informative.mean():.3f}",
        "success rate": f"{trained.num_successes.sum() / trained.num_rollouts.sum():.3f}",
        "pool trained on": "–" if pool_size is None else f"{len(np.unique(trained.prompt)) / pool_size:.3f}",
    }


def svg(figure: Figure) -> str:
    """Return a figure as an inline <svg> element."""
    text = StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]
