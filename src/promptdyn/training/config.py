"""A run's settings in a YAML file: one flat mapping, of options of `train` and of all that TRL's GRPO script reads."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from promptdyn.errors import InputError

__all__ = ["read_config", "read_yaml", "script_settings"]

# What TRL's scripts call what `train` calls otherwise.
TRL_NAMES = {"model_name_or_path": "model", "dataset_name": "dataset", "reward_funcs": "reward"}


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML file that holds one mapping.

    Raises:
        InputError: no such file, no YAML, or no mapping.
    """
    try:
        given = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InputError(f"{path}: is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(given, dict):
        raise InputError(f"{path}: holds no mapping of settings")
    return {str(name): value for name, value in given.items()}


def read_config(path: str | Path, options: Collection[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a file sets, by name: all that TRL's own GRPO script reads, and options of ours.

    As in that script, `env` holds environment variables to set, and numbers may be written as YAML takes for words
    (1e-6). Its `model_name_or_path`, `dataset_name` and `reward_funcs` are our `model`, `dataset` and `reward`.

    Args:
        path: YAML file.
        options: names of our own.

    Returns:
        Our options, a list or mapping as text with commas, and settings of TRL's script (`script_settings`); and fields
        of `GRPOConfig`, among them those that are options of ours too. Each is of its type.

    Raises:
        InputError: as `read_yaml`, an unknown name, one given twice, or a value of the wrong type.
    """
    from transformers import HfArgumentParser
    from trl import GRPOConfig

    given = read_yaml(path)
    environment = given.pop("env", {})
    if not isinstance(environment, dict):
        raise InputError(f"{path}: env: give a mapping from names to values")
    parser: Any = HfArgumentParser([GRPOConfig, *_script_parts()], exit_on_error=False)  # type: ignore[list-item]
    of_grpo, of_script = _names(GRPOConfig), {name for part in _script_parts() for name in _names(part)}
    ours: dict[str, Any] = {}
    grpo: dict[str, Any] = {}
    for name, value in given.items():
        option = TRL_NAMES.get(name, name)
        if option in ours:
            raise InputError(f"{path}: {name!r} and {option!r} are one setting: give one of the two")
        if option in options and (option not in of_grpo or option == "output_dir"):
            ours[option] = _as_text(value)
        elif name in of_grpo or name in of_script:
            (grpo if name in of_grpo else ours)[name] = _of_its_type(parser, path, name, value)
        else:
            near = get_close_matches(name, [*options, *of_grpo, *of_script], n=1)
            mend = f": did you mean {near[0]!r}?" if near else ", as train --help lists them, nor one of TRL's script"
            raise InputError(f"{path}: {name!r} is no setting of ours{mend}")
    os.environ.update({str(name): str(value) for name, value in environment.items()})
    return ours, grpo


def script_settings(given: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """`GRPOScriptArguments`, `ModelConfig` and `DatasetMixtureConfig` of TRL, made of settings by name.

    Raises:
        InputError: an unknown name, or values that TRL refuses.
    """
    from transformers import HfArgumentParser

    try:
        return HfArgumentParser(list(_script_parts())).parse_dict(dict(given))  # type: ignore[return-value]
    except (ValueError, TypeError) as error:
        raise InputError(f"settings of TRL's script: {' '.join(str(error).split())}") from None


def _script_parts() -> tuple[Any, ...]:
    from trl import DatasetMixtureConfig, ModelConfig
    from trl.scripts.grpo import GRPOScriptArguments

    return GRPOScriptArguments, ModelConfig, DatasetMixtureConfig


def _names(part: Any) -> set[str]:
    return {name for name, field in part.__dataclass_fields__.items() if field.init}


def _as_text(value: Any) -> Any:
    """A list with commas, a mapping as NAME=VALUE with commas."""
    if isinstance(value, dict):
        value = [f"{name}={item}" for name, item in value.items()]
    return ",".join(map(str, value)) if isinstance(value, list) else value


def _of_its_type(parser: Any, path: str | Path, name: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    # Strings are converted as on a command line, one at a time, so that an error can name its own.
    try:
        return getattr(parser.parse_known_args([f"--{name}={value}"])[0], name)
    except Exception as error:
        raise InputError(f"{path}: {name}: {value!r} cannot be used: {error}") from None
