"""One GRPO run with selection, from settings to a trained policy and its history: what `promptdyn train` does.

Puts together a model, a dataset, reward functions, a selector and `SelectionGRPOTrainer`. Knows of the embedded
task and policy, and of any Hugging Face model and dataset.
"""

from __future__ import annotations

import functools
import inspect
import logging
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, SchedulerType, TrainerCallback, set_seed
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback, TrainerState
from trl import GRPOConfig

from promptdyn.errors import InputError
from promptdyn.history import RewardHistory
from promptdyn.plugins import failed, load_object
from promptdyn.storage import check_target
from promptdyn.training import policy, tasks
from promptdyn.training.checkpoints import last_checkpoint, steps_done
from promptdyn.training.pool import AUTO
from promptdyn.training.recipes import Recipe
from promptdyn.training.trl import HISTORY_FILE, SelectionGRPOTrainer

__all__ = ["RunResult", "RunSettings", "load_reward", "load_rows", "make_trainer", "run"]

FINAL_FOLDER = "final"
DEFAULT_REWARD = "exact_answer"
# What a checkpoint holds besides the model and the log.
ONLY_TO_RESUME = shutil.ignore_patterns("optimizer*", "scheduler*", "rng_state*", "selector.npz", "global_step*")
EMBEDDED = "embedded"  # the default of `policy.EMBEDDED`

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunSettings:
    """What to train, on what, and how prompts are chosen.

    Attributes:
        output_dir: folder of checkpoints, the history file and the trained model.
        model: "embedded" or "embedded_countdown" (tiny policies of this package), or a Hugging Face model name or
            folder.
        dataset: an embedded task family ("arithmetic", ...), a .parquet, .json, .jsonl or .csv file, or the name
            of a Hugging Face dataset; rows hold "prompt", and what the reward function needs.
        eval_dataset: as `dataset`, of a family other prompts; evaluated ten times a run unless `grpo` says otherwise.
            Default: none.
        reward: "exact_answer" (completion equals the column "answer"), "MODULE:FUNCTION" or "FILE.py:FUNCTION",
            a reward function as TRL knows them; several with commas, summed by their weights.
        selector: how prompts are chosen: the name of a selector, a model, or a `Recipe`; default "auto". See
            `promptdyn.training.recipes`.
        num_prompts: pool size, for embedded tasks.
        max_steps: optimizer steps.
        prompts_per_step: groups a step.
        num_generations: rollouts a group.
        max_completion_length: tokens.
        learning_rate: at the start.
        lr_scheduler_type: how it goes on, in TRL's words: "linear" (default; to 0 at the last step), "constant", ...
        save_steps: steps between checkpoints; 0 for none but the last.
        seed: of the policy's sampling, the pool and the selector.
        resume: continue from the newest whole checkpoint in `output_dir`; start where there is none yet; where all
            steps are done, change nothing.
        grpo: further settings of `trl.GRPOConfig`, which win over the above.
    """

    output_dir: Path
    model: str = EMBEDDED
    dataset: str = "arithmetic"
    eval_dataset: str | None = None
    reward: str = DEFAULT_REWARD
    selector: str | Recipe = AUTO
    num_prompts: int = 1000
    max_steps: int = 200
    prompts_per_step: int = 32
    num_generations: int = 8
    max_completion_length: int = 8
    learning_rate: float = 3e-5
    lr_scheduler_type: str = "linear"
    save_steps: int = 0
    seed: int = 0
    resume: bool = False
    grpo: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunResult:
    """A finished run."""

    history: RewardHistory
    model: Any  # the trained policy
    tokenizer: Any
    log: list[dict[str, float]]  # TRL's log, one entry a logged step
    seconds: float  # wall-clock time of training

    def mean(self, metric: str) -> float:
        """Mean of a logged metric over the run; NaN where it was never known."""
        values = [value for entry in self.log if (value := entry.get(metric)) is not None]
        return sum(values) / len(values) if values else float("nan")


def run(settings: RunSettings, progress: Callable[[int, dict[str, float]], None] | None = None) -> RunResult:
    """Train as the settings say.

    Args:
        settings: see `RunSettings`.
        progress: called after each step with the step and its log. Default: TRL's own progress bar.

    Raises:
        InputError: a model, dataset, reward function, dynamics or policy that cannot be used, and what
            `SelectionGRPOTrainer` refuses.
    """
    output = Path(settings.output_dir)
    final = output / FINAL_FOLDER
    checkpoint = last_checkpoint(output) if settings.resume else None
    if settings.resume:
        in_final, in_checkpoint = (steps_done(folder) or 0 if folder else 0 for folder in (final, checkpoint))
        if max(in_final, in_checkpoint) >= settings.max_steps:
            if in_final < settings.max_steps:  # died before it was written
                assert checkpoint is not None
                _publish(final, lambda part: shutil.copytree(checkpoint, part, ignore=ONLY_TO_RESUME))
            done = max(in_final, in_checkpoint)
            logger.warning("%s: %d of %d steps are done: nothing to do", output, done, settings.max_steps)
            return _finished(output)
        if checkpoint is None and in_final:
            raise InputError(
                f"{final}: holds {in_final} steps, and there is no checkpoint to go on from: train into another "
                "folder, with checkpoints (save_steps)"
            )
        if checkpoint is None:
            logger.warning("%s: no checkpoint yet: starts", output)
    trainer = make_trainer(settings, progress)
    start = time.perf_counter()
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    seconds = time.perf_counter() - start

    def save(part: Path) -> None:
        trainer.save_model(str(part))
        trainer.state.save_to_json(str(part / TRAINER_STATE_NAME))

    _publish(final, save)
    return RunResult(
        history=RewardHistory.from_parquet(output / HISTORY_FILE),
        model=trainer.model,
        tokenizer=trainer.processing_class,
        log=_steps_of(trainer.state),
        seconds=seconds,
    )


def _steps_of(state: TrainerState) -> list[dict[str, float]]:
    return [entry for entry in state.log_history if "reward" in entry]


def _publish(final: Path, write: Callable[[Path], Any]) -> None:
    """Put a folder in its place once it is whole."""
    part, old = (final.with_name(f".{final.name}.{word}") for word in ("part", "old"))
    for left_over in (part, old):
        shutil.rmtree(left_over, ignore_errors=True)
    write(part)
    if final.exists():
        final.rename(old)
    part.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def _finished(output: Path) -> RunResult:
    """What a finished run left."""
    final = output / FINAL_FOLDER
    state = TrainerState.load_from_json(str(final / TRAINER_STATE_NAME))
    model, tokenizer = _model(str(final))
    history = RewardHistory.from_parquet(output / HISTORY_FILE)
    return RunResult(history, model, tokenizer, log=_steps_of(state), seconds=0.0)


def make_trainer(
    settings: RunSettings,
    progress: Callable[[int, dict[str, float]], None] | None = None,
    kind: type[SelectionGRPOTrainer] = SelectionGRPOTrainer,
    **named: Any,
) -> SelectionGRPOTrainer:
    """The trainer of a run, ready to train.

    Args:
        settings, progress: as of `run`.
        kind: its class.
        **named: further arguments of that.

    Raises:
        InputError: as `run`.
    """
    _check(settings)
    set_seed(settings.seed)
    dataset = load_rows(settings.dataset, settings.num_prompts, settings.seed)
    rewards = [load_reward(name) for name in settings.reward.split(",")]
    evaluated = settings.eval_dataset and load_rows(settings.eval_dataset, settings.num_prompts, settings.seed + 1)
    if DEFAULT_REWARD in settings.reward.split(",") and "answer" not in dataset.column_names:
        raise InputError(
            f"dataset {settings.dataset!r} has no column 'answer', which reward {DEFAULT_REWARD!r} compares with: name "
            "another reward, as in FILE.py:FUNCTION"
        )
    grpo = dict(settings.grpo)
    model, tokenizer = _model(settings.model, grpo.pop("model_init_kwargs", None))
    _check_prompts(dataset, settings.dataset, tokenizer)
    batch_size = settings.prompts_per_step * settings.num_generations
    evaluation = {
        "eval_strategy": "steps",
        "eval_steps": max(1, settings.max_steps // 10),
        "per_device_eval_batch_size": batch_size,
    }
    try:
        config = GRPOConfig(
            **{
                "output_dir": str(settings.output_dir),
                "max_steps": settings.max_steps,
                "per_device_train_batch_size": batch_size,
                "num_generations": settings.num_generations,
                "max_completion_length": settings.max_completion_length,
                "learning_rate": settings.learning_rate,
                "lr_scheduler_type": settings.lr_scheduler_type,
                "beta": 0.0,
                "temperature": 1.0,
                "logging_steps": 1,
                "save_strategy": "steps" if settings.save_steps else "no",
                "save_steps": settings.save_steps or settings.max_steps,
                "save_total_limit": 2,
                "seed": settings.seed,
                "report_to": "none",
                "bf16": False,
                "activation_checkpointing": False,
                "use_cpu": not torch.cuda.is_available(),
                "disable_tqdm": progress is not None,
                "dataloader_pin_memory": torch.cuda.is_available(),
                **(evaluation if evaluated else {}),
                **grpo,
            }
        )
    except (ValueError, TypeError) as error:
        raise InputError(f"trl.GRPOConfig: {' '.join(str(error).split())}") from None
    trainer = kind(
        model,
        rewards,
        config,
        dataset,
        evaluated or None,
        processing_class=tokenizer,
        selector=settings.selector,
        **named,
    )
    if progress is not None:
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(_Progress(progress))
    return trainer


def _check(settings: RunSettings) -> None:
    """Raise InputError where a setting is out of range, or the folder cannot be written."""
    least = {
        **dict.fromkeys(("num_prompts", "max_steps", "prompts_per_step", "max_completion_length"), 1),
        **{"num_generations": 2, "save_steps": 0, "seed": 0},
    }
    for name, bound in least.items():
        if getattr(settings, name) < bound:
            raise InputError(f"{name}={getattr(settings, name)}: give at least {bound}")
    if not 0 < settings.learning_rate < math.inf:
        raise InputError(f"learning_rate={settings.learning_rate}: give a finite number above 0")
    schedules = [kind.value for kind in SchedulerType]
    if settings.lr_scheduler_type not in schedules:
        raise InputError(f"lr_scheduler_type={settings.lr_scheduler_type!r} is none of {', '.join(schedules)}")
    check_target(Path(settings.output_dir) / HISTORY_FILE)


def _check_prompts(dataset: Dataset, name: str, tokenizer: Any) -> None:
    """Raise InputError unless every prompt is a text, or messages that the tokenizer has a template for."""
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
        return  # all are of one kind in a column


class _Progress(TrainerCallback):
    def __init__(self, report: Callable[[int, dict[str, float]], None]) -> None:
        self.report = report

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if logs and "reward" in logs:
            self.report(state.global_step, logs)


def _model(name: str, init_kwargs: dict[str, Any] | None = None) -> tuple[Any, Any]:
    if name in policy.EMBEDDED:
        return policy.load_policy(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, padding_side="left")
        return AutoModelForCausalLM.from_pretrained(name, **init_kwargs or {}), tokenizer
    except (OSError, ValueError) as error:
        raise InputError(f"model {name!r} cannot be loaded: {str(error).splitlines()[0]}") from None


def load_rows(name: str, num_prompts: int = 1000, seed: int = 0) -> Dataset:
    """Rows with "prompt": a pool of an embedded family, else a file or a Hugging Face dataset.

    Args:
        name: which.
        num_prompts, seed: of the pool, for families.

    Raises:
        InputError: no such dataset, or one without prompts.
    """
    if name in tasks.FAMILIES:
        return Dataset.from_list(tasks.make_pool(name, num_prompts, seed))
    suffix = Path(name).suffix.lstrip(".")
    try:
        if suffix in ("parquet", "json", "jsonl", "csv"):
            if not Path(name).is_file():
                raise InputError(f"dataset {name!r}: no such file")
            dataset = load_dataset("json" if suffix == "jsonl" else suffix, data_files=name, split="train")
        else:
            dataset = load_dataset(name, split="train")
    except InputError:
        raise
    except Exception as error:  # datasets raises errors of many kinds, each in a paragraph
        raise InputError(
            f"dataset {name!r} is no embedded family ({', '.join(tasks.FAMILIES)}) and cannot be loaded: "
            f"{(str(error).splitlines() or [type(error).__name__])[0]}"
        ) from None
    if "prompt" not in dataset.column_names:
        raise InputError(f"dataset {name!r} has no column 'prompt'; it has {', '.join(dataset.column_names)}")
    return dataset


def load_reward(name: str) -> Callable[..., list[float]]:
    """The reward function that a text names, see `RunSettings`. What it gives is checked.

    Raises:
        InputError: there is no such function. Later, from the function: it fails, or its rewards are not one number or
            None for each completion.
    """
    if name == DEFAULT_REWARD:
        return tasks.exact_answer
    found: Any = load_object(name, "reward")
    if not callable(found):
        raise InputError(f"reward {name!r} is a {type(found).__name__}: name a function")
    return found if inspect.iscoroutinefunction(found) else _checked(found, name)


def _checked(reward: Callable[..., Any], name: str) -> Callable[..., list[float]]:
    @functools.wraps(reward)
    def checked(**batch: Any) -> list[float]:
        try:
            rewards = reward(**batch)
        except (Exception, SystemExit) as error:
            file = inspect.getsourcefile(reward) if inspect.isfunction(reward) else None
            raise failed(error, name, "reward", file) from error
        if isinstance(rewards, torch.Tensor | np.ndarray):
            rewards = rewards.tolist()
        try:
            given = list(rewards)
        except TypeError:
            given = None
        completions = batch["completions"]
        if given is None or len(given) != len(completions):
            what = f"a {type(rewards).__name__}" if given is None else f"{len(given)} rewards"
            raise InputError(f"reward {name!r} gave {what} for {len(completions)} completions: give one for each")
        for value in given:
            if value is not None and not isinstance(value, Real):
                raise InputError(
                    f"reward {name!r} gave {value!r}: a reward is a number, or None where there is no grade"
                )
        return given

    return checked
