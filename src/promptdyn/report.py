"""One self-contained HTML page about a training run: what was believed, what came true, which model forecasts best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from promptdyn import plots
from promptdyn.errors import InputError
from promptdyn.evaluation.compare import Comparison
from promptdyn.evaluation.forecast import track
from promptdyn.history import Observed, RewardHistory
from promptdyn.inference.fit import Fit
from promptdyn.models.base import check_forecaster
from promptdyn.online import Forecaster
from promptdyn.progress import Tell
from promptdyn.storage import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Section", "all_runs", "in_words", "pool_size_of", "svg", "write_page", "write_report"]

RUN = "this run"
NUM_OFTEN = NUM_SPREAD = 4
MAX_CLUSTERS_SHOWN = 6


@dataclass
class Section:
    """A part of the page: a title, a sentence, a table (rows as dicts with the same keys), figures as SVG."""

    title: str
    note: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)
    figures: list[str] = field(default_factory=list)


def all_runs(
    name: str, history: RewardHistory, baselines: Mapping[str, RewardHistory] | None = None
) -> dict[str, RewardHistory]:
    """The run and those beside it, by name, where a report can be written about them.

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
        history: the run that the page is about.
        model: whose beliefs are shown: a `Fit`, or a model that learns online. Default: that of the least log loss in
            the comparison.
        title: heading.
        name: of the run that the page is about.
        baselines: name -> history of other runs to set beside it, such as uniform selection.
        comparison: forecast scores to show, with their reliability diagram, and its fit of the least log loss.
        observed: the rows of the history that the model sees: "trained" (default) or "all".
        pool_size: prompts in the pool; default what the histories say. Where none does, shares are of the prompts in
            them, and the page says so.
        first: sections to put at the top.
        progress: called with what is being done, how much of it, of how much, and numbers to watch.

    Returns:
        The path.

    Raises:
        InputError: a history without trained rows, a baseline with the name of the run, a model that must be fitted
            first, neither a model nor a comparison, a pool smaller than the prompts seen, or a path that cannot be
            written.
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
    # Panels for the prompts with most groups, and as many spread over the rest.
    often, rest = seen_often[:NUM_OFTEN], seen_often[NUM_OFTEN:]
    spread = rest[np.unique(np.linspace(0, max(len(rest) - 1, 0), min(NUM_SPREAD, len(rest))).astype(int))]
    follow = [str(history.prompt_ids[i]) for i in (*often, *spread)]
    online = model.online(history.prompts)
    forecaster = online.model.name
    tell = progress or (lambda words, done, total, watch: None)
    seen = track(online, history, follow, num_generations, observed, partial(tell, f"drawing beliefs of {forecaster}"))
    pool_size = pool_size_of(runs, pool_size)
    of_pool = "prompts in the log" if pool_size is None else f"pool of {pool_size:,} prompts"
    fitted = _fitted_on(model, history)
    smoothed = f"Lines are running means over {plots.smoothing_window(len(history.steps))} steps"
    known = bool(np.isfinite(seen.true).any())

    sections = [
        *(first or []),
        Section(
            "The run",
            in_words(name, runs, comparison, pool_size),
            [_run_row(key, run, pool_size) for key, run in runs.items()],
        ),
        Section(
            "Where the pool stands",
            f"Shares of prompts forecast by {forecaster} to show no, some, or only successes in {num_generations} "
            "rollouts. "
            + (
                "Dashed lines are the true shares, known because every prompt was rolled out."
                if known
                else "The true shares are not known: only some prompts were rolled out at each step."
            )
            + fitted,
            figures=[svg(plots.outcome_shares(seen))],
        ),
        Section(
            "Predicted and realized",
            f"Mean forecast of {forecaster} that the prompts of a step would be informative, and the share that were "
            f"(dots: single steps). {smoothed}.{fitted}",
            figures=[svg(plots.predicted_informative(seen))],
        ),
        Section(
            "Effective-sample ratio",
            f"Share of trained groups with 0 < k < n: only these give a gradient (dots: single steps). {smoothed}. "
            + (
                "Black: that of the whole pool, which is what a uniform draw would get."
                if known
                else "What a uniform draw would get is not known from this run: set a uniform run beside it."
            ),
            figures=[svg(plots.effective_sample_ratio(runs, seen))],
        ),
        Section(
            "Which prompts were trained on",
            f"First the share of the {of_pool} trained on at least once by each step; then how often each prompt was, "
            "most often first.",
            figures=[svg(plots.share_trained_on(runs, pool_size)), svg(plots.selection_frequency(runs, pool_size))],
        ),
    ]
    for column in history.columns:
        levels = len(set(history.columns[column]))
        if levels > 1:
            sections.append(
                Section(
                    f"Success by {column}",
                    "Share of rollouts that succeeded, of the prompts that were rolled out: a run that chooses its "
                    f"prompts chooses those that are neither solved nor hopeless. {smoothed}."
                    + (f" The {plots.MAX_LEVELS} largest of {levels:,} levels." if levels > plots.MAX_LEVELS else ""),
                    figures=[svg(plots.success_by_cluster(history, column))],
                )
            )
    if comparison is not None:
        sections.append(
            Section(
                "Forecasts compared",
                "One-step-ahead forecasts of 0 < k < n after the fitting steps, best log loss first; ± is half a 95 % "
                "bootstrap interval over prompts, and 'behind' the log loss more than the best model's on the same "
                "prompts. The base rate knows no more than the share that taught, and says it of every group. "
                "Precision is of the prompts that each forecaster would have taken; where only trained prompts were "
                "logged there was nothing to choose, and it is not known. In the diagram a forecast on the diagonal "
                "means what it says; the larger a dot, the more forecasts.",
                comparison.table(),
                [svg(plots.reliability_diagram(comparison.forecasts))],
            )
        )
    sections.append(
        Section(
            "A few prompts",
            f"Those trained on most often and some others: the chances that {forecaster} gives each to show no, some, "
            "or only successes, and the success rates that came.",
            figures=[svg(plots.prompt_timelines(history, seen, observed))],
        )
    )
    fit = _fit_to_show(model, comparison)
    if fit is not None:
        sections += _fit_sections(fit)

    subtitle = f"{len(history):,} rollout groups, {history.num_prompts:,} prompts, {len(history.steps):,} steps"
    return write_page(path, title, subtitle, sections)


def in_words(
    name: str, runs: Mapping[str, RewardHistory], comparison: Comparison | None = None, pool_size: int | None = None
) -> str:
    """What a run shows, in a few sentences.

    Args:
        name: the run among `runs` that is spoken of; the others are named beside it.
        runs: name -> history with trained rows.
        comparison: whose best forecaster is named.
        pool_size: prompts in the pool; default what the histories say.

    Raises:
        InputError: a pool smaller than the prompts seen.
    """
    trained = runs[name].select(runs[name].trained)
    pool_size = pool_size_of(runs, pool_size)
    steps = trained.steps
    tenth = max(1, len(steps) // 10)
    early, late = trained.step < steps[min(tenth, len(steps) - 1)], trained.step >= steps[-tenth]
    touched = len(np.unique(trained.prompt))
    words = (
        f"In {len(steps):,} steps {len(trained):,} groups of rollouts were trained on, of {touched:,} prompts "
        + ("(of how many, the log does not say)" if pool_size is None else f"({touched / pool_size:.0%} of the pool)")
        + f". {trained.informative.mean():.0%} of the groups taught something: some of their rollouts succeeded and "
        "some failed."
    )
    if runs[name].survivors_only:
        words += (
            " All groups in the log do: it seems to keep only what dynamic sampling keeps. Then every share here is "
            "one of survivors, and what else was rolled out is not known."
        )
    if trained.success is not None:
        words += f" A rollout succeeded by the rule {trained.success!r}."
    if len(steps) >= 10:
        solved = [trained.num_successes[part].sum() / trained.num_rollouts[part].sum() for part in (early, late)]
        words += (
            f" In the first tenth of the steps it was {trained.informative[early].mean():.0%}, in the last "
            f"{trained.informative[late].mean():.0%}; {solved[0]:.0%} of the rollouts succeeded in the first, "
            f"{solved[1]:.0%} in the last."
        )
    beside = [f"{other} {run.informative[run.trained].mean():.0%}" for other, run in runs.items() if other != name]
    if beside:
        words += f" The share that taught in the other runs: {', '.join(beside)}."
    if comparison is not None:
        words += f" {comparison.in_words()}"
    return words


def pool_size_of(runs: Mapping[str, RewardHistory], given: int | None = None) -> int | None:
    """Prompts in the pool of some runs: as given, or as the histories say; None where they do not.

    Raises:
        InputError: a pool given that is smaller than the prompts of a run.
    """
    if given is not None:
        for name, run in runs.items():
            run.with_pool_size(given, name)
        return given
    known = [run.pool_size for run in runs.values() if run.pool_size is not None]
    return max(*known, *(run.num_prompts for run in runs.values())) if known else None


def _fitted_on(model: Forecaster, history: RewardHistory) -> str:
    """What a fit has seen of a history that its beliefs are shown on, in words."""
    seen = history.steps[model.was_fitted_on(history) if isinstance(model, Fit) else []]
    if len(seen) == 0:
        return ""
    return (
        f" {model.name} was fitted on {len(seen):,} of these {len(history.steps):,} steps, {seen[0]} to "
        f"{seen[-1]}: what it says of those is no forecast."
    )


def _fit_to_show(model: Forecaster, comparison: Comparison | None) -> Fit | None:
    """The fit whose beliefs are shown, else the one that forecast best, else none."""
    scored = [] if comparison is None else [comparison.models[score.model] for score in comparison.scores]
    return next((fit for fit in (model, *scored) if isinstance(fit, Fit)), None)


def _fit_sections(fit: Fit) -> list[Section]:
    """How a fit came about and what it learned."""
    note = f"{fit.model}, log marginal {fit.log_marginal:,.1f} on {fit.num_observed:,} groups. {fit.verdict}."
    sections = [
        Section("The fit", note, figures=[svg(plots.objective(fit))] if len(fit.trace) > 1 else []),
    ]
    shown = fit.cluster_names[:MAX_CLUSTERS_SHOWN]
    for code, label in enumerate(shown):
        heading = "Learned transitions" + (f": {label}" if len(fit.cluster_names) > 1 else "")
        note = "From the state of a row to that of a column in one step, by what was done to the prompt in it."
        if len(shown) < len(fit.cluster_names):
            note += f" The first {len(shown)} of {len(fit.cluster_names):,} clusters."
        sections.append(Section(heading, "" if code else note, figures=[svg(plots.transitions(fit, code))]))
    return sections


def write_page(path: str | Path, title: str, subtitle: str, sections: list[Section]) -> Path:
    """Write sections as one self-contained HTML page, atomically, and return its path; InputError if it cannot be."""
    from jinja2 import Environment, PackageLoader

    page = Environment(loader=PackageLoader("promptdyn", ""), autoescape=True).get_template("report.html.jinja")
    with atomic(path) as part:
        part.write_text(
            page.render(title=title, subtitle=subtitle, sections=sections, version=version("promptdyn")),
            encoding="utf-8",
        )
    return Path(path)


def _run_row(name: str, history: RewardHistory, pool_size: int | None) -> dict[str, Any]:
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
    """The figure as an inline <svg> element."""
    text = StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]
