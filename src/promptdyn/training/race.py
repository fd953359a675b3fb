"""Race selectors: each trains from the same start with the same budget of rollouts, on several seeds.

A YAML file declares a race (`read_race`). `race` makes its runs one by one and saves each result, so a race that was
cut off continues where it stopped. `promptdyn.training.standings` compares the results.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.optim.lr_scheduler import LambdaLR
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from promptdyn.errors import InputError
from promptdyn.evaluation.metrics import calibration_error, log_loss
from promptdyn.history import RewardHistory
from promptdyn.selection import Observation
from promptdyn.storage import atomic
from promptdyn.success import Grader
from promptdyn.training import tasks
from promptdyn.training.config import read_yaml
from promptdyn.training.loading import load_reward, load_rows
from promptdyn.training.policy import pass_counts
from promptdyn.training.recipes import Recipe, selector_recipe
from promptdyn.training.run import RunSettings, make_trainer
from promptdyn.training.trl import HISTORY_FILE, SelectionGRPOTrainer

__all__ = ["RESULT_FILE", "Entrant", "Race", "Run", "race", "read_race", "total_rollouts"]

RESULT_FILE = "result.json"
# The seed that draws and samples the held-out prompts, the same for all runs.
HELD_OUT_SEED = 99


@dataclass(frozen=True)
class Entrant:
    """A selector in a race.

    Attributes:
        name: its name in the race's tables.
        recipe: how it chooses prompts.
        budget: rollouts of each of its runs.
        learning_rates: the rates to try on the tuning seeds, or the single rate to use.
    """

    name: str
    recipe: Recipe
    budget: int
    learning_rates: tuple[float, ...]


@dataclass(frozen=True)
class Race:
    """The declaration of a race: its selectors, prompts and budget.

    Attributes:
        selectors: name -> settings that differ from the selector of that name: another `selector`, parts of the
            `Recipe` (`strategy`, `score`, `max_rounds`, ...), `budget` and `learning_rates`.
        dataset: an embedded family, or a file or Hugging Face dataset with a column "prompt".
        held_out: number of prompts of each kind from the family's test split; for another dataset, a file or dataset
            of prompts to measure on.
        budget: rollouts of a run.
        seeds: random seeds of pool, sampling and selection; one run for each.
        learning_rates: rates to try on `tuning_seeds` if there are several. Each rate falls linearly with the rest of
            the budget. The rate with the highest final accuracy on `target` is used.
        tuning_seeds: seeds for choosing learning rates; none of them is in `seeds`.
        target: the accuracy that decides: that of a part of the family ("frontier"), of all kinds equally ("all"), or
            of kinds weighted by their shares in the pool ("mix", default).
        baseline: name of the selector that others are compared with, seed by seed; default the first.
        reference: name of the selector whose final accuracy others are to reach; default none.
        model, reward, num_prompts, prompts_per_step, num_generations, max_completion_length: see
            `promptdyn.training.run.RunSettings`.
        evaluations: number of measurements in a run, after the one at the start.
        held_out_samples: rollouts of each held-out prompt, at temperature 1.
    """

    selectors: Mapping[str, Mapping[str, Any]]
    dataset: str
    held_out: int | str
    budget: int
    seeds: tuple[int, ...]
    learning_rates: tuple[float, ...]
    tuning_seeds: tuple[int, ...] = ()
    target: str = "mix"
    baseline: str = ""
    reference: str = ""
    model: str = "embedded"
    reward: str = "exact_answer"
    num_prompts: int = 1000
    prompts_per_step: int = 8
    num_generations: int = 8
    max_completion_length: int = 8
    evaluations: int = 6
    held_out_samples: int = 4
    entrants: dict[str, Entrant] = field(init=False)

    def __post_init__(self) -> None:
        if not self.selectors:
            raise InputError("selectors: name at least one")
        entrants = {name: self._entrant(name, changes) for name, changes in self.selectors.items()}
        object.__setattr__(self, "entrants", entrants)
        object.__setattr__(self, "baseline", self.baseline or next(iter(entrants)))
        for role in ("baseline", "reference"):
            name = getattr(self, role)
            if name and name not in entrants:
                raise InputError(f"{role}: {name!r} is none of the selectors {', '.join(entrants)}")
        for name in ("num_prompts", "prompts_per_step", "evaluations", "held_out_samples"):
            _whole_number(name, getattr(self, name), least=1)
        if not self.seeds:
            raise InputError("seeds: give at least one")
        shared = set(self.seeds) & set(self.tuning_seeds)
        if shared:
            raise InputError(f"seeds: {min(shared)} is one of tuning_seeds too: keep those apart")
        if (isinstance(self.held_out, int)) != (self.dataset in tasks.FAMILIES):
            raise InputError(
                f"held_out: {self.held_out!r} for dataset {self.dataset!r}: give the number of prompts of each kind "
                f"for an embedded family ({', '.join(tasks.FAMILIES)}), a file of prompts for another dataset"
            )
        measures = [part.name for part in tasks.FAMILIES.get(self.dataset, ())]
        if self.target not in (*measures, "all", "mix"):
            raise InputError(
                f"target: {self.target!r} is none of {', '.join(dict.fromkeys([*measures, 'all', 'mix']))}"
            )

    def _entrant(self, name: str, changes: Mapping[str, Any]) -> Entrant:
        remaining = dict(changes or {})
        parts = {part.name: remaining.pop(part.name, None) for part in fields(Recipe)}
        recipe = selector_recipe(str(remaining.pop("selector", name)), **parts)
        budget = _whole_number(f"selectors: {name}: budget", remaining.pop("budget", self.budget), least=1)
        rates = _numbers(f"selectors: {name}: learning_rates", remaining.pop("learning_rates", self.learning_rates))
        if remaining:
            known = ["selector", *parts, "budget", "learning_rates"]
            raise InputError(f"selectors: {name}: {min(remaining)!r} is none of {', '.join(known)}")
        if len(rates) > 1 and not self.tuning_seeds:
            raise InputError(f"selectors: {name}: {len(rates)} learning_rates and no tuning_seeds to choose by")
        return Entrant(name, recipe, budget, rates)

    def settings(self, run: Run) -> dict[str, Any]:
        """Return all settings that a run's result depends on, ready for JSON."""
        shared = {part.name: getattr(self, part.name) for part in fields(self) if part.name in SHARED}
        entrant = self.entrants[run.entrant]
        return {**shared, "recipe": asdict(entrant.recipe), "budget": entrant.budget, **asdict(run)}


# Settings of a race that all of its runs depend on.
SHARED = (
    *("dataset", "held_out", "model", "reward", "num_prompts", "prompts_per_step", "num_generations"),
    *("max_completion_length", "evaluations", "held_out_samples"),
)


@dataclass(frozen=True)
class Run:
    """One run of a race."""

    entrant: str
    learning_rate: float
    seed: int

    def folder(self, out: Path) -> Path:
        """Return the folder of its result."""
        return out / "runs" / self.entrant.replace("/", "-") / f"{self.learning_rate:g}" / f"seed-{self.seed}"


def read_race(path: str | Path) -> Race:
    """Read a race from a YAML file whose keys are those of `Race`.

    Raises:
        InputError: the file cannot be read, a key is unknown or missing, or a value cannot be used. The message names
            the file.
    """
    settings = read_yaml(path)
    try:
        return _race(settings)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _race(settings: dict[str, Any]) -> Race:
    known = {part.name: part for part in fields(Race) if part.init}
    for name in settings:
        if name not in known:
            raise InputError(f"{name!r} is none of {', '.join(known)}")
    missing = [name for name, part in known.items() if part.default is MISSING and name not in settings]
    if missing:
        raise InputError(f"{missing[0]!r} is missing")
    values = dict(settings)
    selectors = settings["selectors"]
    if not isinstance(selectors, dict) or not all(isinstance(changes or {}, dict) for changes in selectors.values()):
        raise InputError("selectors: give a mapping from names to settings, as in 'uniform: {}'")
    values["selectors"] = {str(name): dict(changes or {}) for name, changes in selectors.items()}
    for name, part in known.items():
        if name not in settings:
            continue
        kind = str(part.type)
        if kind == "int":
            values[name] = _whole_number(name, settings[name])
        elif kind == "str":
            values[name] = str(settings[name])
        elif kind == "tuple[int, ...]":
            values[name] = tuple(_whole_number(name, value) for value in _items(settings[name]))
        elif kind == "tuple[float, ...]":
            values[name] = _numbers(name, settings[name])
    return Race(**values)


def _items(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _whole_number(name: str, value: Any, least: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{name}: {value!r} is not a whole number, {least} or more")
    return value


def _numbers(name: str, values: Any) -> tuple[float, ...]:
    """Read numbers above 0. They may be text, since YAML reads 1e-4, without a point, as text."""
    try:
        numbers = tuple(float(value) for value in _items(values))
    except (TypeError, ValueError):
        raise InputError(f"{name}: {values!r} are not numbers") from None
    if not numbers or not all(0 < number < np.inf for number in numbers):
        raise InputError(f"{name}: {values!r} are not numbers above 0")
    return numbers


def race(
    declared: Race,
    out: str | Path,
    only: list[str] | None = None,
    progress: Callable[[Run, int], None] | None = None,
) -> dict[Run, dict[str, Any]]:
    """Make the runs of a race that have no result yet.

    The result of each run is saved in `out` as soon as the run ends: `runs/NAME/RATE/seed-N/result.json`, and for the
    first seed also the history. If an entrant has several learning rates, they are tried on the tuning seeds
    first.

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


class HeldOut:
    """The held-out prompts of a race, their reward functions, and how accuracies are weighted."""

    def __init__(self, declared: Race) -> None:
        self.race = declared
        if isinstance(declared.held_out, int):
            self.rows = tasks.held_out(declared.dataset, declared.held_out, HELD_OUT_SEED)
            family = tasks.FAMILIES[declared.dataset]
            self.parts = {part.name: [kind.name for kind in part.kinds] for part in family}
        else:
            self.rows = load_rows(declared.held_out).to_list()
            self.parts = {}
            if not all(isinstance(row["prompt"], str) for row in self.rows):
                raise InputError(
                    f"held_out: the prompts of {declared.held_out!r} are not texts, which races are run on"
                )
        self.rewards = [load_reward(name) for name in declared.reward.split(",")]

    def weights(self, pool: list[dict[str, Any]]) -> dict[str, NDArray[np.float64]]:
        """Return the (row,) weights of the held-out prompts in each measure, for the pool of a run."""
        if not self.parts:
            equal = np.full(len(self.rows), 1.0 / len(self.rows))
            return {"all": equal, "mix": equal}
        kinds = np.array([_kind(row) for row in self.rows])
        per_row = {kind: 1.0 / np.count_nonzero(kinds == kind) for kind in np.unique(kinds)}
        in_pool = [_kind(row) for row in pool]

        def mean_over(share: Mapping[str, float]) -> NDArray[np.float64]:
            weights = np.array([share.get(kind, 0.0) * per_row[kind] for kind in kinds])
            return weights / weights.sum()

        measures = {name: mean_over(dict.fromkeys(part_kinds, 1.0)) for name, part_kinds in self.parts.items()}
        measures["all"] = mean_over(dict.fromkeys(per_row, 1.0))
        measures["mix"] = mean_over({kind: in_pool.count(kind) / len(in_pool) for kind in per_row})
        return measures

    def rollout_shares(self, history: RewardHistory) -> dict[str, float]:
        """Return the share of the rollouts that each part of the family received."""
        if not self.parts:
            return {}
        columns = [history.columns[column][history.prompt] for column in ("task", "difficulty")]
        kinds = np.array(["-".join(labels) for labels in zip(*columns, strict=True)])
        weight = history.num_rollouts / history.num_rollouts.sum()
        return {name: float(weight[np.isin(kinds, kinds_of)].sum()) for name, kinds_of in self.parts.items()}


def _kind(row: Mapping[str, Any]) -> str:
    return f"{row['task']}-{row['difficulty']}"


def _result(held_out: HeldOut, run: Run, out: Path, progress: Callable[[Run, int], None] | None) -> dict[str, Any]:
    """Read the result of a run, or make the run if there is none."""
    folder = run.folder(out)
    settings = json.loads(json.dumps(held_out.race.settings(run)))
    path = folder / RESULT_FILE
    if path.is_file():
        try:
            result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            earlier = result["settings"]
            # Parts of a recipe that an older version did not have count as their defaults.
            earlier["recipe"] = {**asdict(Recipe()), **earlier["recipe"]}
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
        grpo={"logging_steps": 1, "save_strategy": "no"},
        **shared,
    )
    trainer = make_trainer(settings, lambda *_: None, kind=RaceTrainer, budget=entrant.budget)
    assert isinstance(trainer, RaceTrainer)
    pool: Any = trainer.train_dataset
    weights = held_out.weights(pool.to_list())
    curve: list[dict[str, Any]] = []
    grader = Grader(entrant.recipe.success)  # "auto" is found in the first measurement and kept

    def measure() -> None:
        solved = pass_counts(
            cast(PreTrainedModel, trainer.model),
            cast(PreTrainedTokenizerBase, trainer.processing_class),
            held_out.rows,
            held_out.rewards,
            num_generations=declared.held_out_samples,
            max_completion_length=declared.max_completion_length,
            success=grader,
            seed=HELD_OUT_SEED,
        )
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
    if run.seed == declared.seeds[0]:
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


class RaceTrainer(SelectionGRPOTrainer):
    """The trainer of a race, for one process. It counts its rollouts and tokens, and saves the forecasts it chose by.

    Args:
        budget: rollouts of the run; the learning rate falls linearly with the rest of them.
    """

    def __init__(self, *positional: Any, budget: int, **named: Any) -> None:
        super().__init__(*positional, **named)
        self.budget = budget
        self.rollouts = self.tokens = 0
        self.forecasts: list[NDArray[np.float64]] = []
        self.outcomes: list[NDArray[np.bool_]] = []
        self._forecast: dict[str, float] = {}

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        falling: Any = optimizer or self.optimizer
        self.lr_scheduler = LambdaLR(falling, lambda _: max(0.0, 1.0 - self.rollouts / self.budget))
        return self.lr_scheduler

    def _roll_out(self, chosen: list[str]) -> dict[str, Any]:
        online = self.selector.online
        forecast = online.informative(self._generations.group_size, rows=online.rows(chosen))
        self._forecast |= dict(zip(chosen, forecast.tolist(), strict=True))
        outputs = super()._roll_out(chosen)
        self.rollouts += len(chosen) * self._generations.group_size
        self.tokens += int(outputs["completion_mask"].sum())
        return outputs

    def _learn(self, trained: Collection[str]) -> Observation | None:
        observation = super()._learn(trained)
        assert observation is not None
        self.forecasts.append(np.array([self._forecast[prompt_id] for prompt_id in observation.prompt_ids]))
        self.outcomes.append(observation.informative)
        self._forecast = {}
        return observation


class BudgetCallback(TrainerCallback):
    """Measures the policy at the start and at even shares of the budget, and ends the run when the budget is spent.

    Attributes:
        seconds: time spent on measuring.
    """

    def __init__(
        self,
        trainer: RaceTrainer,
        evaluations: int,
        measure: Callable[[], None],
        progress: Callable[[int], None] | None,
    ) -> None:
        self.trainer, self.evaluations, self.measure, self.progress = trainer, evaluations, measure, progress
        self.measured = 0
        self.seconds = 0.0

    def _measure(self) -> None:
        started = time.perf_counter()
        with torch.no_grad():
            self.measure()
        self.seconds += time.perf_counter() - started

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._measure()
        self.measured = 1

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        spent = self.trainer.rollouts
        if self.progress is not None:
            self.progress(min(spent, self.trainer.budget))
        if spent >= self.trainer.budget:
            control.should_training_stop = True
        due = min(spent * self.evaluations // self.trainer.budget, self.evaluations)
        if due >= self.measured:
            self._measure()
            self.measured = due + 1
