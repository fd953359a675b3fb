"""Load datasets and reward functions by the names that people write in a settings file."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
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
"""A reward function in TRL's form; it may be async."""

__all__ = [
    "DEFAULT_REWARD",
    "RewardFunction",
    "check_column",
    "check_packages",
    "first_line",
    "load_eval_sets",
    "load_reward",
    "load_rows",
    "unique_names",
]

DEFAULT_REWARD = "exact_answer"

# Reward functions that TRL's GRPO script knows by name, with the settings that it gives them.
TRL_REWARDS: dict[str, Callable[..., Any]] = {
    "accuracy_reward": trl.rewards.accuracy_reward,
    "reasoning_accuracy_reward": trl.rewards.reasoning_accuracy_reward,
    "think_format_reward": trl.rewards.think_format_reward,
    "get_soft_overlong_punishment": trl.rewards.get_soft_overlong_punishment(1280, 256),
}


def load_rows(
    name: str, num_prompts: int = 1000, seed: int = 0, *, config: str | None = None, split: str = "train"
) -> Dataset:
    """Load the rows of a dataset, which has a column "prompt".

    Args:
        name: an embedded family, a file, or a Hugging Face dataset.
        num_prompts, seed: size and random seed of the pool; for families only.
        config: the dataset's configuration, if it has several.
        split: the rows to load, in the notation of `datasets`: "train" (default), "train[:1000]", ...

    Raises:
        InputError: the dataset does not exist, cannot be loaded, or has no prompts.
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
        subject = f"split {split!r} of it" if split != "train" else "it"
        raise InputError(
            f"dataset {name!r} is no embedded family ({', '.join(tasks.FAMILIES)}) and {subject} cannot be loaded: "
            f"{first_line(error)}"
        ) from None
    check_column(dataset, name)
    return dataset


def check_column(dataset: Dataset, name: str) -> None:
    """Raise InputError if a dataset has no column "prompt"."""
    if "prompt" not in dataset.column_names:
        raise InputError(f"dataset {name!r} has no column 'prompt'; it has {', '.join(dataset.column_names)}")


def load_eval_sets(text: str, num_prompts: int, seed: int) -> Dataset | dict[str, Dataset]:
    """Load the dataset to evaluate on, or several datasets by name.

    Args:
        text: names as `load_rows` takes them, separated by commas. NAME=DATASET names a dataset; without that, one of
            several is named after its file.
        num_prompts, seed: size and random seed of a family's pool.

    Raises:
        InputError: a dataset cannot be loaded (see `load_rows`), or two have the same name.
    """
    sets: dict[str, Dataset] = {}
    named = False
    for part in text.split(","):
        name, equals, source = part.partition("=")
        if not equals:
            name, source = Path(part).stem, part
        named = named or bool(equals)
        if name in sets:
            raise InputError(f"eval_dataset: two are called {name!r}: name them, as in NAME={source}")
        sets[name] = load_rows(source, num_prompts, seed)
    return sets if named or len(sets) > 1 else next(iter(sets.values()))


def load_reward(name: str) -> RewardFunction:
    """Load a reward function by its name. The returned function checks the rewards.

    Args:
        name: "exact_answer" (the completion equals the column "answer"); a name that TRL's GRPO script knows
            ("accuracy_reward", "reasoning_accuracy_reward", "think_format_reward", "get_soft_overlong_punishment");
            "FILE.py:FUNCTION", "MODULE:FUNCTION", or "MODULE.FUNCTION" as in that script. The function may be async, a
            partial, or a callable object.

    Raises:
        InputError: there is no such function. The returned function raises it if the reward function fails, or does
            not return one number or None for each completion.
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
    function: Any = load_object(f"{dotted[1]}:{dotted[2]}" if dotted else name, "reward")
    if isinstance(function, type) or not callable(function):
        kind = f"the class {function.__name__}" if isinstance(function, type) else f"a {type(function).__name__}"
        raise InputError(f"reward {name!r} is {kind}: name a function, or an object that can be called")
    return _checked(function, name)


def unique_names(names: Iterable[str]) -> list[str]:
    """Return names of reward functions; one that repeats gets a number."""
    unique: list[str] = []
    for name in names:
        unique.append(name if name not in unique else f"{name}_{len(unique)}")
    return unique


def _checked(reward: Callable[..., Any], name: str) -> RewardFunction:
    """Wrap a reward function so that its errors and odd rewards are reported in one line.

    The wrapper is async if the function is, and has the name that TRL gives the function.
    """

    @contextmanager
    def one_line_errors() -> Iterator[None]:
        try:
            yield
        except (Exception, SystemExit) as error:
            file = inspect.getsourcefile(reward) if inspect.isfunction(reward) else None
            raise load_error(error, name, "reward", file) from error

    def checked(**batch: Any) -> list[float | None]:
        with one_line_errors():
            rewards = reward(**batch)
        return _numbers(rewards, name, len(batch["completions"]))

    async def awaited(**batch: Any) -> list[float | None]:
        with one_line_errors():
            rewards = await reward(**batch)
        return _numbers(rewards, name, len(batch["completions"]))

    wrapper = awaited if is_async_callable(reward) else checked
    wrapper.__name__ = get_callable_name(reward)
    return wrapper


def _numbers(rewards: Any, name: str, num_completions: int) -> list[float | None]:
    """Read rewards from lists, arrays or tensors, as a number or None for each completion."""
    try:
        values = list(rewards)
    except TypeError:
        values = None
    if values is None or len(values) != num_completions:
        received = f"a {type(rewards).__name__}" if values is None else f"{len(values)} rewards"
        raise InputError(f"reward {name!r} returned {received} for {num_completions} completions: return one for each")
    numbers = [_scalar(value) for value in values]
    for value in numbers:
        if value is not None and not isinstance(value, Real):
            raise InputError(
                f"reward {name!r} returned {value!r}: a reward is a number, or None where there is no grade"
            )
    return numbers


def _scalar(value: Any) -> Any:
    """Take the number out of an array or tensor of one element."""
    try:
        return value.item() if hasattr(value, "item") else value
    except (ValueError, RuntimeError):
        return value


def check_packages(settings: Mapping[str, Any], rewards: list[str]) -> None:
    """Raise InputError if a setting needs a package that is not installed. Called before a model is loaded.

    Args:
        settings: settings of `GRPOConfig` and `trl.ModelConfig` by name.
        rewards: names of reward functions.
    """
    package_of = {
        "use_vllm": "vllm",
        "use_peft": "peft",
        "load_in_4bit": "bitsandbytes",
        "load_in_8bit": "bitsandbytes",
        "use_liger_kernel": "liger_kernel",
        "deepspeed": "deepspeed",
    }
    requirements = [(name, settings[name], package) for name, package in package_of.items() if settings.get(name)]
    requirements += [("reward", name, "math_verify") for name in rewards if name in TRL_REWARDS and "accuracy" in name]
    for name, value, package in requirements:
        if find_spec(package) is None:
            extra = "'math-verify[antlr4_13_2]'" if package == "math_verify" else package.replace("_", "-")
            raise InputError(f"{name}={value!r} needs {package}, which is not installed: pip install {extra}")
    trackers = settings.get("report_to") or []
    for tracker in [trackers] if isinstance(trackers, str) else trackers:
        # The trainer reports a name that is no tracker.
        if tracker in INTEGRATION_TO_CALLBACK and tracker not in get_available_reporting_integrations():
            raise InputError(
                f"report_to={tracker!r}: {tracker} is not installed: pip install {tracker}, or leave it out"
            )


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return (str(error).splitlines() or [type(error).__name__])[0]
