"""Reading of reward histories from logs: one module per format.

A reader is a module with

- `recognises(path) -> bool`: whether the file or folder is its format, from names and a glance at the content;
- `read(path, **options) -> RewardHistory`: reads it; its signature declares the options.

A new format is a module here and its entry in `READERS`. Knows nothing of models and trainers.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from promptdyn.errors import InputError, PromptdynWarning
from promptdyn.history import RewardHistory
from promptdyn.readers import table, trl

__all__ = ["READERS", "Reader", "read_history"]


class Reader(Protocol):
    """What a module in `READERS` offers."""

    def recognises(self, path: Path) -> bool:
        """Whether the path, which exists, is of the reader's format."""

    @property
    def read(self) -> Callable[..., RewardHistory]:
        """Called as `read(path, **options)`."""


# The first that recognises a path reads it, so the choosier come first.
READERS: tuple[Reader, ...] = (trl, table)


def read_history(path: str | Path, **options: Any) -> RewardHistory:
    """Read a reward history, in whichever known format it is.

    - a Parquet, CSV, JSONL or JSON file with the columns of a history, or others that `columns` names:
      `promptdyn.readers.table`;
    - a folder of TRL's logged completions, the run's folder around it, or one of its Parquet files:
      `promptdyn.readers.trl`, with its options.

    Args:
        path: file or folder.
        **options: options of the format's reader.

    Warns:
        PromptdynWarning: all groups vary, so that the log seems to keep only those that do.

    Raises:
        InputError: nothing there, a format that no reader knows, an option that its reader does not have, or what the
            reader finds wrong.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    for reader in READERS:
        if reader.recognises(path):
            known = list(inspect.signature(reader.read).parameters)[1:]
            for option in options:
                if option not in known:
                    takes = ", ".join(known) or "no options"
                    raise InputError(f"{path}: option {option!r} does not fit this format: it takes {takes}")
            history = reader.read(path, **options)
            if history.survivors_only:
                warnings.warn(
                    f"{path}: none of its {len(history):,} groups is all solved or all unsolved: it seems to keep only "
                    "those that vary, as dynamic sampling does. Then its rates are of survivors, and which groups do "
                    "not vary cannot be learned from it; log what was rolled out and dropped too, with trained=false",
                    PromptdynWarning,
                    stacklevel=2,
                )
            return history
    what = "an empty file" if path.is_file() and path.stat().st_size == 0 else "no known format"
    raise InputError(
        f"{path}: {what}: give a Parquet, CSV or JSONL file with columns step, prompt_id, num_rollouts, num_successes, "
        "or TRL's folder of completions"
    )
