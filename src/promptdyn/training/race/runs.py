"""Make the runs of a race that have no result yet, and save each result."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from promptdyn.errors import InputError
from promptdyn.evaluation.metrics import calibration_error, log_loss
from promptdyn.history import RewardHistory
from promptdyn.storage import atomic
from promptdyn.success import Grader
from promptdyn.training.race.declared import SHARED, Race, Run
from promptdyn.training.race.held_out import HeldOut
from promptdyn.training.race.trainer import BudgetCallback, RaceTrainer
from promptdyn.training.recipes import Recipe
from promptdyn.training.run import RunSettings, make_trainer
from promptdyn.training.trl import HISTORY_FILE

__all__ = ["RESULT_FILE", "race", "total_rollouts"]

RESULT_FILE = "result.json"


def race(
    declared: Race,
    out: str | Path,
    only: list[str] | None = None,
    progress: Callable[[Run, int], None] | None = None,
) -> dict[Run, dict[str, Any]]:
    """Make the runs of a race that have no result yet.

    The result and the history of each run are saved in `out` as soon as the run ends, in `runs/NAME/RATE/seed-N`. If
    an entrant has several learning rates, they are tried on the tuning seeds first.

    Args:
        declared: the race.
        out: folder of the results.
        only: names of the entrants to run now; default all.
        progress: function called after each step with the run and its rollouts so far, and once for a run that has a
            result already.

    Returns:
        The results on `seeds`, each entrant at its learning rate, as in `result.json`.

    Raises:
        InputError: an entrant is unknown, or a result in `out` was made with other settings.
    """
    unknown = sorted(set(only or []) - declared.entrants.keys())
    if unknown:
        raise InputError(f"{unknown[0]!r} is none of the selectors {', '.join(declared.entrants)}")
    held_out = HeldOut(declared)
    results: dict[Run, dict[str, Any]] = {}
    for name in only or declared.entrants:
        accuracies: dict[float, list[float]] = {}
        rates = declared.entrants[name].learning_rates
        for run in _tuning(declared, name):
            result = _result(held_out, run, Path(out), progress)
            accuracies.setdefault(run.learning_rate, []).append(result["curve"][-1]["accuracy"][declared.target])
        best = max(rates, key=lambda rate: float(np.mean(accuracies[rate]))) if accuracies else rates[0]
        for seed in declared.seeds:
            run = Run(name, best, seed)
            results[run] = _result(held_out, run, Path(out), progress)
    return results


def _tuning(declared: Race, name: str) -> Iterator[Run]:
    rates = declared.entrants[name].learning_rates
    if len(rates) > 1:
        for rate in rates:
            for seed in declared.tuning_seeds:
                yield Run(name, rate, seed)


def total_rollouts(declared: Race, only: list[str] | None = None) -> int:
    """Return the number of rollouts of a whole race, including runs that have a result."""
    total = 0
    for name in only or declared.entrants:
        runs = len(list(_tuning(declared, name))) + len(declared.seeds)
        total += runs * declared.entrants[name].budget
    return total


def _result(held_out: HeldOut, run: Run, out: Path, progress: Callable[[Run, int], None] | None) -> dict[str, Any]:
    """Read the result of a run, or make the run if there is none."""
    folder = run.folder(out)
    settings = json.loads(json.dumps(held_out.race.settings(run)))
    path = folder / RESULT_FILE
    if path.is_file():
        try:
            result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            earlier = result["settings"]
            # Settings that an older version did not have count as their defaults.
            earlier = {
                "grpo": {},
                "whole_batches": True,
                **earlier,
                "recipe": {**asdict(Recipe()), **earlier["recipe"]},
            }
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(f"{path}: is no result of a race: delete it, and the run is made again") from None
        differ = [name for name in settings if earlier.get(name) != settings[name]]
        if differ:
            raise InputError(
                f"{path}: was made with {differ[0]}={earlier.get(differ[0])!r}, the race has {settings[differ[0]]!r}: "
                "race into another folder, or delete the file"
            )
    else:
        result = {"settings": settings, **_run(held_out, run, folder, progress)}
        with atomic(path) as part:
            part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if progress is not None:
        progress(run, settings["budget"])
    return result


def _run(held_out: HeldOut, run: Run, folder: Path, progress: Callable[[Run, int], None] | None) -> dict[str, Any]:
    declared = held_out.race
    entrant = declared.entrants[run.entrant]
    work_folder = folder / "work"
    shutil.rmtree(work_folder, ignore_errors=True)  # left by a run that was cut off
    group_size = declared.num_generations
    max_steps = -(-entrant.budget // (declared.prompts_per_step * group_size))
    shared = {part.name: getattr(declared, part.name) for part in fields(RunSettings) if part.name in SHARED}
    settings = RunSettings(
        work_folder,
        selector=entrant.recipe,
        max_steps=max_steps,
        learning_rate=run.learning_rate,
        seed=run.seed,
        **{**shared, "grpo": {**declared.grpo, "logging_steps": 1, "save_strategy": "no"}},
    )
    trainer = make_trainer(
        settings, lambda *_: None, kind=RaceTrainer, budget=entrant.budget, whole_batches=declared.whole_batches
    )
    assert isinstance(trainer, RaceTrainer)
    pool: Any = trainer.train_dataset
    weights = held_out.weights(pool.to_list())
    curve: list[dict[str, Any]] = []
    grader = Grader(entrant.recipe.success)  # "auto" is found in the first measurement and kept

    def measure() -> None:
        solved = held_out.solved(trainer, grader)
        accuracy = {name: float(weight @ solved) / declared.held_out_samples for name, weight in weights.items()}
        curve.append({"rollouts": trainer.rollouts, "tokens": trainer.tokens, "accuracy": accuracy})

    budget_callback = BudgetCallback(
        trainer, declared.evaluations, measure, None if progress is None else lambda spent: progress(run, spent)
    )
    trainer.add_callback(budget_callback)
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started - budget_callback.seconds
    history = RewardHistory.from_parquet(work_folder / HISTORY_FILE)
    shutil.copyfile(work_folder / HISTORY_FILE, folder / HISTORY_FILE)
    shutil.rmtree(work_folder)
    forecast, informative = (np.concatenate(part) for part in (trainer.forecasts, trainer.outcomes))
    overhead = [entry["selection/overhead"] for entry in trainer.state.log_history if "selection/overhead" in entry]
    return {
        "curve": curve,
        "steps": trainer.state.global_step,
        "rollouts": trainer.rollouts,
        "tokens": trainer.tokens,
        "seconds": seconds,
        "effective_sample_ratio": float(history.informative.mean()),
        "trained_informative": float(history.informative[history.trained].mean()),
        "coverage": history.num_prompts / len(pool),
        "rollout_shares": held_out.rollout_shares(history),
        "forecast": float(forecast.mean()),
        "calibration_error": calibration_error(forecast, informative),
        "log_loss": log_loss(forecast, informative),
        "overhead": float(np.mean(overhead)),
    }
