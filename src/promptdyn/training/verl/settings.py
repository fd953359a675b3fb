"""Read the settings of selection from verl's configuration, and refuse what cannot work before any model is loaded."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from promptdyn.errors import InputError
from promptdyn.success import FOLDED
from promptdyn.training.driver import HISTORY_FILE, Settings

__all__ = ["check_size", "filter_metric", "last_step", "read_settings"]

FILTER_OFF = (
    "which verl does itself: set algorithm.filter_groups.enable=True and algorithm.filter_groups.metric=reward too"
)

logger = logging.getLogger(__name__)


def read_settings(config: Any) -> Settings:
    """Read the settings of selection from `trainer.v1.sampler.sampler_kwargs`.

    Raises:
        InputError: a setting is unknown or out of range, or prompts cannot be chosen under a setting of verl.
    """
    given: Any = OmegaConf.to_container(config.trainer.v1.sampler.sampler_kwargs, resolve=True)
    metric = filter_metric(config)
    settings = Settings.read(
        given,
        process="verl's driver",
        place="trainer.v1.sampler.sampler_kwargs",
        history_path=Path(config.trainer.default_local_dir, HISTORY_FILE),
        filter_off=FILTER_OFF if metric is None else None,
        success=None if metric == FOLDED else metric,  # forecast what verl's filter keeps
    )
    _check(config)
    return settings


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
