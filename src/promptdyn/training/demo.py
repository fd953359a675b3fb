"""The main job, end to end, in minutes: GRPO with and without selection, then models of the history it logged.

(a) Trains the embedded policy from the same start with as many rollouts each time: prompts drawn uniformly, and chosen
    by the two published methods, `DPS` and MoPPS. (b) Fits a `DiscreteHMM` to the first half of the history that the
    uniform run logged (its prompts are a fair sample of the pool) and compares forecasters on the second half.
    (c) Writes the report.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from promptdyn import plots
from promptdyn.evaluation import Comparison, compare
from promptdyn.history import RewardHistory
from promptdyn.models import MODELS
from promptdyn.report import Section, write_report
from promptdyn.storage import atomic
from promptdyn.training import policy, tasks
from promptdyn.training.run import RunSettings, run

__all__ = ["DemoResult", "demo"]

FAMILY = "mixed"
NUM_PROMPTS = 1000  # in the pool, and held out
CHOICES = {"uniform": "uniform", "dps": "dps:decay=0.7", "mopps": "mopps:decay=0.5"}
FORECASTERS = "hmm,dps:decay=0.7,dps:decay=1.0,mopps:decay=0.5,mopps:decay=1.0"


@dataclass(frozen=True)
class Measures:
    """What one run of the demo showed."""

    effective_sample_ratio: float  # share of the groups trained on with 0 < k < n
    held_out_before: float  # accuracy on prompts outside the pool, 8 samples a prompt at temperature 1
    held_out_after: float
    pool_before: float  # accuracy on the pool
    pool_after: float
    coverage: float  # share of the pool trained on
    rollouts: int
    selection_time_s: float  # a step
    selection_overhead: float  # share of a step
    step_time_s: float


@dataclass(frozen=True)
class DemoResult:
    """What the demo measured, and the files it wrote."""

    measures: dict[str, Measures]  # by run
    comparison: Comparison
    report: Path
    plot: Path  # effective-sample ratio of the runs

    def rows(self) -> list[dict[str, str]]:
        """The measures as a table for people, one row a quantity and one column a run."""
        return _rows(self.measures)


def demo(
    out: Path,
    max_steps: int,
    seed: int = 0,
    progress: Callable[[str, int, dict[str, float]], None] | None = None,
    stage: Callable[[str], None] | None = None,
) -> DemoResult:
    """Run the demo.

    Args:
        out: folder for the runs, their histories, `report.html` and `effective_sample_ratio.png`.
        max_steps: GRPO steps of each run.
        seed: of the pool, sampling and selection.
        progress: called with (run name, step, log) after each step.
        stage: called with a few words when something other than training begins.
    """
    tell = stage or (lambda words: None)
    pools = [tasks.make_pool(FAMILY, NUM_PROMPTS, seed, split=split) for split in ("test", "train")]

    def accuracies(model: Any, tokenizer: Any) -> list[float]:
        """Share of sampled answers that are right, held out and in the pool."""
        return [float(policy.pass_counts(model, tokenizer, pool, seed=seed).mean() / 8) for pool in pools]

    same = RunSettings(out, dataset=FAMILY, num_prompts=NUM_PROMPTS, max_steps=max_steps, seed=seed)
    tell("measuring the policy that all start from")
    before = accuracies(*policy.load_policy())
    histories: dict[str, RewardHistory] = {}
    measures: dict[str, Measures] = {}
    for name, selector in CHOICES.items():
        result = run(
            replace(same, output_dir=out / name, selector=selector),
            progress=partial(progress, name) if progress else None,
        )
        tell(f"measuring the policy that {name} trained")
        after = accuracies(result.model, result.tokenizer)
        histories[name] = result.history
        measures[name] = Measures(
            effective_sample_ratio=float(result.history.informative.mean()),
            held_out_before=before[0],
            held_out_after=after[0],
            pool_before=before[1],
            pool_after=after[1],
            coverage=result.history.num_prompts / NUM_PROMPTS,
            rollouts=int(result.history.num_rollouts.sum()),
            selection_time_s=result.mean("selection/time_s"),
            selection_overhead=result.mean("selection/overhead"),
            step_time_s=result.seconds / len(result.log),
        )

    tell("fitting and comparing models on the logged history")
    comparison = compare(MODELS.parse(FORECASTERS), histories["uniform"], fit_steps=max_steps // 2)

    tell("drawing the report")
    plot = out / "effective_sample_ratio.png"
    with atomic(plot) as part:
        plots.effective_sample_ratio(histories).savefig(part, format="png", dpi=150)
    # The report shows the run that DPS chose for through the eyes of the fitted model, which forecasts better.
    fitted = comparison.fits["hmm"]
    report = write_report(
        out / "report.html",
        histories.pop("dps"),
        fitted,
        title="GRPO with dynamics-predictive selection",
        name="dps",
        baselines=histories,
        comparison=comparison,
        fit=fitted,
        pool_size=NUM_PROMPTS,
        first=[
            Section(
                "Selection against uniform",
                f"{max_steps} GRPO steps from the same start, seed {seed}.",
                _rows(measures),
            )
        ],
    )
    return DemoResult(measures, comparison, report, plot)


def _rows(measures: Mapping[str, Measures]) -> list[dict[str, str]]:
    return [
        {"quantity": quantity, **{name: text(measured) for name, measured in measures.items()}}
        for quantity, text in QUANTITIES.items()
    ]


QUANTITIES: dict[str, Callable[[Measures], str]] = {
    "effective-sample ratio": lambda m: f"{m.effective_sample_ratio:.3f}",
    "accuracy, the pool": lambda m: f"{m.pool_before:.3f} → {m.pool_after:.3f}",
    "accuracy, held out": lambda m: f"{m.held_out_before:.3f} → {m.held_out_after:.3f}",
    "share of pool seen": lambda m: f"{m.coverage:.3f}",
    "rollouts": lambda m: f"{m.rollouts:,}",
    "selection a step": lambda m: f"{1e3 * m.selection_time_s:.1f} ms ({m.selection_overhead:.1%})",
    "seconds a step": lambda m: f"{m.step_time_s:.3f}",
}
