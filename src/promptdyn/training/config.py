"""A run's settings in a YAML file, in TRL's own style: one flat mapping, of options of `train` and of `GRPOConfig`."""

from __future__ import annotations

import os
from collections.abc import Collection
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from promptdyn.errors import InputError

__all__ = ["read_config", "read_yaml"]

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
    """What a file sets: our options, and fields of `trl.GRPOConfig`, each of its type.

    As in TRL's scripts, `env` holds environment variables to set, and numbers may be written as YAML takes for words
    (1e-6). `model_name_or_path`, `dataset_name` and `reward_funcs` are understood.

    Args:
        path: YAML file.
        options: names of our own.

    Returns:
        Options by name, a list as text with commas; and fields of `GRPOConfig` by name.

    Raises:
        InputError: as `read_yaml`, an unknown name, one given twice, or a value of the wrong type.
    """
    from transformers import HfArgumentParser
    from trl import GRPOConfig

    given = read_yaml(path)
    environment = given.pop("env", {})
    if not isinstance(environment, dict):
        raise InputError(f"{path}: env: give a mapping from names to values")
    ours: dict[str, Any] = {}
    grpo: dict[str, Any] = {}
    fields = {name for name, part in GRPOConfig.__dataclass_fields__.items() if part.init}
    for name, value in given.items():
        option = TRL_NAMES.get(name, name)
        if option in ours:
            raise InputError(f"{path}: {name!r} and {option!r} are one setting: give one of the two")
        if option in options:
            ours[option] = ",".join(map(str, value)) if isinstance(value, list) else value
        elif name in fields:
            grpo[name] = value
        else:
            near = get_close_matches(name, [*options, *fields, *TRL_NAMES], n=1)
            mend = f": did you mean {near[0]!r}?" if near else ", as train --help lists them, or of trl.GRPOConfig"
            raise InputError(f"{path}: {name!r} is no setting of ours{mend}")
    parser: Any = HfArgumentParser([GRPOConfig], exit_on_error=False)  # type: ignore[list-item]
    for name, value in grpo.items():
        # Strings are converted as on a command line, one at a time, so that an error can name its own.
        if isinstance(value, str):
            try:
                grpo[name] = getattr(parser.parse_known_args([f"--{name}={value}"])[0], name)
            except Exception as error:
                raise InputError(f"{path}: {name}: {value!r} cannot be used: {error}") from None
    os.environ.update({str(name): str(value) for name, value in environment.items()})
    return ours, grpo
