"""Read tables with one row per rollout, whoever writes them.

Each row of a file has a prompt, a reward and a step. A folder holds one file per step (`7.jsonl`,
`rollouts_step_7.jsonl`), whose name tells the step if no column does. Files are Parquet, JSON lines, JSON or CSV.

A row is one rollout of its prompt in its step; several groups of one prompt in a step are counted together. A log that
keeps only the groups that were trained on tells the rates of those alone; `read_history` warns where it seems so.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from promptdyn._columns import error_for_no_rows, is_whole
from promptdyn.errors import InputError
from promptdyn.history import RewardHistory
from promptdyn.prompts import column_names
from promptdyn.readers.base import RolloutReader
from promptdyn.readers.columns import FileColumns, column_names_in, concatenate, kind_of, read_columns
from promptdyn.readers.files import files_in, of_the_last_run
from promptdyn.readers.fold import check_rollouts, fold, weights_of
from promptdyn.success import Grader

__all__ = ["RolloutTable"]

logger = logging.getLogger(__name__)

# Names that trainers give these columns; the first name that a file has is used.
STEPS = ("step", "global_step")
PROMPTS = ("prompt_id", "input", "prompt")
REWARDS = ("score", "reward")
# The name of the column of steps in this module.
STEP = "step"
# Columns of a table of counts.
COUNTS = ("num_successes", "num_rollouts")


@dataclass(frozen=True)
class RolloutTable(RolloutReader):
    """Counts the successes of each prompt and step among rollouts.

    A rollout without a grade (null or NaN where the rule of success needs a reward) does not count; a group without any
    grade has no row. All rows are `trained`.

    Attributes:
        prompt_key: column that identifies prompts. Default: the first of `prompt_id`, `input` and `prompt` that the
            file has. Messages are identified by their JSON text, with sorted keys and without nulls.
        reward: column(s) of the reward functions. Default: `score` or `reward`.
        step_key: column of the training step. Default: `step` or `global_step`, or else the last number in a file's
            name.
        reward_weights, success, label_columns, skip_bad, keep_superseded: as in `promptdyn.readers.RolloutReader`.

    Example:
        >>> history = promptdyn.read_history("rollouts", prompt_key="question", reward="correct")  # doctest: +SKIP
    """

    step_key: str | None = None

    name = "rollouts"
    layout = "a table with one row a rollout: prompt, reward, step (or a file a step, named by it), or a folder of such"

    def recognizes(self, path: Path) -> bool:
        """Whether a file, or a folder's first, has a column of rewards (`reward`, or a usual name) and no counts."""
        files = _files(path)
        names = column_names_in(files[0]) if files else []
        rewards = column_names(self.reward) or REWARDS
        return any(name in names for name in rewards) and not any(name in names for name in COUNTS)

    def read(self, paths: Sequence[Path], source: str) -> RewardHistory:
        """Count the successes.

        Warns:
            PromptdynWarning: files, lines or rollouts were left out.

        Raises:
            InputError: nothing to read; a missing column; no step found; a rollout without a step or key; a reward that
                is no number; a prompt with different labels; a `success` that is no rule, or names no reward column.
        """
        grader = Grader(self.success)
        files = [file for path in paths for file in _files(path) or [path]]
        functions_given, label_columns = column_names(self.reward), column_names(self.label_columns)
        rewards, steps = functions_given or REWARDS, (self.step_key,) if self.step_key else STEPS
        names_to_read = [*((self.prompt_key,) if self.prompt_key else PROMPTS), *rewards, *steps, *label_columns]
        files_columns = [_read_file(file, names_to_read, rewards, steps) for file in files]
        if not self.keep_superseded:
            is_last = of_the_last_run(source, [_first_step(file_columns) for file_columns in files_columns], files)
            files_columns = [file_columns for file_columns, keep in zip(files_columns, is_last, strict=True) if keep]
        log = concatenate(files_columns)
        if not len(log.columns[STEP]):
            raise error_for_no_rows(source, log.faults)
        if not any(name in log.names for name in steps):
            numbers = f"{log.columns[STEP].min()} to {log.columns[STEP].max()}"
            logger.warning(
                "%s: steps are the numbers in the names of its files, %s: step_key names a column", source, numbers
            )

        def column(content: str, option: str, chosen: str | None, usual: Sequence[str] = ()) -> str:
            name = chosen or next((name for name in usual if name in log.columns), None)
            if name is None or name not in log.columns:
                raise InputError(
                    f"{source}: no column of {content} among {', '.join(log.names)}: say which (as {option})"
                )
            return name

        key = column("prompts", "prompt_key", self.prompt_key, PROMPTS)
        functions = [column("rewards", "reward", name, REWARDS) for name in functions_given or (None,)]
        labels = [column("labels", "label_columns", name) for name in label_columns]
        weights = weights_of(source, functions, self.reward_weights)
        rollouts = check_rollouts(
            source,
            log.columns[STEP],
            log.columns[key].tolist(),
            {name: log.columns[name] for name in functions},
            weights,
            {name: log.columns[name] for name in labels},
            log.row_name,
            key,
            skip_bad=self.skip_bad,
            faults=log.faults,
        )
        return fold(rollouts, grader)


def _files(path: Path) -> list[Path]:
    """Return the files of a known kind at a path."""
    return [file for file in files_in(path) if kind_of(file) is not None]


def _read_file(file: Path, names_to_read: Sequence[str], rewards: Sequence[str], steps: Sequence[str]) -> FileColumns:
    """Return a file's columns, with one of steps: the first of `steps` that it has, or the number in its name."""
    part = read_columns(file, steps, rewards, only=names_to_read)
    available = ", ".join(part.names) or "none"
    if part.names and not part.columns:
        raise InputError(
            f"{file}: no column of prompts, rewards or steps among {available}: leave the file out, or name them"
        )
    step_key = next((name for name in steps if name in part.columns), None)
    numbers = re.findall(r"\d+", file.name.partition(".")[0])
    if step_key is not None:
        step = part.columns[step_key]
    elif steps is STEPS and numbers:
        step = np.full(len(next(iter(part.columns.values()), ())), int(numbers[-1]))
    else:
        hint = ", and no number in the file's name: say which column it is (step_key)" if steps is STEPS else ""
        raise InputError(f"{file}: no column {steps[0]!r} of steps among {available}{hint}")
    return part._replace(columns={**part.columns, STEP: step})


def _first_step(part: FileColumns) -> int | None:
    step = part.columns[STEP]
    return int(step[0]) if len(step) and is_whole(step[0]) and 0 <= step[0] < 2**31 else None
