"""Read the settings of a run from a YAML file: options of `train`, and settings of TRL's own GRPO script."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from promptdyn.errors import InputError

__all__ = ["read_config", "read_yaml", "script_settings"]

# Options of TRL's scripts that `train` has under another name.
TRL_NAMES = {"model_name_or_path": "model", "dataset_name": "dataset", "reward_funcs": "reward"}


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file that holds one mapping.

    Raises:
        InputError: the file cannot be read, is not YAML, or holds something other than a mapping.
    """
    try:
        settings = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InputError(f"{path}: is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(settings, dict):
        raise InputError(f"{path}: holds no mapping of settings")
    return {str(name): value for name, value in settings.items()}


def read_config(path: str | Path, options: Collection[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a settings file: options of `train` and every setting that TRL's own GRPO script reads.

    The file may be one written for that script. So `env` holds environment variables to set, a number may be written
    in a form that YAML reads as text (1e-6), and `model_name_or_path`, `dataset_name` and `reward_funcs` stand for
    `model`, `dataset` and `reward`.

    Args:
        path: YAML file.
        options: names of the options of `train`.

    Returns:
        Two mappings from names to values of the right type. The first holds options of `train` (a list or mapping as
        text with commas) and settings of TRL's script (see `script_settings`). The second holds fields of
        `GRPOConfig`, also those that are options of `train`.

    Raises:
        InputError: the file cannot be read (see `read_yaml`), a name is unknown or set twice, or a value has the wrong
            type.
    """
    from transformers import HfArgumentParser
    from trl import GRPOConfig

    settings = read_yaml(path)
    environment = settings.pop("env", {})
    if not isinstance(environment, dict):
        raise InputError(f"{path}: env: give a mapping from names to values")
    parser: Any = HfArgumentParser([GRPOConfig, *_script_parts()], exit_on_error=False)  # type: ignore[list-item]
    grpo_names, script_names = _names(GRPOConfig), {name for part in _script_parts() for name in _names(part)}
    train_settings: dict[str, Any] = {}
    grpo_settings: dict[str, Any] = {}
    for name, value in settings.items():
        option = TRL_NAMES.get(name, name)
        if option in train_settings:
            raise InputError(f"{path}: {name!r} and {option!r} are one setting: give one of the two")
        if option in options and (option not in grpo_names or option == "output_dir"):
            train_settings[option] = _as_text(value)
        elif name in grpo_names or name in script_names:
            (grpo_settings if name in grpo_names else train_settings)[name] = _converted(parser, path, name, value)
        else:
            similar = get_close_matches(name, [*options, *grpo_names, *script_names], n=1)
            mend = (
                f": did you mean {similar[0]!r}?"
                if similar
                else ", as train --help lists them, nor one of TRL's script"
            )
            raise InputError(f"{path}: {name!r} is no setting of ours{mend}")
    os.environ.update({str(name): str(value) for name, value in environment.items()})
    return train_settings, grpo_settings


def script_settings(settings: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """Make TRL's `GRPOScriptArguments`, `ModelConfig` and `DatasetMixtureConfig` from settings by name.

    Raises:
        InputError: a name is unknown, or TRL refuses a value.
    """
    from transformers import HfArgumentParser

    try:
        return HfArgumentParser(list(_script_parts())).parse_dict(dict(settings))  # type: ignore[return-value]
    except (ValueError, TypeError) as error:
        raise InputError(f"settings of TRL's script: {' '.join(str(error).split())}") from None


def _script_parts() -> tuple[Any, ...]:
    from trl import DatasetMixtureConfig, ModelConfig
    from trl.scripts.grpo import GRPOScriptArguments

    return GRPOScriptArguments, ModelConfig, DatasetMixtureConfig


def _names(part: Any) -> set[str]:
    return {name for name, field in part.__dataclass_fields__.items() if field.init}


def _as_text(value: Any) -> Any:
    """Write a list with commas, and a mapping as NAME=VALUE with commas; leave other values as they are."""
    if isinstance(value, dict):
        value = [f"{name}={item}" for name, item in value.items()]
    return ",".join(map(str, value)) if isinstance(value, list) else value


def _converted(parser: Any, path: str | Path, name: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    # Text is converted as on a command line, one setting at a time, so that an error names the setting.
    try:
        return getattr(parser.parse_known_args([f"--{name}={value}"])[0], name)
    except Exception as error:
        raise InputError(f"{path}: {name}: {value!r} cannot be used: {error}") from None
