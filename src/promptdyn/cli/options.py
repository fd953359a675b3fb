"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import typer

from promptdyn.history import Observed, RewardHistory

__all__ = [
    "DATASET_HELP",
    "AllowSeen",
    "HistoryPath",
    "JsonPath",
    "MaxCompletionLengthOption",
    "ModelOption",
    "NumGenerationsOption",
    "NumPromptsOption",
    "ObservedOption",
    "RewardOption",
    "num_fit_steps",
    "take_config",
]

HistoryPath = Annotated[Path, typer.Argument(help="Reward history: a run's folder, Parquet, CSV or JSONL.")]
JsonPath = Annotated[Path | None, typer.Option("--json", help="Also write the result as JSON ('-' for stdout).")]
AllowSeen = Annotated[bool, typer.Option("--allow-seen", help="Score fits also on the steps that they were fitted on.")]
# Options with a few choices are read as plain text (`parser=str`): the library reports another value in one line.
ObservedOption = Annotated[
    Observed, typer.Option(parser=str, help="Rows that models observe: 'trained' (as in live training) or 'all'.")
]
ModelOption = Annotated[str, typer.Option(help="'embedded', or a Hugging Face model name or folder.")]
RewardOption = Annotated[
    str | None,
    typer.Option(
        help="'exact_answer' (default), accuracy_reward or another of TRL's, MODULE:FUNCTION or FILE.py:FUNCTION; "
        "several with commas."
    ),
]
NumPromptsOption = Annotated[int, typer.Option(help="Pool size, for embedded tasks.")]
NumGenerationsOption = Annotated[int | None, typer.Option(help="Rollouts of a prompt; default TRL's, 8.")]
MaxCompletionLengthOption = Annotated[
    int | None, typer.Option(help="Most tokens of a rollout; default 8 (embedded), or TRL's.")
]
DATASET_HELP = "Embedded family (default arithmetic), a data file with a 'prompt' column, or a Hugging Face dataset."


def num_fit_steps(history: RewardHistory, fit_steps: int | None) -> int:
    """Return the number of steps to fit on: `fit_steps`, or else half of the history's."""
    return len(history.steps) // 2 if fit_steps is None else fit_steps


def take_config(context: typer.Context, path: Path | None, others: Collection[str] = ()) -> None:
    """Make the settings of a training run's file the defaults of the command's options.

    Those of TRL go into the context: `context.meta` has "grpo", fields of `GRPOConfig`, and "script", the rest.

    Args:
        context: the command's.
        path: the YAML file; None does nothing.
        others: names of settings that the file may have, and for which the command has no use.
    """
    if path is None or context.resilient_parsing:
        return
    from promptdyn.training.config import read_config

    options = {str(option.name) for option in context.command.params}
    settings, context.meta["grpo"] = read_config(path, options | set(others))
    context.default_map = {name: value for name, value in settings.items() if name in options}
    context.meta["script"] = {name: value for name, value in settings.items() if name not in options | set(others)}
