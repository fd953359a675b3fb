"""Read the settings of selection from verl's configuration, and refuse what cannot work before any model is loaded."""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from promptdyn.errors import InputError
from promptdyn.success import FOLDED, Grader
from promptdyn.success.rules import Conditions
from promptdyn.training.recipes import Recipe, selector_recipe

__all__ = ["Settings", "check_size", "filter_metric", "last_step"]

HISTORY_FILE = "history.parquet"
# Dynamic sampling is verl's own here, and verl's driver has no policy that could read prompts.
NOT_FOR_VERL = ("refresh_features", "max_rounds", "at_cap", "keep")
RECIPE_PARTS = tuple(field.name for field in fields(Recipe) if field.name not in NOT_FOR_VERL)
OPTIONS = ("selector", *RECIPE_PARTS, "id_column", "label_columns", "history_path")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """Settings of selection, from `trainer.v1.sampler.sampler_kwargs`.

    Attributes:
        selector: the selector's name.
        recipe: how prompts are chosen.
        id_column: the data's column of prompt ids.
        label_columns: columns to record; None for those with well-known names.
        history_path: the history's file.
    """

    selector: str
    recipe: Recipe
    id_column: str
    label_columns: list[str] | None
    history_path: Path

    @classmethod
    def from_config(cls, config: Any) -> Settings:
        """Read the settings from verl's configuration.

        Raises:
            InputError: a setting is unknown or out of range, or prompts cannot be chosen under a setting of verl.
        """
        given: Any = OmegaConf.to_container(config.trainer.v1.sampler.sampler_kwargs, resolve=True)
        for name in given:
            if name not in OPTIONS:
                similar = get_close_matches(str(name), OPTIONS, n=1)
                mend = f"did you mean {similar[0]!r}?" if similar else f"there are {', '.join(OPTIONS)}"
                raise InputError(f"trainer.v1.sampler.sampler_kwargs: {name!r} is no setting of selection: {mend}")
        metric = filter_metric(config)
        parts = {part: given[part] for part in RECIPE_PARTS if part in given}
        if "success" not in parts and metric not in (None, FOLDED):
            parts["success"] = metric  # forecast what verl's filter keeps
        selector = str(given.get("selector", "auto"))
        recipe = selector_recipe(selector, **parts)
        if recipe.max_rounds > 1 and metric is None:
            raise InputError(
                f"selector {selector!r} samples dynamically, which verl does itself: set "
                "algorithm.filter_groups.enable=True and algorithm.filter_groups.metric=reward too"
            )
        _check(config)
        columns = given.get("label_columns")
        return cls(
            selector,
            recipe,
            str(given.get("id_column", "prompt_id")),
            [columns] if isinstance(columns, str) else columns,
            Path(given.get("history_path", Path(config.trainer.default_local_dir, HISTORY_FILE))),
        )

    @property
    def functions(self) -> tuple[str, ...] | None:
        """Names in verl's `reward_extra_info` that the rule of success needs. None if the rule is a Python function,
        which may need any of them.
        """
        rule = Grader(self.recipe.success).requested
        return tuple(name for name in rule.functions if name != FOLDED) if isinstance(rule, Conditions) else None


def filter_metric(config: Any) -> str | None:
    """Return the metric by which verl's group filter (DAPO) works; None if it is off."""
    rule = config.algorithm.get("filter_groups", None) or {}
    return str(rule.get("metric")) if rule.get("enable", False) else None


def _check(config: Any) -> None:
    """Raise InputError if prompts cannot be chosen under a setting of verl."""
    workers = config.data.get("dataloader_num_workers", 8)
    if workers != 0:
        raise InputError(
            f"data.dataloader_num_workers={workers}: each worker would have a copy of the selector, which learns "
            "nothing: set data.dataloader_num_workers=0"
        )
    reward_model = config.reward.reward_model
    if reward_model.enable and not reward_model.enable_resource_pool:
        raise InputError(
            "reward.reward_model.enable=True without a resource pool of its own: verl computes such rewards only after "
            "it has dropped groups, and the selector would not see them: set "
            "reward.reward_model.enable_resource_pool=True"
        )
    if OmegaConf.select(config, "skip.rollout_tq.enable"):
        raise InputError(
            "skip.rollout_tq.enable=True replays rollouts of an earlier run, whose prompts cannot be chosen again: set "
            "skip.rollout_tq.enable=False"
        )


def check_size(config: Any, num_prompts: int) -> None:
    """Raise InputError if the pool is smaller than what verl rolls out at once; log a line if the run will end early.

    Args:
        config: verl's configuration.
        num_prompts: number of distinct prompts of the training data.
    """
    batch, mode = config.data.train_batch_size, config.trainer.v1.trainer_mode
    warmup = 0 if mode == "sync" else config.trainer.v1.get(mode, {}).get("num_warmup_batches", 0)
    at_once = int(batch * (1 + warmup))
    if num_prompts < at_once:
        ahead = f" and {warmup:g} batches ahead (num_warmup_batches)" if warmup else ""
        raise InputError(
            f"the training data have {num_prompts} different prompts, and verl takes {at_once} at once "
            f"(data.train_batch_size={batch}{ahead}): add prompts, or lower data.train_batch_size"
        )
    asked, last = config.trainer.total_training_steps, last_step(config, num_prompts)
    if asked is not None and last < asked:
        logger.warning(
            "the run will end after %d of total_training_steps=%d steps, as verl counts trainer.total_epochs=%d of "
            "the data: raise trainer.total_epochs",
            last,
            asked,
            config.trainer.total_epochs,
        )


def last_step(config: Any, num_prompts: int) -> int:
    """Return the number of the last training step of a run, as verl counts: from 1, and at most `total_epochs`."""
    of_epochs: int = num_prompts // config.data.train_batch_size * config.trainer.total_epochs
    asked = config.trainer.total_training_steps
    return of_epochs if asked is None else min(of_epochs, asked)
