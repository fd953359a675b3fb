"""The main job, end to end, in minutes: GRPO with and without selection, then models of the history it logged.

(a) Trains the embedded policy from the same start with as many rollouts each time: prompts drawn uniformly, and chosen
    by the two published methods, `DPS` and MoPPS. (b) Fits a `DiscreteHMM` to the first half of the history that the
    uniform run logged (its prompts are a fair sample of the pool) and compares forecasters on the second half.
    (c) Writes the report.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from promptdyn import plots
from promptdyn.evaluation import Comparison, compare
from promptdyn.models import MODELS
from promptdyn.report import Section, write_report
from promptdyn.storage import atomic
from promptdyn.training import policy, tasks
from promptdyn.training.run import RunResult, RunSettings, run

__all__ = ["DemoResult", "demo"]

FAMILY = "mixed"
NUM_PROMPTS = 1000
NUM_HELD_OUT = 1000
DYNAMICS = "dps:decay=0.7"
CHOICES: dict[str, dict[str, Any]] = {
    "uniform": {"policy": "uniform"},
    "dps": {"policy": "top", "dynamics": DYNAMICS},
    "mopps": {"policy": "thompson", "dynamics": "mopps:decay=0.5", "score": "half_solved"},
}
FORECASTERS = "hmm,dps:decay=0.7,dps:decay=1.0,mopps:decay=0.5,mopps:decay=1.0"


@dataclass(frozen=True)
class DemoResult:
    """What the demo measured."""

    rows: list[dict[str, Any]]  # one per quantity, a column per run
    comparison: Comparison
    report: Path
    plot: Path  # effective-sample ratio of the runs


def demo(
    out: Path,
    max_steps: int,
    seed: int = 0,
    progress: Callable[[str, int, dict[str, float]], None] | None = None,
    stage: Callable[[str], None] | None = None,
) -> DemoResult:
    """Run the demo.

    Args:
        out: folder for the runs, their histories, `report.html` and `effective_sample_ratio.svg`.
        max_steps: GRPO steps of each run.
        seed: of the pool, sampling and selection.
        progress: called with (run name, step, log) after each step.
        stage: called with a few words when something other than training begins.
    """
    tell = stage or (lambda words: None)
    held_out = tasks.make_pool(FAMILY, NUM_HELD_OUT, seed, split="test")

    def accuracy(model: Any, tokenizer: Any) -> str:
        """Share of sampled answers to held-out prompts that are right, 8 samples a prompt at temperature 1."""
        prompts, answers = [row["prompt"] for row in held_out], [row["answer"] for row in held_out]
        counts = policy.pass_counts(model, tokenizer, prompts, answers, num_generations=8, seed=seed)
        return f"{counts.mean() / 8:.3f}"

    same = RunSettings(out, dataset=FAMILY, num_prompts=NUM_PROMPTS, max_steps=max_steps, seed=seed)
    tell("measuring the starting policy on held-out prompts")
    before = accuracy(*policy.load_policy())
    runs: dict[str, RunResult] = {}
    after: dict[str, str] = {}
    for name, choice in CHOICES.items():
        runs[name] = run(
            replace(same, output_dir=out / name, **choice), progress=partial(progress, name) if progress else None
        )
        tell(f"measuring the policy trained with prompts of {name} on held-out prompts")
        after[name] = accuracy(runs[name].model, runs[name].tokenizer)

    tell("fitting and comparing models on the logged history")
    histories = {name: result.history for name, result in runs.items()}
    comparison = compare(MODELS.parse(FORECASTERS), histories["uniform"], fit_steps=max_steps // 2)
    rows = [{"quantity": what, **{name: text(runs[name]) for name in runs}} for what, text in QUANTITIES.items()]
    rows.insert(1, {"quantity": "held-out accuracy before", **dict.fromkeys(runs, before)})
    rows.insert(2, {"quantity": "held-out accuracy after", **after})

    tell("drawing the report")
    plot = out / "effective_sample_ratio.svg"
    with atomic(plot) as part:
        plots.effective_sample_ratio(histories).savefig(part, format="svg", metadata={"Date": None})
    chosen = histories.pop("dps")
    report = write_report(
        out / "report.html",
        chosen,
        MODELS.parse_one(DYNAMICS),
        title="GRPO with dynamics-predictive selection",
        name="dps",
        baselines=histories,
        comparison=comparison,
        fit=next(iter(comparison.fits.values())),
        pool_size=NUM_PROMPTS,
        first=[Section("Selection against uniform", f"{max_steps} GRPO steps from the same start, seed {seed}.", rows)],
    )
    return DemoResult(rows, comparison, report, plot)


def _ratio(result: RunResult) -> str:
    return f"{result.history.informative.mean():.3f}"


def _coverage(result: RunResult) -> str:
    return f"{len(np.unique(result.history.prompt)) / NUM_PROMPTS:.3f}"


def _overhead(result: RunResult) -> str:
    return f"{1e3 * result.mean('selection/time_s'):.2f} ms ({result.mean('selection/overhead'):.2%})"


QUANTITIES: dict[str, Callable[[RunResult], str]] = {
    "effective-sample ratio": _ratio,
    "share of pool trained on": _coverage,
    "rollouts": lambda result: f"{result.history.num_rollouts.sum():,}",
    "selection overhead a step": _overhead,
    "seconds a step": lambda result: f"{result.seconds / len(result.log):.3f}",
}
