"""The main job, end to end, in minutes: GRPO with and without selection, then models of the history it logged.

(a) Trains the embedded policy twice from the same start with as many rollouts, prompts drawn uniformly against
    prompts chosen by `DPS`. (b) Fits a `DiscreteHMM` to the first half of the history that the uniform run logged
    (its prompts are a fair sample of the pool) and compares forecasters on the second half. (c) Writes the report.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from promptdyn.evaluation import Comparison, compare
from promptdyn.models import MODELS
from promptdyn.report import Section, write_report
from promptdyn.training import policy, tasks
from promptdyn.training.run import RunResult, RunSettings, run

__all__ = ["DemoResult", "demo"]

UNIFORM, SELECTION = "uniform", "selection"
FORECASTERS = "hmm,dps:decay=0.7,dps:decay=1.0,mopps"
NUM_HELD_OUT = 400


@dataclass(frozen=True)
class DemoResult:
    """What the demo measured."""

    rows: list[dict[str, Any]]  # one per quantity: uniform, selection
    comparison: Comparison
    report: Path


def demo(
    out: Path,
    max_steps: int,
    seed: int = 0,
    progress: Callable[[str, int, dict[str, float]], None] | None = None,
    stage: Callable[[str], None] | None = None,
) -> DemoResult:
    """Run the demo.

    Args:
        out: folder for both runs, their histories and `report.html`.
        max_steps: GRPO steps of each run.
        seed: of the pool, sampling and selection.
        progress: called with (run name, step, log) after each step.
        stage: called with a few words when something other than training begins.
    """
    held_out = tasks.make_pool("arithmetic", NUM_HELD_OUT, seed, split="test")

    def accuracy(model: Any, tokenizer: Any) -> float:
        """Share of sampled answers to held-out prompts that are right, 8 samples a prompt at temperature 1."""
        prompts, answers = [p["prompt"] for p in held_out], [p["answer"] for p in held_out]
        return float(np.mean(policy.pass_counts(model, tokenizer, prompts, answers, seed=seed) / 8))

    if stage:
        stage("measuring the starting policy on held-out prompts")
    before = accuracy(*policy.load_policy())
    runs: dict[str, RunResult] = {}
    after: dict[str, float] = {}
    for name, choice in {UNIFORM: "uniform", SELECTION: "top"}.items():
        settings = RunSettings(out / name, policy=choice, max_steps=max_steps, seed=seed)
        runs[name] = run(settings, progress=partial(progress, name) if progress else None)
        if stage:
            stage(f"measuring the policy trained with {name} prompts")
        after[name] = accuracy(runs[name].model, runs[name].tokenizer)

    if stage:
        stage("fitting and comparing models on the logged history")
    logged = runs[UNIFORM].history
    comparison = compare(MODELS.parse(FORECASTERS), logged, fit_steps=max_steps // 2)
    rows = [{"quantity": what, **{name: text(runs[name]) for name in runs}} for what, text in QUANTITIES.items()]
    rows.insert(1, {"quantity": "held-out accuracy before", **dict.fromkeys(runs, f"{before:.3f}")})
    rows.insert(2, {"quantity": "held-out accuracy after", **{name: f"{after[name]:.3f}" for name in runs}})

    if stage:
        stage("drawing the report")
    report = write_report(
        out / "report.html",
        runs[SELECTION].history,
        MODELS.create("dps"),
        title="GRPO with dynamics-predictive selection",
        baselines={UNIFORM: logged},
        comparison=comparison,
        fit=next(iter(comparison.fits.values())),
        pool_size=RunSettings.num_prompts,
        first=[Section("Uniform against selection", f"{max_steps} GRPO steps from the same start, seed {seed}.", rows)],
    )
    return DemoResult(rows, comparison, report)


def _ratio(result: RunResult) -> str:
    return f"{result.history.informative.mean():.3f}"


def _coverage(result: RunResult) -> str:
    return f"{len(np.unique(result.history.prompt)) / RunSettings.num_prompts:.3f}"


def _overhead(result: RunResult) -> str:
    return f"{1e3 * result.mean('selection/time_s'):.2f} ms ({result.mean('selection/overhead'):.2%})"


QUANTITIES: dict[str, Callable[[RunResult], str]] = {
    "effective-sample ratio": _ratio,
    "share of pool trained on": _coverage,
    "rollouts": lambda result: f"{result.history.num_rollouts.sum():,}",
    "selection overhead a step": _overhead,
    "seconds a step": lambda result: f"{result.seconds / len(result.log):.3f}",
}
