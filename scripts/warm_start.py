"""Measure what a warm start saves: runs on the scarce pool, cold and after recordings of several sizes.

    OMP_NUM_THREADS=1 python scripts/warm_start.py --out runs/warm_start

Each pool is recorded before training: 8 rollouts of some of its prompts by the policy as it is. A run then starts cold,
or knows a recording. What a warm start saves is how many more steps the cold run takes until it has had as many groups
that vary as the warm one has had after 50 steps. Recordings and runs that are there are not made again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from promptdyn.cli.process import quiet
from promptdyn.cli.tables import console, print_table
from promptdyn.history import RewardHistory
from promptdyn.storage import atomic
from promptdyn.training import tasks
from promptdyn.training.policy import load_policy, pass_counts
from promptdyn.training.recipes import SELECTORS
from promptdyn.training.record import RecordSettings, record
from promptdyn.training.run import RunSettings, run

POOL: dict[str, Any] = {"dataset": "scarce", "num_prompts": 10_000, "num_generations": 8}
STEPS, COLD_STEPS, GROUPS = 50, 150, 8
SIZES = (100, 400, 2000, 10_000)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--out", type=Path, required=True, help="folder of recordings and runs")
    options.add_argument("--selectors", default="auto,features,mopps,dps", help="selectors, comma-separated")
    options.add_argument("--seeds", default="2,3,4", help="random seeds of pool, sampling and selection")
    options.add_argument("--sizes", default=",".join(map(str, SIZES)), help="prompts of the recordings")
    given = options.parse_args()
    quiet()
    seeds, sizes = ([int(number) for number in text.split(",")] for text in (given.seeds, given.sizes))
    results = [
        {"selector": selector, **row}
        for selector in given.selectors.split(",")
        for row in rows(selector, seeds, sizes, given.out)
    ]
    print_table(console, results)
    with atomic(given.out / "results.json") as part:
        part.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def rows(selector: str, seeds: list[int], sizes: list[int], out: Path) -> Iterator[dict[str, Any]]:
    """Yield a row of the table for a cold start, and for each size of recording."""
    cold = [trained(selector, seed, 0, out) for seed in seeds]
    for size in [0, *sizes]:
        runs = cold if size == 0 else [trained(selector, seed, size, out) for seed in seeds]
        had = np.array([varied[:STEPS].sum() for varied, _ in runs])
        # The step at which the cold run has had as many; its last one if it never has.
        taken = np.array(
            [int(np.searchsorted(np.cumsum(varied), n)) + 1 for (varied, _), n in zip(cold, had, strict=True)]
        )
        yield {
            "prompts recorded": size,
            "rollouts recorded": size * POOL["num_generations"],
            "groups that vary, steps 1-10": mean([varied[:10].mean() / GROUPS for varied, _ in runs]),
            "steps 1-50": mean([varied[:STEPS].mean() / GROUPS for varied, _ in runs]),
            "frontier after 50 steps": mean([accuracy for _, accuracy in runs]),
            "rollouts saved in 50 steps": float((taken - STEPS).mean()) * GROUPS * POOL["num_generations"],
            "cold runs that never had as many": int((taken > COLD_STEPS).sum()),
        }


def trained(selector: str, seed: int, size: int, out: Path) -> tuple[NDArray[np.int64], float]:
    """Return the (step,) number of groups that vary in a run, and the accuracy on the frontier after 50 steps."""
    folder = out / selector / f"seed-{seed}" / f"after-{size}"
    result = folder / "result.json"
    if not result.is_file():
        history, accuracy = train(selector, seed, size, folder, recorded(seed, size, out) if size else None)
        varied = np.bincount(history.step, history.informative)
        with atomic(result) as part:
            part.write_text(json.dumps({"varied": varied.tolist(), "accuracy": accuracy}), encoding="utf-8")
    content = json.loads(result.read_text(encoding="utf-8"))
    return np.array(content["varied"], np.int64), content["accuracy"]


def train(selector: str, seed: int, size: int, folder: Path, known: Path | None) -> tuple[RewardHistory, float]:
    """Train 50 steps and measure; a cold run goes on to step 150, which tells when it has caught up."""
    settings = RunSettings(
        folder,
        selector=replace(SELECTORS[selector], warm_start=None if known is None else str(known)),
        seed=seed,
        prompts_per_step=GROUPS,
        max_steps=STEPS,
        learning_rate=1e-4,
        lr_scheduler_type="constant",
        save_steps=STEPS,
        **POOL,
    )
    result = run(settings, lambda *_: None)
    frontier = next(part for part in tasks.FAMILIES["scarce"] if part.name == "frontier")
    kinds = {kind.name for kind in frontier.kinds}
    held_out = [row for row in tasks.held_out("scarce", 48, 99) if f"{row['task']}-{row['difficulty']}" in kinds]
    _, tokenizer = load_policy()
    accuracy = pass_counts(result.model, tokenizer, held_out, num_generations=4, seed=99).mean() / 4
    if known is None:
        result = run(replace(settings, max_steps=COLD_STEPS, resume=True), lambda *_: None)
    assert result.history is not None
    console.print(f"{selector}, seed {seed}, after {size} prompts: {accuracy:.3f}")
    return result.history, float(accuracy)


def recorded(seed: int, size: int, out: Path) -> Path:
    """Record some prompts of a pool; a larger recording goes on from a smaller one."""
    path = out / f"pool-{seed}.parquet"
    record(RecordSettings(path, seed=seed, max_prompts=size, engine="transformers:batch_size=1024", **POOL))
    return path


def mean(values: list[float]) -> float:
    return float(np.mean(values))


if __name__ == "__main__":
    main()
