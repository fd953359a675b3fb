"""Say why a path is no log that can be read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from promptdyn.errors import InputError
from promptdyn.readers.run import HISTORY_FILE

__all__ = ["error_for_unknown"]

# Names of files of logs that hold no rewards of single rollouts -> why, and what to do instead.
UNREADABLE: dict[str, str] = {
    r"global_step_\d+_training_input\.pkl": (
        "SkyRL's dump of training input holds advantages, but no rewards and no ids of prompts, in a pickle, which may "
        "run code when it is read: train with promptdyn.training.skyrl, which records a history"
    ),
    r".*\.(?:pkl|pickle)": "a pickle may run code when it is read: write the rollouts as JSON lines or Parquet",
    r"events\.out\.tfevents\..*": (
        "TensorBoard's events hold averages, no rollouts (OpenRLHF writes no others): log the rollouts themselves, one "
        "row each with step, prompt and reward"
    ),
    r"run-.*\.wandb": (
        "a run of Weights & Biases without tables of completions (OpenRLHF logs one sample a step): log the rollouts "
        "themselves, one row each with step, prompt and reward"
    ),
}


def error_for_unknown(source: str, paths: Sequence[Path]) -> InputError:
    """Return the error about paths that no reader knows."""
    mend = (
        "give a Parquet, CSV or JSONL file with columns step, prompt_id, num_successes, num_rollouts, a trainer's log "
        "(`promptdyn import --help` lists them), or name your own reader (FILE.py:NAME)"
    )
    if len(paths) > 1:
        return InputError(f"{source}: {len(paths)} paths, not all of one known format: {mend}")
    path = paths[0]
    runs = [str(file.parent) for file in islice(path.rglob(HISTORY_FILE), 4)] if path.is_dir() else []
    if runs:
        return InputError(f"{source}: no run, but a folder of runs: name one, as {runs[0]}")
    for file in [path] if path.is_file() else islice(_files_below(path), 1000):
        for name, reason in UNREADABLE.items():
            if re.fullmatch(name, file.name):
                return InputError(f"{file}: {reason}")
    empty = path.is_file() and path.stat().st_size == 0
    return InputError(f"{source}: {'an empty file' if empty else 'no known format'}: {mend}")


def _files_below(folder: Path) -> Iterator[Path]:
    return (file for file in folder.rglob("*") if file.is_file())
