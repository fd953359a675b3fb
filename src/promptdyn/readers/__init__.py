"""Reading of reward histories from logs: one file per format.

A new format is a `Reader` in a file here, its export, and its place in `READERS`; one of your own is a file anywhere.
What formats share: `files` (which, and opening them), `columns` (what a file holds), `fold` (from rollouts to groups).
Knows nothing of models and trainers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import MISSING
from itertools import islice
from pathlib import Path

from promptdyn.errors import InputError, PromptdynWarning
from promptdyn.history import RewardHistory
from promptdyn.readers.base import Reader
from promptdyn.readers.files import Paths, expand
from promptdyn.readers.groups import GroupTable
from promptdyn.readers.rollouts import RolloutTable
from promptdyn.readers.run import HISTORY_FILE, RunFolder
from promptdyn.readers.trl import TRLCompletions
from promptdyn.registry import Registry, settings_of, subclass_fault

__all__ = ["READERS", "GroupTable", "Reader", "RolloutTable", "RunFolder", "TRLCompletions", "read_history"]

# The last that recognizes a path and has the options reads it: the choosier come later, and one's own before all.
READERS: Registry[Callable[..., Reader], Reader] = Registry(
    "reader",
    GroupTable,
    RolloutTable,
    TRLCompletions,
    RunFolder,
    fault=subclass_fault("reader", Reader, "promptdyn.readers"),
)


def read_history(path: Paths, reader: str | Reader | None = None, **options: object) -> RewardHistory:
    """Read a reward history, in whichever known format it is.

    - "run": the folder of a run of this package, for the history that it recorded: `RunFolder`;
    - "trl": a folder of TRL's logged completions, the run's folder around it, or one of its Parquet files:
      `TRLCompletions`;
    - "rollouts": Parquet, CSV, JSONL or JSON files with one row a rollout, as verl and others dump them:
      `RolloutTable`;
    - "groups": such files with the columns of a history, or others that `columns` names, one row a group of rollouts:
      `GroupTable`.

    CSV and JSON files may be compressed (.gz, .zst).

    Args:
        path: a file, a folder of files, a glob such as "logs/*.jsonl", or several of them, read as one history.
        reader: the format: one of `READERS`, with options as in "rollouts:reward=score", one of a file,
            "FILE.py:NAME", or a `Reader`. Default: the one that recognizes the path.
        **options: the reader's own, its fields.

    Warns:
        PromptdynWarning: all groups vary, so that the log seems to keep only those that do.

    Raises:
        InputError: nothing there, a format that no reader knows, an unknown reader, an option that it does not have, or
            what it finds wrong.

    Example:
        >>> history = read_history("runs/mine", label_columns=["task"])  # doctest: +SKIP
    """
    paths = expand(path)
    source = str(path if isinstance(path, str | Path) else paths[0])
    found = _recognized(paths, source, options) if reader is None else READERS.resolve(reader, options)
    history = found.read(paths, source)
    if not isinstance(history, RewardHistory):
        raise InputError(f"{source}: reader {found.name!r} returned a {type(history).__name__}, not a RewardHistory")
    if history.survivors_only:
        warnings.warn(
            f"{source}: none of its {len(history):,} groups is all solved or all unsolved: it seems to keep only those "
            "that vary, as dynamic sampling does. Then its rates are of survivors, and which groups do not vary cannot "
            "be learned from it; log what was rolled out and dropped too, with trained=false",
            PromptdynWarning,
            stacklevel=2,
        )
    return history


def _recognized(paths: Sequence[Path], source: str, options: dict[str, object]) -> Reader:
    """The reader that recognizes all the paths and has the options."""
    odd = []
    for name in reversed(list(READERS)):
        known = settings_of(READERS[name])
        needed = {option for option, field in known.items() if field.default is field.default_factory is MISSING}
        if not needed <= options.keys():
            continue
        reader: Reader = READERS[name](**{option: options[option] for option in options if option in known})
        if all(reader.recognizes(path) for path in paths):
            if options.keys() <= known.keys():
                return READERS.create(name, options)
            odd.append(name)
    if not odd:
        raise _unknown(source, paths)
    known = settings_of(READERS[odd[0]])
    option = next(option for option in options if option not in known)
    raise InputError(
        f"{source}: option {option!r} does not fit format {odd[0]!r}: it takes {', '.join(known) or 'none'}"
    )


def _unknown(source: str, paths: Sequence[Path]) -> InputError:
    """The error about paths that no reader knows."""
    known = (
        "give a Parquet, CSV or JSONL file with columns step, prompt_id, num_successes, num_rollouts, or TRL's folder "
        "of completions, or name your own reader (FILE.py:NAME)"
    )
    if len(paths) > 1:
        return InputError(f"{source}: {len(paths)} paths, not all of one known format: {known}")
    path = paths[0]
    if path.is_file():
        return InputError(f"{source}: {'no known format' if path.stat().st_size else 'an empty file'}: {known}")
    runs = [str(file.parent) for file in islice(path.rglob(HISTORY_FILE), 4)]
    if runs:
        return InputError(f"{source}: no run, but a folder of runs: name one, as {runs[0]}")
    return InputError(f"{source}: no known format: {known}")
