"""The settings of a run, and the settings of TRL that follow from them."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from transformers import SchedulerType
from trl import GRPOConfig

from promptdyn.errors import InputError
from promptdyn.prompts import AUTO
from promptdyn.storage import check_target
from promptdyn.training import policy
from promptdyn.training.recipes import Recipe
from promptdyn.training.trl import HISTORY_FILE

__all__ = ["CHECKPOINTING", "RunSettings", "check_settings", "grpo_settings", "trl_config"]

EMBEDDED = "embedded"  # the default of `policy.EMBEDDED`
# The name that transformers uses since 5.23, and the one before.
CHECKPOINTING = next(
    name for name in ("activation_checkpointing", "gradient_checkpointing") if name in GRPOConfig.__dataclass_fields__
)
# Defaults for the embedded policies, which are tiny; TRL's own defaults are made for language models.
EMBEDDED_DEFAULTS: dict[str, Any] = {
    "max_steps": 200,
    "max_completion_length": 8,
    "learning_rate": 3e-5,
    "logging_steps": 1,
    "save_strategy": "no",
    "save_total_limit": 2,
    "bf16": False,
    CHECKPOINTING: False,
}
EMBEDDED_PROMPTS_PER_STEP = 32


@dataclass(frozen=True)
class RunSettings:
    """The settings of a run: the model, its dataset, its rewards, and how prompts are chosen.

    Attributes:
        output_dir: folder of the checkpoints, the history file and the trained model.
        model: "embedded" or "embedded_countdown" (tiny policies of this package), or a Hugging Face model name or
            folder.
        dataset: an embedded task family ("arithmetic", the default, ...), a .parquet, .json, .jsonl or .csv file, or
            the name of a Hugging Face dataset. Its columns are "prompt" and those that the reward functions need.
        eval_dataset: dataset to evaluate on, named as `dataset` is; from a family, other prompts are drawn. Several are
            separated by commas, and NAME=DATASET names one. It is evaluated ten times a run unless `grpo` sets
            something else. Default: none, or the split `dataset_test_split` if `grpo` sets an `eval_strategy`.
        reward: name of a reward function, see `promptdyn.training.loading.load_reward`. Several are separated by
            commas, and their rewards are summed with TRL's `reward_weights`. Default: "exact_answer" (the completion
            equals the column "answer"), or none if `script` names a reward model.
        selector: how prompts are chosen: the name of a selector, a model, or a `Recipe`; default "auto". See
            `promptdyn.training.recipes`.
        num_prompts: pool size, for embedded task families.
        prompts_per_step: groups in an optimizer step, over all devices. It sets `per_device_train_batch_size` and
            `gradient_accumulation_steps`, or the one of them that is not set. Default: 32 for the embedded policies;
            for others the number that follows from those two.
        max_steps: optimizer steps. Default: 200 for the embedded policies; for others, or if `grpo` sets
            `num_train_epochs`, the number that follows from the epochs.
        num_generations, max_completion_length, learning_rate, lr_scheduler_type: see `trl.GRPOConfig`. Default: TRL's;
            for the embedded policies 8 tokens and 3e-5.
        save_steps: steps between checkpoints, or their share of all steps; 0 saves only the final model. Default: 0 for
            the embedded policies, TRL's for others.
        seed: random seed of the policy's sampling, the pool and the selector; default 0.
        resume: continue from the newest complete checkpoint in `output_dir`, or start if there is none; change nothing
            if all steps are done. `resume_from_checkpoint` in `grpo` does the same, or names a checkpoint.
        grpo: settings of `trl.GRPOConfig` by name; they override the settings above.
        script: settings of TRL's `ScriptArguments`, `ModelConfig` and `DatasetMixtureConfig` by name, as its own GRPO
            script reads them: `dataset_config`, `dataset_train_split`, `model_revision`, `dtype`, `use_peft`, ...
    """

    output_dir: Path
    model: str = EMBEDDED
    dataset: str | None = None
    eval_dataset: str | None = None
    reward: str | None = None
    selector: str | Recipe = AUTO
    num_prompts: int = 1000
    prompts_per_step: int | None = None
    max_steps: int | None = None
    num_generations: int | None = None
    max_completion_length: int | None = None
    learning_rate: float | None = None
    lr_scheduler_type: str | None = None
    save_steps: float | None = None
    seed: int = 0
    resume: bool = False
    grpo: dict[str, Any] = field(default_factory=dict)
    script: dict[str, Any] = field(default_factory=dict)


def grpo_settings(settings: RunSettings) -> dict[str, Any]:
    """Collect the settings of GRPOConfig; TRL's defaults hold for all others."""
    names = {part.name for part in fields(GRPOConfig)} & {part.name for part in fields(settings)}
    shared = {name: value for name in names if (value := getattr(settings, name)) is not None}
    grpo = {**shared, **settings.grpo, "output_dir": str(settings.output_dir)}
    if settings.model in policy.EMBEDDED:
        epochs = {"max_steps": -1} if "num_train_epochs" in grpo else {}
        grpo = {**EMBEDDED_DEFAULTS, **epochs, **grpo}
    if grpo.get("save_steps") == 0:
        grpo |= {"save_strategy": "no"}
        del grpo["save_steps"]
    elif "save_steps" in grpo and "save_strategy" not in settings.grpo:
        grpo["save_strategy"] = "steps"
    return grpo


def check_settings(settings: RunSettings, grpo: dict[str, Any]) -> None:
    """Raise InputError if a setting is out of range, or the output folder cannot be written."""
    least = {"num_prompts": 1, "prompts_per_step": 1, "max_completion_length": 1, "num_generations": 2, "save_steps": 0}
    for name, bound in {**least, "seed": 0, "max_steps": 1}.items():
        value = grpo.get(name, getattr(settings, name, None))
        if (
            value is not None and value < bound and (name, value) != ("max_steps", -1)
        ):  # -1 is TRL's way to let the epochs decide
            raise InputError(f"{name}={value}: give at least {bound}")
    rate, schedule = grpo.get("learning_rate", 1.0), grpo.get("lr_scheduler_type", "linear")
    if not 0 < rate < math.inf:
        raise InputError(f"learning_rate={rate}: give a finite number above 0")
    schedules = [kind.value for kind in SchedulerType]
    if schedule not in schedules:
        raise InputError(f"lr_scheduler_type={schedule!r} is none of {', '.join(schedules)}")
    check_target(Path(settings.output_dir) / HISTORY_FILE)


def trl_config(
    grpo: dict[str, Any], settings: RunSettings, model_args: Any, evaluates: bool, reports: bool
) -> GRPOConfig:
    """Make the `GRPOConfig` of a run."""
    batches = _batches(settings, grpo)
    train_batch = batches.get("per_device_train_batch_size", grpo.get("per_device_train_batch_size", 8))
    evaluation = {
        "eval_strategy": "steps",
        "eval_steps": 0.1,
        "per_device_eval_batch_size": math.lcm(train_batch, grpo.get("num_generations", 8)),
    }
    init_kwargs = {
        "revision": model_args.model_revision,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
        **(grpo.get("model_init_kwargs") or {}),
    }
    defaults = {
        "use_cpu": not torch.accelerator.is_available(),
        "disable_tqdm": reports,
        **(evaluation if evaluates else {}),
    }
    try:
        return GRPOConfig(**{**defaults, **grpo, **batches, "model_init_kwargs": init_kwargs})
    except (ValueError, TypeError, ImportError) as error:
        raise InputError(f"trl.GRPOConfig: {' '.join(str(error).split())}") from None


def _batches(settings: RunSettings, grpo: dict[str, Any]) -> dict[str, int]:
    """Find a device's batch size and the gradient accumulation that make `prompts_per_step` groups in a step."""
    batch, accumulation = (grpo.get(name) for name in ("per_device_train_batch_size", "gradient_accumulation_steps"))
    groups = settings.prompts_per_step
    if groups is None and settings.model in policy.EMBEDDED and batch is None:
        groups = EMBEDDED_PROMPTS_PER_STEP
    if groups is None:
        return {}
    devices = int(os.environ.get("WORLD_SIZE", 1))
    rollouts = groups * grpo.get("num_generations", 8)
    requested_batch, requested_accumulation = batch, accumulation
    batch = batch or rollouts // (devices * (accumulation or 1))
    accumulation = accumulation or rollouts // (devices * max(batch, 1))
    if batch * accumulation * devices != rollouts:
        parts = {"per_device_train_batch_size": requested_batch, "gradient_accumulation_steps": requested_accumulation}
        by = [f"{name}={value}" for name, value in parts.items() if value] + [f"{devices} devices"] * (devices > 1)
        raise InputError(
            f"prompts_per_step={groups} makes {rollouts} rollouts a step, which {' and '.join(by)} cannot make: change "
            "one of them, or leave it out"
        )
    return {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
