"""Read reward histories from logs: one file per format.

A new format is a `Reader` in a file here, its export, and its entry in `READERS`; a user's own format is a file
anywhere. A trainer's log of single rollouts is a `RolloutLog`, which says where the files are and how a record becomes
rollouts. The formats share `files` (find and open a log's files), `columns` (read a file's columns), `log` (read a log
record by record) and `fold` (from rollouts to groups). This room knows nothing of models and trainers.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import MISSING
from pathlib import Path

from promptdyn.errors import InputError, PromptdynWarning
from promptdyn.history import RewardHistory
from promptdyn.readers.areal import ARealRollouts
from promptdyn.readers.base import Reader, RolloutReader
from promptdyn.readers.files import Paths, expand
from promptdyn.readers.groups import GroupTable
from promptdyn.readers.log import Parser, Rollout, RolloutLog
from promptdyn.readers.nemo_rl import NeMoRLRollouts
from promptdyn.readers.prime_rl import PrimeRLTraces
from promptdyn.readers.rollouts import RolloutTable
from promptdyn.readers.run import RunFolder
from promptdyn.readers.slime import SlimeRollouts
from promptdyn.readers.trl import TRLCompletions
from promptdyn.readers.unknown import error_for_unknown
from promptdyn.readers.verl import VerlRollouts
from promptdyn.registry import Registry, settings_of, subclass_fault

__all__ = [
    "READERS",
    "ARealRollouts",
    "GroupTable",
    "NeMoRLRollouts",
    "Parser",
    "PrimeRLTraces",
    "Reader",
    "Rollout",
    "RolloutLog",
    "RolloutReader",
    "RolloutTable",
    "RunFolder",
    "SlimeRollouts",
    "TRLCompletions",
    "VerlRollouts",
    "read_history",
]

logger = logging.getLogger(__name__)

# Of the readers that recognize a path and have the options, the last one reads it. So stricter formats stand later, and
# users' own, which are registered after these, come before all.
READERS: Registry[Callable[..., Reader], Reader] = Registry(
    "reader",
    GroupTable,
    RolloutTable,
    VerlRollouts,
    PrimeRLTraces,
    ARealRollouts,
    NeMoRLRollouts,
    SlimeRollouts,
    TRLCompletions,
    RunFolder,
    fault=subclass_fault("reader", Reader, "promptdyn.readers"),
)


def read_history(path: Paths, reader: str | Reader | None = None, **options: object) -> RewardHistory:
    """Read a reward history in any known format.

    - "run": the folder of a run of this package, with the history that it recorded (`RunFolder`);
    - "trl": a folder of completions that TRL logged, the run's folder around it, or Parquet files from it; the same in
      folders of Weights & Biases and databases of trackio (`TRLCompletions`);
    - "verl": verl's `trainer.rollout_data_dir` (`VerlRollouts`);
    - "prime-rl": the rollouts of a run of prime-rl, or an evaluation by verifiers (`PrimeRLTraces`);
    - "areal": AReaL's folder of rollouts (`ARealRollouts`);
    - "nemo-rl": NeMo-RL's files of training data (`NeMoRLRollouts`);
    - "slime": slime's files of rollouts (`SlimeRollouts`);
    - "rollouts": Parquet, CSV, JSONL or JSON files with one row per rollout (`RolloutTable`);
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
    without_option: list[str] = []
    for name in reversed(list(READERS)):
        known = settings_of(READERS[name])
        needed = {option for option, field in known.items() if field.default is field.default_factory is MISSING}
        if not needed <= options.keys():
            continue
        reader: Reader = READERS[name](**{option: options[option] for option in options if option in known})
        if all(reader.recognizes(path) for path in paths):
            if options.keys() <= known.keys():
                if without_option:
                    lacking = ", ".join(options.keys() - settings_of(READERS[without_option[0]]).keys())
                    logger.warning("%s: read as %r: format %r has no %s", source, name, without_option[0], lacking)
                return READERS.create(name, options)
            without_option.append(name)
    if not without_option:
        raise error_for_unknown(source, paths)
    known = settings_of(READERS[without_option[0]])
    option = next(option for option in options if option not in known)
    raise InputError(
        f"{source}: option {option!r} does not fit format {without_option[0]!r}: it takes {', '.join(known) or 'none'}"
    )
