"""Load what a run needs beside its policy: reward functions and datasets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel
from trl import get_dataset

from promptdyn.errors import InputError
from promptdyn.training import tasks
from promptdyn.training.config import script_settings
from promptdyn.training.loading import (
    DEFAULT_REWARD,
    RewardFunction,
    check_column,
    check_packages,
    first_line,
    load_eval_sets,
    load_reward,
    load_rows,
)
from promptdyn.training.run.settings import RunSettings

__all__ = ["Inputs", "load_inputs"]

EMBEDDED_DATASET = "arithmetic"


@dataclass(frozen=True)
class Inputs:
    """What a run needs beside its policy.

    Attributes:
        dataset: the training data.
        evaluated: what to evaluate on: a dataset, several by name, or None.
        rewards: reward functions; a text is the name of a reward model.
        model_args: settings of TRL's `ModelConfig`.
        revision: version of the model on the Hugging Face hub.
        name: the dataset's name, for messages.
    """

    dataset: Dataset
    evaluated: Dataset | dict[str, Dataset] | None
    rewards: list[str | PreTrainedModel | RewardFunction]
    model_args: object
    revision: str | None
    name: str

    def check_prompts(self, tokenizer: object) -> None:
        """Raise InputError unless every prompt is a text, or messages for which the tokenizer has a template."""
        for row, prompt in enumerate(self.dataset["prompt"]):
            if isinstance(prompt, str):
                continue
            if not isinstance(prompt, list):
                raise InputError(
                    f"dataset {self.name!r} row {row}: the prompt is of type {type(prompt).__name__}: give a text, or "
                    'messages such as [{"role": "user", "content": "..."}]'
                )
            if not getattr(tokenizer, "chat_template", None):
                raise InputError(
                    f"dataset {self.name!r} row {row}: the prompt is messages, and the model's tokenizer has no chat "
                    "template: give texts, or an instruction-tuned model"
                )
            return  # a column holds prompts of one type


def load_inputs(settings: RunSettings, grpo: dict[str, Any]) -> Inputs:
    """Load the rewards and datasets of a run.

    Args:
        settings: settings of the run.
        grpo: what `grpo_settings` made of them.

    Raises:
        InputError: see `promptdyn.training.run.run`.
    """
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
    return Inputs(dataset, evaluated, rewards, model_args, model_args.model_revision, settings.dataset or "datasets")


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
