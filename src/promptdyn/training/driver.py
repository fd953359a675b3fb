"""Selection in the process that drives a trainer of others: it has the data and the groups' rewards, and no policy.

An adapter (`promptdyn.training.verl`, `slime`, `skyrl`, `prime_rl`, `trl.async_grpo`) reads `Settings` from its
trainer's configuration and makes a `Driver` for the data. What is left to it is the trainer's own way: when it asks
for prompts, where groups end, what it saves.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from promptdyn.errors import InputError
from promptdyn.selection import HistoryRecorder, Session
from promptdyn.success import FOLDED, Grader
from promptdyn.success.rules import Conditions
from promptdyn.training.dataset import distinct
from promptdyn.training.recipes import Recipe, selector_recipe

__all__ = ["HISTORY_FILE", "Driver", "NamedRewards", "Settings", "number"]

HISTORY_FILE = "history.parquet"
# The trainer samples dynamically itself, and its driver has no policy that could read prompts.
NOT_FOR_DRIVERS = ("refresh_features", "max_rounds", "at_cap", "keep")
RECIPE_PARTS = tuple(field.name for field in fields(Recipe) if field.name not in NOT_FOR_DRIVERS)
OPTIONS = ("selector", *RECIPE_PARTS, "id_column", "label_columns", "history_path")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """Settings of selection, as a trainer's configuration gives them.

    Attributes:
        process: the process that chooses, for messages: "verl's driver".
        place: where in the trainer's configuration the settings stand, for messages.
        selector: the selector's name.
        recipe: how prompts are chosen.
        id_column: the data's column of prompt ids.
        label_columns: columns to record; None for those with well-known names.
        history_path: the history's file; None to record nothing.
    """

    process: str
    place: str
    selector: str
    recipe: Recipe
    id_column: str
    label_columns: list[str] | None
    history_path: Path | None

    @classmethod
    def read(
        cls,
        given: Mapping[str, Any],
        *,
        process: str,
        place: str,
        history_path: Path | None,
        filter_off: str | None,
        success: str | None = None,
    ) -> Settings:
        """Read the settings.

        Args:
            given: the settings by name, all optional: `selector` (default "auto"), parts of its `Recipe` to replace
                (`dynamics`, `strategy`, `score`, `success`, `refit_every`), `id_column` (default "prompt_id"),
                `label_columns`, `history_path`.
            process, place: see the class.
            history_path: the history's file, unless `given` names another.
            filter_off: None if the trainer drops groups that do not vary and rolls out others, which selectors with
                dynamic sampling, such as "greso", need; else the end of a message that tells how to turn that on.
            success: the rule of success, unless `given` names another. Default: the recipe's.

        Raises:
            InputError: a setting is unknown or out of range, or the selector needs a filter that is off.
        """
        for name in given:
            if name not in OPTIONS:
                similar = get_close_matches(str(name), OPTIONS, n=1)
                mend = f"did you mean {similar[0]!r}?" if similar else f"there are {', '.join(OPTIONS)}"
                raise InputError(f"{place}: {name!r} is no setting of selection: {mend}")
        parts = {part: given[part] for part in RECIPE_PARTS if part in given}
        selector = str(given.get("selector", "auto"))
        recipe = selector_recipe(selector, **{"success": success, **parts})
        if recipe.max_rounds > 1 and filter_off is not None:
            raise InputError(f"selector {selector!r} samples dynamically, {filter_off}")
        columns, path = given.get("label_columns"), given.get("history_path", history_path)
        return cls(
            process,
            place,
            selector,
            recipe,
            str(given.get("id_column", "prompt_id")),
            [columns] if isinstance(columns, str) else columns,
            None if path is None else Path(path),
        )


class Driver:
    """Selection in the process that drives a trainer.

    Args:
        settings: the settings of selection.
        dataset: the training data.
        num_generations: rollouts per prompt.
        seed: random seed of the selector.
        prompt_column: the data's column of prompts.
        block: least number of prompts to choose at once, see `Session`.

    Attributes:
        data: the distinct rows of the training data.
        row_of: prompt id -> row of `data`.
        rows: prompt id -> row of `dataset`.
        session: the session between trainer and selector.
        named: the numbers beside a rollout's reward that the rule of success needs.

    Raises:
        InputError: the settings do not fit the data, or the selector needs a policy that reads the prompts.
    """

    def __init__(
        self,
        settings: Settings,
        dataset: Dataset,
        *,
        num_generations: int,
        seed: int,
        prompt_column: str = "prompt",
        block: int = 1,
    ) -> None:
        self.data, pool, self.rows = distinct(dataset, settings.id_column, prompt_column)
        self.row_of = {prompt_id: row for row, prompt_id in enumerate(pool.ids)}
        self._plan = settings.recipe.plan(pool, num_generations, seed)
        if self._plan.reads_policy:
            raise InputError(
                f"selector {settings.selector!r} needs the policy's reading of the prompts for these data, and "
                f"{settings.process} has no policy: add a column of labels, such as 'difficulty', or set "
                f"another selector in {settings.place}: dps, mopps, 'features:features=COLUMN', ..."
            )
        columns = settings.label_columns if settings.label_columns is not None else pool.label_columns or ()
        labels = {column: dict(zip(pool.ids, pool.labels(column), strict=True)) for column in columns}
        recorder = None if settings.history_path is None else HistoryRecorder(settings.history_path, labels)
        self.session = Session(self._plan.selector(pool), recorder, block=block)
        self.named = NamedRewards(self.session.selector.grader)
        logger.warning("prompts are chosen %s", self._plan.choice)

    def resume(self, state: Mapping[str, Any], source: str, mend: str) -> None:
        """Go on from a session's saved state.

        Args:
            state: what `Session.state_dict` returned.
            source: the state's file, for messages.
            mend: how to start without it, for messages.

        Raises:
            InputError: the state is that of another pool, model or selector, or is damaged.
        """
        try:
            self._plan.keep_model(self.session.selector, state["online"]["model"])
            self.session.load_state_dict(state)
        except (InputError, KeyError, TypeError) as error:
            reason = error if isinstance(error, InputError) else f"it has no selector's state ({error!r})"
            raise InputError(f"{source}: {reason}; {mend}") from None

    def end(self, prompt_id: str, rewards: Mapping[str, Sequence[float | None]], trained: bool) -> None:
        """Hand a group that has ended to the session. Without any reward it is lost.

        Args:
            prompt_id: id of the group's prompt.
            rewards: {"reward": (rollout,) rewards, name: (rollout,) numbers}, see `NamedRewards.group`.
            trained: whether the group feeds the gradient.
        """
        if all(reward is None for reward in rewards[FOLDED]):
            self.session.lost([prompt_id])
            return
        # The reward holds all of a rollout's reward; the other numbers only tell successes.
        self.session.weights = [1.0] + [0.0] * (len(rewards) - 1)
        self.session.end(prompt_id, rewards, trained)


class NamedRewards:
    """The numbers that come with a rollout's reward, such as "acc", and that the rule of success needs.

    Args:
        grader: knows the rule of success.

    Attributes:
        names: names of the numbers to read. None if the rule is a Python function, which may need any of them, until
            the first rollouts tell which there are.
    """

    def __init__(self, grader: Grader) -> None:
        rule = grader.requested
        self._rule = str(grader)
        self._needed = [
            {each.function for each in conditions if each.function not in (None, FOLDED)}
            for conditions in (rule.alternatives if isinstance(rule, Conditions) else ())
        ]
        self.names: tuple[str, ...] | None = None
        if isinstance(rule, Conditions):
            self.names = tuple(name for name in rule.functions if name != FOLDED)
        self._found: set[str] = set()
        self._checked = self.names == ()

    def to_read(self, infos: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
        """Return the names of the numbers to read.

        Args:
            infos: (rollout,) what came with the rewards, by name; some values are no numbers.
        """
        if not self._checked:
            self._found.update(name for info in infos for name, value in info.items() if number(value) is not None)
        if self.names is None:
            self.names = tuple(sorted(self._found - {FOLDED}))
        return self.names

    def group(
        self, rewards: Sequence[float | None], infos: Sequence[Mapping[str, Any]]
    ) -> dict[str, list[float | None]]:
        """Return a group's rewards as `Driver.end` takes them.

        Args:
            rewards: (rollout,) rewards; None for a rollout without one, which then has no grade either.
            infos: (rollout,) what came with them, by name.
        """
        named = {
            name: [
                None if reward is None else number(info.get(name)) for reward, info in zip(rewards, infos, strict=True)
            ]
            for name in self.names or ()
        }
        return {FOLDED: list(rewards), **named}

    def check(self, where: str, step: int) -> None:
        """Raise InputError if the rollouts so far have none of the numbers that the rule names.

        Args:
            where: where the trainer keeps such numbers, for messages.
            step: the training step, for messages.
        """
        if not self._checked and self._needed and all(names - self._found for names in self._needed):
            found = ", ".join(sorted(self._found - {FOLDED})) or "no number"
            absent = min(map(str, self._needed[0] - self._found))
            raise InputError(
                f"success={self._rule!r}: no rollout of step {step} has a number {absent!r} in {where}: it has "
                f"{found}; 'reward' is the whole reward"
            )
        self._checked = True


def number(value: Any) -> float | None:
    """Return a value that came with a reward as a number; None if it is none."""
    return float(value) if isinstance(value, bool | int | float | np.number | np.bool_) else None
