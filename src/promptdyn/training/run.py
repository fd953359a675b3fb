"""Make one GRPO run with selection, from settings to a trained policy and its history, as `promptdyn train` does.

This module puts together a model, a dataset, reward functions, a selector and `SelectionGRPOTrainer`. Models and
datasets may be the embedded ones, or any of Hugging Face.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    SchedulerType,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback
from trl import GRPOConfig, get_dataset, get_peft_config, get_quantization_config

from promptdyn.errors import InputError
from promptdyn.history import RewardHistory
from promptdyn.prompts import AUTO
from promptdyn.storage import check_target
from promptdyn.training import policy, tasks
from promptdyn.training.checkpoints import last_checkpoint, steps_done, wants_resume
from promptdyn.training.config import script_settings
from promptdyn.training.loading import (
    DEFAULT_REWARD,
    check_column,
    check_packages,
    first_line,
    load_eval_sets,
    load_reward,
    load_rows,
)
from promptdyn.training.recipes import Recipe
from promptdyn.training.trl import HISTORY_FILE, SelectionGRPOTrainer

__all__ = ["RunResult", "RunSettings", "make_trainer", "run"]

FINAL_FOLDER = "final"
# Files of a checkpoint that are not part of the trained model.
ONLY_TO_RESUME = shutil.ignore_patterns("optimizer*", "scheduler*", "rng_state*", "selector.npz", "global_step*")
EMBEDDED = "embedded"  # the default of `policy.EMBEDDED`
EMBEDDED_DATASET = "arithmetic"
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

logger = logging.getLogger(__name__)


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


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        history: outcomes of the run; None if the reward functions returned None for every rollout.
        model: the trained policy.
        tokenizer: its tokenizer.
        log: TRL's log, one entry every `logging_steps`.
        steps: optimizer steps done.
        seconds: wall-clock seconds of training.
    """

    history: RewardHistory | None
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    log: list[dict[str, float]]
    steps: int
    seconds: float

    def mean(self, metric: str) -> float:
        """Return the mean of a logged metric over the run; NaN if it was never logged."""
        values = [value for entry in self.log if (value := entry.get(metric)) is not None]
        return sum(values) / len(values) if values else float("nan")


Progress = Callable[[int, int, dict[str, float]], None]


def run(settings: RunSettings, progress: Progress | None = None) -> RunResult:
    """Train with the given settings.

    Args:
        settings: settings of the run.
        progress: function called after each step with the step, the number of steps, and the latest log entry. Default:
            TRL's own progress bar.

    Raises:
        InputError: the model, the dataset, a reward function, the dynamics or the strategy cannot be used, or
            `SelectionGRPOTrainer` refuses the settings.
    """
    output = Path(settings.output_dir)
    final = output / FINAL_FOLDER
    grpo = _grpo_settings(settings)
    trainer = None
    resume: str | bool = settings.resume or wants_resume(grpo.pop("resume_from_checkpoint", None))
    if resume is True:
        checkpoint = last_checkpoint(output)
        resume = False if checkpoint is None else str(checkpoint)
        if (steps := grpo.get("max_steps", -1)) <= 0:  # only the trainer knows how many steps the epochs make
            trainer = make_trainer(settings, progress)
            steps = trainer.args.max_steps
        in_final, in_checkpoint = (steps_done(folder) or 0 if folder else 0 for folder in (final, checkpoint))
        if max(in_final, in_checkpoint) >= steps:
            if in_final < steps:  # the run died before it wrote the final model
                assert checkpoint is not None
                _publish(final, lambda part: shutil.copytree(checkpoint, part, ignore=ONLY_TO_RESUME))
            done = max(in_final, in_checkpoint)
            logger.warning("%s: %d of %d steps are done: nothing to do", output, done, steps)
            return _finished(output)
        if checkpoint is None and in_final:
            raise InputError(
                f"{final}: holds {in_final} steps, and there is no checkpoint to go on from: train into another "
                "folder, with checkpoints (save_steps)"
            )
        if checkpoint is None:
            logger.warning("%s: no checkpoint yet: starts", output)
    trainer = trainer or make_trainer(settings, progress)
    start = time.perf_counter()
    trainer.train(resume_from_checkpoint=resume)
    seconds = time.perf_counter() - start

    def save(part: Path) -> None:
        trainer.save_model(str(part))
        trainer.state.save_to_json(str(part / TRAINER_STATE_NAME))

    _publish(final, save)
    return RunResult(
        history=_history(output),
        model=cast(PreTrainedModel, trainer.model),
        tokenizer=cast(PreTrainedTokenizerBase, trainer.processing_class),
        log=_rewards_of(trainer.state),
        steps=trainer.state.global_step,
        seconds=seconds,
    )


def _history(output: Path) -> RewardHistory | None:
    """Read the history of a run. If it recorded nothing, log a warning and return None."""
    path = output / HISTORY_FILE
    if path.exists():
        return RewardHistory.from_parquet(path)
    logger.warning(
        "%s: no rollout was graded: the reward functions gave None for all, so nothing was learned and there is no "
        "history; check that they know the dataset's columns and how the policy answers",
        output,
    )
    return None


def _rewards_of(state: TrainerState) -> list[dict[str, float]]:
    return [entry for entry in state.log_history if "reward" in entry]


def _publish(final: Path, write: Callable[[Path], Any]) -> None:
    """Write a folder under another name, and rename it once it is complete."""
    part, old = (final.with_name(f".{final.name}.{word}") for word in ("part", "old"))
    for left_over in (part, old):
        shutil.rmtree(left_over, ignore_errors=True)
    write(part)
    if final.exists():
        final.rename(old)
    part.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def _finished(output: Path) -> RunResult:
    """Read the result of a run that is finished already."""
    final = output / FINAL_FOLDER
    state = TrainerState.load_from_json(str(final / TRAINER_STATE_NAME))
    try:
        tokenizer = AutoTokenizer.from_pretrained(final)
        model = AutoModelForCausalLM.from_pretrained(final)
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"{final}: the trained model cannot be loaded: {first_line(error)}") from None
    return RunResult(_history(output), model, tokenizer, log=_rewards_of(state), steps=state.global_step, seconds=0.0)


def _grpo_settings(settings: RunSettings) -> dict[str, Any]:
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


def make_trainer(
    settings: RunSettings,
    progress: Progress | None = None,
    kind: type[SelectionGRPOTrainer] = SelectionGRPOTrainer,
    **named: Any,
) -> SelectionGRPOTrainer:
    """Make the trainer of a run, ready to train.

    Args:
        settings, progress: see `run`.
        kind: class of the trainer.
        **named: further arguments of that class.

    Raises:
        InputError: see `run`.
    """
    grpo = _grpo_settings(settings)
    _check(settings, grpo)
    script, model_args, mixture = script_settings(settings.script)
    default = [] if script.reward_model_name_or_path else [DEFAULT_REWARD]
    names = settings.reward.split(",") if settings.reward else default
    rewards: list[Any] = [load_reward(name) for name in names]
    if script.reward_model_name_or_path:
        rewards.insert(0, script.reward_model_name_or_path)
    check_packages({**settings.script, **grpo}, names)
    dataset, evaluated = _datasets(settings, grpo, script, mixture)
    if DEFAULT_REWARD in names and "answer" not in dataset.column_names:
        raise InputError(
            f"dataset {settings.dataset!r} has no column 'answer', which reward {DEFAULT_REWARD!r} compares with: name "
            "another reward, as in FILE.py:FUNCTION"
        )
    args = _trl_config(grpo, settings, model_args, evaluated is not None, progress is not None)
    model = str(policy.EMBEDDED.get(settings.model, settings.model))
    try:
        # As TRL loads it.
        processor = AutoProcessor.from_pretrained(
            model,
            revision=model_args.model_revision,
            truncation_side="left",
            padding_side="left",
            trust_remote_code=args.trust_remote_code,
        )
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"model {settings.model!r} cannot be loaded: {first_line(error)}") from None
    _check_prompts(dataset, settings.dataset or "datasets", processor)
    try:
        trainer = kind(
            model,
            rewards,
            args,
            dataset,
            evaluated,
            processing_class=processor,
            quantization_config=get_quantization_config(model_args),
            peft_config=get_peft_config(model_args),
            selector=settings.selector,
            **named,
        )
        Trainer.get_optimizer_cls_and_kwargs(args, cast(Any, trainer.model))
    except InputError:
        raise
    except (OSError, ValueError, TypeError, ImportError) as error:
        raise InputError(f"trl.GRPOTrainer: {first_line(error)}") from error
    if progress is not None:
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(_Progress(progress))
    return trainer


def _datasets(settings: RunSettings, grpo: dict[str, Any], script: Any, mixture: Any) -> tuple[Dataset, Any]:
    """Load the training dataset, and what to evaluate on: a dataset, several by name, or None."""
    if script.dataset_streaming or mixture.streaming:
        raise InputError("dataset_streaming: prompts that are chosen cannot be streamed: leave it out")
    tested = grpo.get("eval_strategy", "no") != "no" and not settings.eval_dataset
    evaluated = None
    name = settings.dataset or EMBEDDED_DATASET
    if mixture.datasets:
        if settings.dataset:
            raise InputError(f"dataset {settings.dataset!r} and datasets are both set: give one of the two")
        try:
            parts = get_dataset(mixture)
        except Exception as error:  # errors of many kinds, as in `load_rows`
            raise InputError(f"datasets: cannot be loaded: {first_line(error)}") from None
        dataset, test_split = parts[script.dataset_train_split], script.dataset_test_split
        check_column(dataset, "datasets")
        if tested and test_split not in parts:
            raise InputError("eval_strategy: there is nothing to evaluate on: give eval_dataset or test_split_size")
        evaluated = parts[test_split] if tested else None
    else:
        split = {"config": script.dataset_config, "split": script.dataset_train_split}
        dataset = load_rows(name, settings.num_prompts, grpo["seed"], **split)
        if tested and name in tasks.FAMILIES:
            raise InputError("eval_strategy: there is nothing to evaluate on: give eval_dataset")
        if tested:
            evaluated = load_rows(name, **{**split, "split": script.dataset_test_split})
    if settings.eval_dataset:
        evaluated = load_eval_sets(settings.eval_dataset, settings.num_prompts, grpo["seed"] + 1)
    return dataset, evaluated


def _trl_config(
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


def _check(settings: RunSettings, grpo: dict[str, Any]) -> None:
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


def _check_prompts(dataset: Dataset, name: str, tokenizer: Any) -> None:
    """Raise InputError unless every prompt is a text, or messages for which the tokenizer has a template."""
    for row, prompt in enumerate(dataset["prompt"]):
        if isinstance(prompt, str):
            continue
        if not isinstance(prompt, list):
            raise InputError(
                f"dataset {name!r} row {row}: the prompt is of type {type(prompt).__name__}: give a text, or messages "
                'such as [{"role": "user", "content": "..."}]'
            )
        if not getattr(tokenizer, "chat_template", None):
            raise InputError(
                f"dataset {name!r} row {row}: the prompt is messages, and the model's tokenizer has no chat template: "
                "give texts, or an instruction-tuned model"
            )
        return  # a column holds prompts of one type


class _Progress(TrainerCallback):
    def __init__(self, report: Progress) -> None:
        self.report = report
        self.last: dict[str, float] = {}

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if not control.should_log:
            self.report(state.global_step, state.max_steps, self.last)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if logs and "reward" in logs:
            self.last = logs
            self.report(state.global_step, state.max_steps, logs)
