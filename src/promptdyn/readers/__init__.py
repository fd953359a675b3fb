"""Read reward histories from logs: one file per format.

A new format is a `Reader` in a file here, its export, and its entry in `READERS`; a user's own format is a file
anywhere. The formats share `files` (find and open a log's files), `columns` (read a file's columns) and `fold` (from
rollouts to groups). This room knows nothing of models and trainers.
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

# Of the readers that recognize a path and have the options, the last one reads it. So stricter formats stand later, and
# users' own, which are registered after these, come before all.
READERS: Registry[Callable[..., Reader], Reader] = Registry(
    "reader",
    GroupTable,
    RolloutTable,
    TRLCompletions,
    RunFolder,
    fault=subclass_fault("reader", Reader, "promptdyn.readers"),
)


def read_history(path: Paths, reader: str | Reader | None = None, **options: object) -> RewardHistory:
    """Read a reward history in any known format.

    - "run": the folder of a run of this package, with the history that it recorded (`RunFolder`);
    - "trl": a folder of completions that TRL logged, the run's folder around it, or Parquet files from it
      (`TRLCompletions`);
    - "rollouts": Parquet, CSV, JSONL or JSON files with one row per rollout, as verl and others write them
      (`RolloutTable`);
    - "groups": such files with one row per group of rollouts and the columns of a history, which `columns` may rename
      (`GroupTable`).

    CSV and JSON files may be compressed (.gz, .zst).

    Args:
        path: a file, a folder of files, a glob such as "logs/*.jsonl", or several of them, read as one history.
        reader: the format: a name in `READERS`, with options as in "rollouts:reward=score"; your own in a file,
            "FILE.py:NAME"; or a `Reader`. Default: the reader that recognizes the path.
        **options: options of the reader, which are its fields.

    Warns:
        PromptdynWarning: all groups vary, as if the log had dropped the others.

    Raises:
        InputError: no such path, a format that no reader knows, an unknown reader, an option that the reader does not
            have, or a fault that the reader finds.

    Example:
        >>> history = read_history("runs/mine", label_columns=["task"])  # doctest: +SKIP
    """
    paths = expand(path)
    source = str(path if isinstance(path, str | Path) else paths[0])
    chosen = _recognized(paths, source, options) if reader is None else READERS.resolve(reader, options)
    history = chosen.read(paths, source)
    if not isinstance(history, RewardHistory):
        raise InputError(f"{source}: reader {chosen.name!r} returned a {type(history).__name__}, not a RewardHistory")
    if history.survivors_only:
        warnings.warn(
            f"{source}: all of its {len(history):,} groups vary: the log seems to keep only those that do, as dynamic "
            "sampling does. Then its rates are those of survivors, and it cannot tell which groups do not vary: log "
            "dropped groups too, with trained=false",
            PromptdynWarning,
            stacklevel=2,
        )
    return history


def _recognized(paths: Sequence[Path], source: str, options: dict[str, object]) -> Reader:
    """Return the reader that recognizes all the paths and has the options."""
    without_option = []
    for name in reversed(list(READERS)):
        known = settings_of(READERS[name])
        needed = {option for option, field in known.items() if field.default is field.default_factory is MISSING}
        if not needed <= options.keys():
            continue
        reader: Reader = READERS[name](**{option: options[option] for option in options if option in known})
        if all(reader.recognizes(path) for path in paths):
            if options.keys() <= known.keys():
                return READERS.create(name, options)
            without_option.append(name)
    if not without_option:
        raise _unknown(source, paths)
    known = settings_of(READERS[without_option[0]])
    option = next(option for option in options if option not in known)
    raise InputError(
        f"{source}: option {option!r} does not fit format {without_option[0]!r}: it takes {', '.join(known) or 'none'}"
    )


def _unknown(source: str, paths: Sequence[Path]) -> InputError:
    """Return the error about paths that no reader knows."""
    mend = (
        "give a Parquet, CSV or JSONL file with columns step, prompt_id, num_successes, num_rollouts, or TRL's folder "
        "of completions, or name your own reader (FILE.py:NAME)"
    )
    if len(paths) > 1:
        return InputError(f"{source}: {len(paths)} paths, not all of one known format: {mend}")
    path = paths[0]
    if path.is_file():
        return InputError(f"{source}: {'no known format' if path.stat().st_size else 'an empty file'}: {mend}")
    runs = [str(file.parent) for file in islice(path.rglob(HISTORY_FILE), 4)]
    if runs:
        return InputError(f"{source}: no run, but a folder of runs: name one, as {runs[0]}")
    return InputError(f"{source}: no known format: {mend}")
