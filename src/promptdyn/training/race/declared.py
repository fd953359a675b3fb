"""The declaration of a race, from a YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from promptdyn.errors import InputError
from promptdyn.training import tasks
from promptdyn.training.config import read_yaml
from promptdyn.training.recipes import Recipe, selector_recipe

__all__ = ["SHARED", "Entrant", "Race", "Run", "read_race"]


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
        grpo: settings of `trl.GRPOConfig` by name, such as `bf16`, for all runs.
        whole_batches: whether groups that teach nothing are passed forward and back too, as TRL does. Without them a
            run takes less time, on a slow machine much less, and comes to the same. Default: true.
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
    grpo: Mapping[str, Any] = field(default_factory=dict)
    whole_batches: bool = True
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
        if not isinstance(self.whole_batches, bool):
            raise InputError(f"whole_batches: {self.whole_batches!r}: give true or false")
        if not isinstance(self.grpo, Mapping):
            raise InputError(f"grpo: {self.grpo!r}: give a mapping from names to values, as in 'grpo: {{bf16: false}}'")
        if ruled := sorted(RULED & self.grpo.keys()):
            raise InputError(f"grpo: {ruled[0]!r} is not free in a race: it follows from the race's own settings")
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
    *("max_completion_length", "grpo", "whole_batches", "evaluations", "held_out_samples"),
)
# Settings of `trl.GRPOConfig` that a race decides itself.
RULED = {
    *("output_dir", "seed", "max_steps", "num_train_epochs", "learning_rate", "lr_scheduler_type", "num_generations"),
    *("max_completion_length", "logging_steps", "logging_strategy", "save_strategy", "eval_strategy"),
    "resume_from_checkpoint",
}


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
    optional = {
        name for name, part in known.items() if part.default is not MISSING or part.default_factory is not MISSING
    }
    missing = [name for name in known if name not in optional and name not in settings]
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
