"""One self-contained HTML page about a training run: what was believed, what came true, which model forecasts best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from promptdyn import plots
from promptdyn.errors import InputError
from promptdyn.evaluation.compare import Comparison
from promptdyn.evaluation.forecast import online_over, track
from promptdyn.history import RewardHistory
from promptdyn.inference.fit import Fit
from promptdyn.storage import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Section", "all_runs", "svg", "write_page", "write_report"]

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
    model: Any,
    *,
    title: str = "Prompt learning dynamics",
    name: str = RUN,
    baselines: Mapping[str, RewardHistory] | None = None,
    comparison: Comparison | None = None,
    fit: Fit | None = None,
    observed: str = "trained",
    pool_size: int | None = None,
    first: list[Section] | None = None,
) -> Path:
    """Write the report.

    Args:
        path: HTML file, written atomically.
        history: the run that the page is about.
        model: whose beliefs are shown: a `Fit`, or a model that learns online.
        title: heading.
        name: of the run that the page is about.
        baselines: name -> history of other runs to set beside it, such as uniform selection.
        comparison: forecast scores to show, with their reliability diagram.
        fit: a fit whose transition matrices are shown.
        observed: the rows of the history that the model sees: "trained" (default) or "all".
        pool_size: prompts in the pool; default those in the history.
        first: sections to put at the top.

    Returns:
        The path.

    Raises:
        InputError: a history without trained rows, a baseline with the name of the run, a model that must be fitted
            first, or a path that cannot be written.
    """
    runs = all_runs(name, history, baselines)
    visible = history.observed(observed)
    num_generations = int(np.median(visible.num_rollouts))
    seen_often = np.argsort(-np.bincount(visible.prompt, minlength=history.num_prompts), kind="stable")
    # Panels for the prompts with most groups, and as many spread over the rest.
    often, rest = seen_often[:NUM_OFTEN], seen_often[NUM_OFTEN:]
    spread = rest[np.unique(np.linspace(0, max(len(rest) - 1, 0), min(NUM_SPREAD, len(rest))).astype(int))]
    follow = [str(history.prompt_ids[i]) for i in (*often, *spread)]
    online = online_over(model, history)
    seen = track(online, history, follow, num_generations, observed)
    pool_size = pool_size or max(run.num_prompts for run in runs.values())
    forecaster = online.model.name

    sections = list(first or [])
    sections.append(Section("The run", rows=[_run_row(key, run, pool_size) for key, run in runs.items()]))
    known = (
        "Dashed lines are the true shares, known because every prompt was rolled out."
        if np.isfinite(seen.true).any()
        else "The true shares are not known: only some prompts were rolled out at each step."
    )
    sections.append(
        Section(
            "Where the pool stands",
            f"Shares of prompts forecast by {forecaster} to show no, some, or only successes in {num_generations} "
            f"rollouts. {known}",
            figures=[svg(plots.outcome_shares(seen))],
        )
    )
    sections.append(
        Section(
            "Predicted and realised",
            f"Mean forecast of {forecaster} that the prompts of a step would be informative, and the share that were.",
            figures=[svg(plots.predicted_informative(seen))],
        )
    )
    sections.append(
        Section(
            "Effective-sample ratio",
            "Share of trained groups with 0 < k < n: only these give a gradient. "
            + (
                "Black: that of the whole pool, which is what a uniform draw would get."
                if np.isfinite(seen.true).any()
                else "What a uniform draw would get is not known from this run: set a uniform run beside it."
            ),
            figures=[svg(plots.effective_sample_ratio(runs, seen))],
        )
    )
    sections.append(
        Section("Coverage", f"Of a pool of {pool_size} prompts.", figures=[svg(plots.coverage(runs, pool_size))])
    )
    if comparison is not None:
        sections.append(
            Section(
                "Forecasts compared",
                "One-step-ahead forecasts of 0 < k < n after the fitting steps, best log loss first. Precision is of "
                "the prompts that each forecaster would have taken; where only trained prompts were logged there was "
                "nothing to choose, and it is not known.",
                comparison.table(),
                [svg(plots.reliability_diagram(comparison.forecasts))],
            )
        )
    sections.append(Section("A few prompts", figures=[svg(plots.prompt_timelines(history, seen, observed))]))
    if fit is not None:
        shown = fit.cluster_names[:MAX_CLUSTERS_SHOWN]
        note = f"{fit.model}, log marginal {fit.log_marginal:.1f} on {fit.num_observed} groups."
        if len(shown) < len(fit.cluster_names):
            note += f" The first {len(shown)} of {len(fit.cluster_names)} clusters."
        for code, label in enumerate(shown):
            heading = "Learned transitions" + (f": {label}" if len(fit.cluster_names) > 1 else "")
            sections.append(Section(heading, note if code == 0 else "", figures=[svg(plots.transitions(fit, code))]))

    subtitle = f"{len(history)} rollout groups, {history.num_prompts} prompts, {len(history.steps)} steps"
    return write_page(path, title, subtitle, sections)


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


def _run_row(name: str, history: RewardHistory, pool_size: int) -> dict[str, Any]:
    trained = history.select(history.trained)
    return {
        "run": name,
        "steps": len(trained.steps),
        "rollouts": int(trained.num_rollouts.sum()),
        "effective-sample ratio": f"{trained.informative.mean():.3f}",
        "success rate": f"{trained.num_successes.sum() / trained.num_rollouts.sum():.3f}",
        "coverage": f"{len(np.unique(trained.prompt)) / pool_size:.3f}",
    }


def svg(figure: Figure) -> str:
    """The figure as an inline <svg> element."""
    text = StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]
