"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from promptdyn.history import Observed, RewardHistory

__all__ = ["AllowSeen", "HistoryPath", "JsonPath", "ObservedOption", "num_fit_steps"]

HistoryPath = Annotated[Path, typer.Argument(help="Reward history: a run's folder, Parquet, CSV or JSONL.")]
JsonPath = Annotated[Path | None, typer.Option("--json", help="Also write the result as JSON ('-' for stdout).")]
AllowSeen = Annotated[bool, typer.Option("--allow-seen", help="Score fits also on the steps that they were fitted on.")]
# Options with a few choices are read as plain text (`parser=str`): the library reports another value in one line.
ObservedOption = Annotated[
    Observed, typer.Option(parser=str, help="Rows that models observe: 'trained' (as in live training) or 'all'.")
]


def num_fit_steps(history: RewardHistory, fit_steps: int | None) -> int:
    """Return the number of steps to fit on: `fit_steps`, or else half of the history's."""
    return len(history.steps) // 2 if fit_steps is None else fit_steps
