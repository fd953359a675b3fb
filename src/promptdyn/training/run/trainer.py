"""Make the trainer of a run: load its policy, rewards and dataset, and check them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from datasets import Dataset
from transformers import AutoProcessor, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback
from trl import get_dataset, get_peft_config, get_quantization_config

from promptdyn.errors import InputError
from promptdyn.training import policy, tasks
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
from promptdyn.training.run.settings import RunSettings, check_settings, grpo_settings, trl_config
from promptdyn.training.trl import SelectionGRPOTrainer

__all__ = ["Progress", "make_trainer"]

EMBEDDED_DATASET = "arithmetic"

Progress = Callable[[int, int, dict[str, float]], None]


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
    grpo = grpo_settings(settings)
    check_settings(settings, grpo)
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
    args = trl_config(grpo, settings, model_args, evaluated is not None, progress is not None)
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
