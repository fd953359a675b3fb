"""Reading of reward histories from logs: one module per format.

A reader is a module with

- `recognises(path, options) -> bool`: whether the file or folder is its format, from names and a glance at the content;
  options given to `read` may tell more;
- `read(path, **options) -> RewardHistory`: reads it, or several; its signature declares the options.

A new format is a module here and its entry in `READERS`. What formats share: `files` (which, and opening them),
`columns` (what a file holds), `fold` (from rollouts to groups). Knows nothing of models and trainers.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from promptdyn.errors import InputError, PromptdynWarning
from promptdyn.history import RewardHistory
from promptdyn.readers import rollouts, run, table, trl
from promptdyn.readers.files import Paths, expand

__all__ = ["READERS", "Reader", "read_history"]


class Reader(Protocol):
    """What a module in `READERS` offers."""

    def recognises(self, path: Path, _: Mapping[str, Any] | None = None) -> bool:
        """Whether the path, which exists, is of the reader's format."""

    @property
    def read(self) -> Callable[..., RewardHistory]:
        """Called as `read(path, **options)`."""


# The first that recognises a path and takes the options reads it, so the choosier come first.
READERS: tuple[Reader, ...] = (run, trl, rollouts, table)


def read_history(path: Paths, **options: Any) -> RewardHistory:
    """Read a reward history, in whichever known format it is.

    - the folder of a run of this package, for the history that it recorded: `promptdyn.readers.run`;
    - a Parquet, CSV, JSONL or JSON file with the columns of a history, or others that `columns` names, one row a group
      of rollouts: `promptdyn.readers.table`;
    - such files with one row a rollout, as verl and others dump them: `promptdyn.readers.rollouts`;
    - a folder of TRL's logged completions, the run's folder around it, or one of its Parquet files:
      `promptdyn.readers.trl`.

    CSV and JSON files may be compressed (.gz, .zst).

    Args:
        path: a file, a folder of files, a glob such as "logs/*.jsonl", or several of them, read as one history.
        **options: options of the format's reader.

    Warns:
        PromptdynWarning: all groups vary, so that the log seems to keep only those that do.

    Raises:
        InputError: nothing there, a format that no reader knows, an option that its reader does not have, or what the
            reader finds wrong.
    """
    paths = expand(path)
    given = path if len(paths) > 1 else paths[0]
    source = str(given if isinstance(given, str | Path) else paths[0])
    readers = [reader for reader in READERS if all(reader.recognises(part, options) for part in paths)]
    if not readers:
        raise _unknown(source, paths)
    for reader in readers:
        if set(options) <= set(_options(reader)):
            history = reader.read(given, **options)
            if history.survivors_only:
                warnings.warn(
                    f"{source}: none of its {len(history):,} groups is all solved or all unsolved: it seems to keep "
                    "only those that vary, as dynamic sampling does. Then its rates are of survivors, and which groups "
                    "do not vary cannot be learned from it; log what was rolled out and dropped too, with "
                    "trained=false",
                    PromptdynWarning,
                    stacklevel=2,
                )
            return history
    takes = _options(readers[0])
    odd = next(option for option in options if option not in takes)
    raise InputError(f"{source}: option {odd!r} does not fit this format: it takes {', '.join(takes) or 'no options'}")


def _options(reader: Reader) -> list[str]:
    return list(inspect.signature(reader.read).parameters)[1:]


def _unknown(source: str, paths: list[Path]) -> InputError:
    """The error about paths that no reader knows."""
    known = (
        "give a Parquet, CSV or JSONL file with columns step, prompt_id, num_rollouts, num_successes, or TRL's folder "
        "of completions"
    )
    if len(paths) > 1:
        return InputError(f"{source}: {len(paths)} paths, not all of one known format: {known}")
    path = paths[0]
    if path.is_file():
        return InputError(f"{source}: {'no known format' if path.stat().st_size else 'an empty file'}: {known}")
    runs = [str(file.parent) for file in islice(path.rglob(run.HISTORY_FILE), 4)]
    if runs:
        return InputError(f"{source}: no run, but a folder of runs: name one, as {runs[0]}")
    return InputError(f"{source}: no known format: {known}")
