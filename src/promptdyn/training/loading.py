"""Datasets, reward functions and packages of a run, by the names that people write in a settings file."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from numbers import Real
from pathlib import Path
from typing import Any

import trl.rewards
from datasets import Dataset, load_dataset
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations
from trl.trainer.utils import get_callable_name, is_async_callable

from promptdyn.errors import InputError
from promptdyn.plugins import load_error, load_object
from promptdyn.training import tasks

RewardFunction = Callable[..., Sequence[float | None] | Awaitable[Sequence[float | None]]]
"""A reward function in TRL's form, which may be async."""

__all__ = [
    "DEFAULT_REWARD",
    "RewardFunction",
    "check_column",
    "check_packages",
    "first_line",
    "load_eval_sets",
    "load_reward",
    "load_rows",
]

DEFAULT_REWARD = "exact_answer"

# Reward functions that TRL's GRPO script knows by name, as it makes them.
TRL_REWARDS: dict[str, Callable[..., Any]] = {
    "accuracy_reward": trl.rewards.accuracy_reward,
    "reasoning_accuracy_reward": trl.rewards.reasoning_accuracy_reward,
    "think_format_reward": trl.rewards.think_format_reward,
    "get_soft_overlong_punishment": trl.rewards.get_soft_overlong_punishment(1280, 256),
}


def load_rows(
    name: str, num_prompts: int = 1000, seed: int = 0, *, config: str | None = None, split: str = "train"
) -> Dataset:
    """Rows with "prompt": a pool of an embedded family, else a file or a Hugging Face dataset.

    Args:
        name: which.
        num_prompts, seed: of the pool, for families.
        config: the dataset's configuration, where it has several.
        split: which rows, in the words of `datasets`, as in "train" (default) or "train[:1000]".

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
            if config is not None:
                raise InputError(f"dataset {name!r}: dataset_config={config!r}: a file has none: leave it out")
            dataset = load_dataset("json" if suffix == "jsonl" else suffix, data_files=name, split=split)
        else:
            dataset = load_dataset(name, name=config, split=split)
    except InputError:
        raise
    except Exception as error:  # datasets raises errors of many kinds, each in a paragraph
        what = f"split {split!r} of it" if split != "train" else "it"
        raise InputError(
            f"dataset {name!r} is no embedded family ({', '.join(tasks.FAMILIES)}) and {what} cannot be loaded: "
            f"{first_line(error)}"
        ) from None
    check_column(dataset, name)
    return dataset


def check_column(dataset: Dataset, name: str) -> None:
    """Raise InputError where a dataset has no prompts."""
    if "prompt" not in dataset.column_names:
        raise InputError(f"dataset {name!r} has no column 'prompt'; it has {', '.join(dataset.column_names)}")


def load_eval_sets(text: str, num_prompts: int, seed: int) -> Dataset | dict[str, Dataset]:
    """One dataset to evaluate on, or several by name.

    Args:
        text: as `load_rows` takes, several with commas, each perhaps NAME=DATASET. Without a name, one of several has
            that of its file.
        num_prompts, seed: of pools of families.

    Raises:
        InputError: as `load_rows`, or two of one name.
    """
    sets: dict[str, Dataset] = {}
    named = False
    for part in text.split(","):
        name, equals, place = part.partition("=")
        if not equals:
            name, place = Path(part).stem, part
        named = named or bool(equals)
        if name in sets:
            raise InputError(f"eval_dataset: two are called {name!r}: name them, as in NAME={place}")
        sets[name] = load_rows(place, num_prompts, seed)
    return sets if named or len(sets) > 1 else next(iter(sets.values()))


def load_reward(name: str) -> RewardFunction:
    """The reward function that a text names. What it gives is checked.

    Args:
        name: "exact_answer" (the completion equals the column "answer"); one of those that TRL's GRPO script knows
            ("accuracy_reward", "reasoning_accuracy_reward", "think_format_reward", "get_soft_overlong_punishment");
            "FILE.py:FUNCTION", "MODULE:FUNCTION" or, as that script has it, "MODULE.FUNCTION". It may be async, a
            partial, or an object that can be called.

    Raises:
        InputError: there is no such function. Later, from the function: it fails, or its rewards are not one number or
            None for each completion.
    """
    if name == DEFAULT_REWARD:
        return tasks.exact_answer
    if name in TRL_REWARDS:
        return _checked(TRL_REWARDS[name], name)
    dotted = re.fullmatch(r"([\w.]+)\.(\w+)", name)
    if dotted is None and ":" not in name:
        raise InputError(
            f"reward {name!r} is none of {', '.join((DEFAULT_REWARD, *TRL_REWARDS))}, nor FILE.py:FUNCTION or "
            "MODULE:FUNCTION"
        )
    found: Any = load_object(f"{dotted[1]}:{dotted[2]}" if dotted else name, "reward")
    if isinstance(found, type) or not callable(found):
        what = f"the class {found.__name__}" if isinstance(found, type) else f"a {type(found).__name__}"
        raise InputError(f"reward {name!r} is {what}: name a function, or an object that can be called")
    return _checked(found, name)


def _checked(reward: Callable[..., Any], name: str) -> RewardFunction:
    """The reward function, async where it is and named as TRL names it: one line tells of errors and of odd rewards."""

    @contextmanager
    def told() -> Iterator[None]:
        try:
            yield
        except (Exception, SystemExit) as error:
            file = inspect.getsourcefile(reward) if inspect.isfunction(reward) else None
            raise load_error(error, name, "reward", file) from error

    def checked(**batch: Any) -> list[float | None]:
        with told():
            rewards = reward(**batch)
        return _numbers(rewards, name, len(batch["completions"]))

    async def awaited(**batch: Any) -> list[float | None]:
        with told():
            rewards = await reward(**batch)
        return _numbers(rewards, name, len(batch["completions"]))

    found = awaited if is_async_callable(reward) else checked
    found.__name__ = get_callable_name(reward)
    return found


def _numbers(rewards: Any, name: str, num_completions: int) -> list[float | None]:
    """What a reward function gave, in whatever lists, arrays or tensors, as a number or None for each completion."""
    try:
        given = list(rewards)
    except TypeError:
        given = None
    if given is None or len(given) != num_completions:
        what = f"a {type(rewards).__name__}" if given is None else f"{len(given)} rewards"
        raise InputError(f"reward {name!r} gave {what} for {num_completions} completions: give one for each")
    numbers = [_scalar(value) for value in given]
    for value in numbers:
        if value is not None and not isinstance(value, Real):
            raise InputError(f"reward {name!r} gave {value!r}: a reward is a number, or None where there is no grade")
    return numbers


def _scalar(value: Any) -> Any:
    """The number in an array or tensor of one."""
    try:
        return value.item() if hasattr(value, "item") else value
    except (ValueError, RuntimeError):
        return value


def check_packages(settings: Mapping[str, Any], rewards: list[str]) -> None:
    """Raise InputError where a setting needs a package that is not installed, before a model is loaded.

    Args:
        settings: of `GRPOConfig` and `trl.ModelConfig`, by name.
        rewards: names of reward functions.
    """
    needed = {
        "use_vllm": "vllm",
        "use_peft": "peft",
        "load_in_4bit": "bitsandbytes",
        "load_in_8bit": "bitsandbytes",
        "use_liger_kernel": "liger_kernel",
        "deepspeed": "deepspeed",
    }
    asked = [(name, settings[name], package) for name, package in needed.items() if settings.get(name)]
    asked += [("reward", name, "math_verify") for name in rewards if name in TRL_REWARDS and "accuracy" in name]
    for name, value, package in asked:
        if find_spec(package) is None:
            extra = "'math-verify[antlr4_13_2]'" if package == "math_verify" else package.replace("_", "-")
            raise InputError(f"{name}={value!r} needs {package}, which is not installed: pip install {extra}")
    trackers = settings.get("report_to") or []
    for tracker in [trackers] if isinstance(trackers, str) else trackers:
        # What is no tracker at all is told by the trainer.
        if tracker in INTEGRATION_TO_CALLBACK and tracker not in get_available_reporting_integrations():
            raise InputError(
                f"report_to={tracker!r}: {tracker} is not installed: pip install {tracker}, or leave it out"
            )


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return (str(error).splitlines() or [type(error).__name__])[0]
