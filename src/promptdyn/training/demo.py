"""Run the main job end to end in minutes: a race on a pool with few useful prompts, then models of its history.

The demo (a) trains the embedded policy four times from the same start with the same budget of rollouts: prompts are
chosen uniformly, by dynamic sampling (DAPO), by `DPS` as published, and by the default selector. It (b) compares
forecasters on the history of the uniform run, whose prompts are a fair sample of the pool, and (c) writes the report.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from promptdyn import plots
from promptdyn.evaluation import Comparison, compare
from promptdyn.history import RewardHistory
from promptdyn.models import MODELS
from promptdyn.report import Section, svg, write_report
from promptdyn.storage import atomic
from promptdyn.training.race import RESULT_FILE, Race, Run, Standing, bands, race, standings, tables
from promptdyn.training.trl import HISTORY_FILE

__all__ = ["DemoResult", "demo", "demo_race"]

# The learning rates that did best in races/scarce.yaml on the tuning seeds.
SELECTORS = {
    "uniform": {"learning_rates": 1e-4},
    "dynamic_sampling": {"learning_rates": 3e-4},
    "dps": {"learning_rates": 6e-5},
    "auto": {"learning_rates": 1e-4},
}
KINDS = "cluster=task+difficulty"
FORECASTERS = f"hierarchical:num_states=6,{KINDS},rate:{KINDS},mopps:{KINDS},mopps,dps:{KINDS},dps"


@dataclass(frozen=True)
class DemoResult:
    """What the demo measured, and the files it wrote.

    Attributes:
        tables: title -> rows of text, to print.
        standings: results of the selectors.
        comparison: scores of the forecasters.
        report: path of the HTML page.
        plot: path of the plot of accuracy against rollouts.
    """

    tables: dict[str, list[dict[str, str]]]
    standings: list[Standing]
    comparison: Comparison
    report: Path
    plot: Path


def demo_race(budget: int, seed: int = 0) -> Race:
    """Declare the race of the demo: the pool of `races/scarce.yaml`, fewer selectors, one seed."""
    return Race(
        selectors=SELECTORS,
        dataset="scarce",
        num_prompts=10_000,
        held_out=48,
        budget=budget,
        seeds=(seed,),
        learning_rates=(),
        target="frontier",
    )


def demo(
    out: Path,
    budget: int,
    seed: int = 0,
    progress: Callable[[Run, int], None] | None = None,
    stage: Callable[[str], None] | None = None,
) -> DemoResult:
    """Run the demo.

    Args:
        out: folder for the runs and their histories, `report.html` and `curves.png`. Earlier runs in it are replaced.
        budget: rollouts of each run.
        seed: random seed of the pool, of sampling and of selection.
        progress: function called after each step with the run and its rollouts so far.
        stage: function called with a short text when a stage other than training begins.
    """
    announce = stage or (lambda text: None)
    declared = demo_race(budget, seed)
    for name, entrant in declared.entrants.items():  # the demo shows what it measures now
        (Run(name, entrant.learning_rates[0], seed).folder(out) / RESULT_FILE).unlink(missing_ok=True)
    results = race(declared, out, progress=progress)
    race_standings = standings(declared, results)
    histories = {run.entrant: RewardHistory.from_parquet(run.folder(out) / HISTORY_FILE) for run in results}

    announce("fitting and comparing models on the history of the uniform run")
    uniform = histories["uniform"]
    models = MODELS.parse(FORECASTERS)
    comparison = compare(models, uniform, fit_steps=len(uniform.steps) // 2)

    announce("drawing the report")
    figures = [
        plots.curves(bands(race_standings, measure), "rollouts", f"accuracy, {measure}")
        for measure in ("frontier", "mix")
    ]
    plot = out / "curves.png"
    with atomic(plot) as part:
        figures[0].savefig(part, format="png", dpi=150)
    titled_tables = tables(declared, race_standings)
    sections = [Section(title, rows=rows) for title, rows in titled_tables.items()]
    sections[0].note = (
        f"Trained from the same start with {budget:,} rollouts, seed {seed}: held-out accuracy on kinds that can be "
        "learned (frontier), on kinds solved already, and on all kinds by their shares in the pool (mix)."
    )
    sections[0].figures = [svg(figure) for figure in figures]
    # The run of the default selector, with the beliefs of the model that forecast best.
    report = write_report(
        out / "report.html",
        histories.pop("auto"),
        title="GRPO with prompts chosen by forecasts",
        name="auto",
        baselines=histories,
        comparison=comparison,
        first=sections,
    )
    return DemoResult(titled_tables, race_standings, comparison, report, plot)
