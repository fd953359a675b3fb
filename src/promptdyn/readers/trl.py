"""Read the completions that TRL's GRPOTrainer logs with `log_completions=True`, wherever it logs them.

TRL writes `OUTPUT_DIR/completions/completions_00001.parquet` and so on, one row per rollout: `step`, `prompt` (text
or messages), `completion`, a float column per reward function, columns from `log_extra`, `advantage`. At each logging
step it writes the rollouts of its latest generation, so what a log tells depends on how TRL logged:

- If it logs more often than it generates, it writes rollouts again under a later step. The reader drops these repeats,
  with a warning.
- If it logs less often than it generates (`logging_steps` above the steps that a generation serves), it loses rollouts.
- If it evaluates while it trains, evaluation rollouts, which look the same, replace a step's file. Do not log
  completions in such a run.

So log every generation, and give each prompt an id with `log_extra("prompt_id", prompt_id)` in a reward function.
`step` is the number of optimizer steps done when TRL logged, counted from 1.

Weights & Biases and trackio get the same tables (`report_to`), see `promptdyn.readers.trl_tables`; with
`log_unique_prompts` they get one row a prompt only.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError, PromptdynWarning
from promptdyn.history import RewardHistory
from promptdyn.prompts import column_names
from promptdyn.readers.base import RolloutReader
from promptdyn.readers.files import of_the_last_run
from promptdyn.readers.fold import Rollouts, check_rollouts, fold, weights_of
from promptdyn.readers.trl_tables import Table, columns_in, files_of, run_of, tables_of
from promptdyn.success import Grader, spread

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["TRLCompletions"]

COLUMNS = ("step", "prompt", "completion", "advantage")


@dataclass(frozen=True)
class TRLCompletions(RolloutReader):
    """Counts the successes of each prompt and step among logged completions.

    A path is a folder of completions, the run's folder that contains `completions`, a Parquet file, a folder or table
    of Weights & Biases, or trackio's database. A rollout without a grade (null or NaN where the rule of success needs a
    reward) does not count; a group without any grade has no row. Several groups of one prompt in a step are counted
    together. All rows are `trained`.

    Attributes:
        prompt_key: column that identifies prompts. Default: `prompt_id` if every file has it, else `prompt`. Messages
            are identified by their JSON text, with sorted keys and without nulls.
        reward: column(s) of the reward functions, in TRL's order. Default: all columns of floats except TRL's own, the
            prompt key and label columns, if the logged advantages agree with their sum; without any column of floats,
            the only one of integers or booleans.
        reward_weights: weights of the reward functions in the folded reward, TRL's `reward_weights`; default 1 each.
        success: what a success is, see `promptdyn.success`. Default "auto": found from the first rewards, as in a live
            run; unless rewards are 0 and 1, a log line tells the rule that was found.
        label_columns, keep_superseded: as in `promptdyn.readers.RolloutReader`.
        skip_bad: leave out rollouts without a step or a key, or with another label than their prompt had before, with a
            warning, instead of raising.
        run: name of the run to read from a trackio database that holds several; default the only one.
    """

    run: str | None = None

    name = "trl"
    layout = "TRL's completions/ (log_completions=True), wandb/ or trackio's PROJECT.db, or a file of them"

    def recognizes(self, path: Path) -> bool:
        """Whether a path has a table with TRL's columns.

        Raises:
            InputError: a Parquet file or database is damaged.
        """
        return any(set(COLUMNS) <= columns_in(file) for file in files_of(path))

    def read(self, paths: Sequence[Path], source: str) -> RewardHistory:
        """Count the successes.

        Warns:
            PromptdynWarning: files or rollouts were left out; the rewards do not agree with the logged advantages;
                a tracker kept one rollout a prompt.

        Raises:
            InputError: nothing to read; a missing column; no way to tell which columns are rewards; a rollout without a
                step or key; two files with different rollouts of a step; a prompt with different labels; a `success`
                that is no rule, or names no reward column.
        """
        grader = Grader(self.success)
        # TRL writes a file without rollouts when it logs before it has generated.
        files = dict.fromkeys(file for path in paths for file in files_of(path))
        for path in paths:
            _check_runs(path)
        tables = [table for file in files for table in tables_of(file, self.run) if table.num_rows > 0]
        if not tables:
            raise InputError(f"{source}: no rollouts in tables of completions: give a folder that TRL logged")
        prompt_key = self.prompt_key
        if prompt_key is None:
            prompt_key = "prompt_id" if all("prompt_id" in table.schema.names for table in tables) else "prompt"
        functions_given, labels = column_names(self.reward), column_names(self.label_columns)
        names = functions_given or _find_rewards(source, tables[0].schema, {*COLUMNS, prompt_key, *labels})
        weights = weights_of(source, names, self.reward_weights)
        for table in tables:
            for name in (*COLUMNS, prompt_key, *names, *labels):
                if name not in table.schema.names:
                    available = ", ".join(table.schema.names)
                    raise InputError(
                        f"{table.name}: no column {name!r} among {available}: name one of these, or log it"
                    )

        log = _Log.concatenate([_read(table, prompt_key, names, labels) for table in tables])
        rollouts = check_rollouts(
            source,
            log.step.astype(np.int64) if _are_whole(log.step) else log.step,
            log.key,
            log.rewards,
            weights,
            log.labels,
            lambda row: f"{log.table[row].name} row {log.row[row]}",
            prompt_key,
            "log all of them, or give prompt_key='prompt'" if prompt_key != "prompt" else "",
            self.skip_bad,
        )
        if not self.keep_superseded:
            rollouts = _of_the_last_run(rollouts, log)
        rollouts = _without_repeats(rollouts, log)
        if len(names) > 1:
            _check_fold(rollouts, log, rewards_named=bool(functions_given))
        history = fold(rollouts, grader)
        if (history.num_rollouts == 1).all() and any(table.file.suffix != ".parquet" for table in tables):
            warnings.warn(
                f"{source}: one rollout a prompt, as log_unique_prompts=True leaves: no group can vary, and rates are "
                "unknown; read completions/, which has all, or log without it",
                PromptdynWarning,
                stacklevel=3,
            )
        return history


class _Log(NamedTuple):
    """The columns of one or several tables, each an array over rollouts."""

    table: NDArray[np.object_]  # the Table of each
    row: NDArray[np.intp]  # number in the table
    step: NDArray[np.float64]
    key: NDArray[np.object_]
    completion: NDArray[np.object_]
    advantage: NDArray[np.float64]
    rewards: dict[str, NDArray[np.float64]]  # reward function -> rewards
    labels: dict[str, NDArray[np.object_]]  # label column -> labels

    @classmethod
    def concatenate(cls, logs: list[_Log]) -> _Log:
        def concatenated(name: str) -> Any:
            parts = [getattr(log, name) for log in logs]
            if not isinstance(parts[0], dict):
                return np.concatenate(parts)
            return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

        return cls(*map(concatenated, cls._fields))


def _check_runs(path: Path) -> None:
    """Raise InputError for a folder of several runs of Weights & Biases."""
    runs = dict.fromkeys(folder for file in files_of(path) if (folder := run_of(file)) is not None)
    if len(runs) > 1:
        names = ", ".join(run.name for run in runs)
        raise InputError(f"{path}: {len(runs)} runs, {names}: give the folder of one, or of each that belongs together")


def _find_rewards(source: str, schema: pa.Schema, exclude: set[str]) -> list[str]:
    """Return the columns that seem to be rewards: all of floats, else the only one of integers or booleans."""
    import pyarrow as pa

    names = [name for name in schema.names if name not in exclude]
    kinds = {name: schema.field(name).type for name in names}
    floats = [name for name in names if pa.types.is_floating(kinds[name])]
    whole = [name for name in names if pa.types.is_integer(kinds[name]) or pa.types.is_boolean(kinds[name])]
    if floats or len(whole) == 1:
        return floats or whole
    problem = f"columns {', '.join(whole)} may each be" if whole else "no column of numbers is"
    raise InputError(f"{source}: {problem} the reward: say reward=NAME, of {', '.join(whole or names) or 'none'}")


# A group's logged and recomputed advantages agree if the cosine between them is at least this.
LEAST_COSINE = 0.999


def _check_fold(rollouts: Rollouts, log: _Log, rewards_named: bool) -> None:
    """Check that the folded rewards agree with the logged advantages.

    Within a group, TRL's advantages are a multiple of the folded reward minus its mean.

    Args:
        rewards_named: whether the user named the columns of rewards.

    Warns:
        PromptdynWarning: they do not agree, and the user named the columns.

    Raises:
        InputError: they do not agree, and the user did not name the columns.
    """
    groups = unlike = 0
    all_folded, advantages = rollouts.rewards.folded, log.advantage[rollouts.row]
    for block in rollouts.blocks(rollouts.prompt):
        folded, advantage = all_folded[block], advantages[block]
        if not (np.isfinite(folded).all() and np.isfinite(advantage).all()) or not spread(folded[None])[0]:
            continue
        # Scaled, since products of huge numbers overflow.
        folded, advantage = (values / max(abs(values).max(), 1.0) for values in (folded, advantage))
        deviation = folded - folded.mean()
        groups += 1
        unlike += not deviation @ advantage >= LEAST_COSINE * np.linalg.norm(deviation) * np.linalg.norm(advantage) > 0
    if not groups or unlike <= groups // 10:
        return
    columns = ", ".join(rollouts.rewards.functions)
    weights = ", ".join(f"{weight:g}" for weight in rollouts.rewards.weights)
    message = (
        f"{rollouts.source}: the sum of the columns {columns}, at weights {weights}, disagrees with the logged "
        f"advantages in {unlike} of {groups} groups"
    )
    if not rewards_named:
        raise InputError(f"{message}: say which are rewards (reward) and at what weights (reward_weights)")
    warnings.warn(f"{message}: is a reward missing, or a weight wrong?", PromptdynWarning, stacklevel=4)


def _read(table: Table, prompt_key: str, names: Sequence[str], label_columns: Sequence[str]) -> _Log:
    content = table.read(list(dict.fromkeys((*COLUMNS, prompt_key, *names, *label_columns))))
    rows = table.num_rows
    return _Log(
        table=np.full(rows, table, object),
        row=np.arange(rows),
        step=_numbers(table, content, "step"),
        key=_objects(_values(table, content, prompt_key)),
        completion=_objects(_values(table, content, "completion")),
        advantage=_numbers(table, content, "advantage"),
        rewards={name: _numbers(table, content, name) for name in names},
        labels={name: _objects(_values(table, content, name)) for name in label_columns},
    )


def _numbers(table: Table, content: pa.Table, name: str) -> NDArray[np.float64]:
    """Return a (rollout,) column of numbers, NaN for null."""
    import pyarrow as pa

    kind = content[name].type
    if not (pa.types.is_primitive(kind) or pa.types.is_null(kind)) or pa.types.is_temporal(kind):
        raise InputError(f"{table.name}: column {name!r} is of type {kind}: name a column of numbers")
    values: NDArray[np.float64] = content[name].cast(pa.float64(), safe=False).to_numpy()
    return values


def _values(table: Table, content: pa.Table, name: str) -> list[Any]:
    """Return a column's (rollout,) values as Python objects."""
    try:
        return content[name].to_pylist()
    except (ValueError, OverflowError) as error:  # bytes that are no text, dates beyond Python's
        reason = " ".join(str(error).split())
        raise InputError(
            f"{table.name}: column {name!r} holds values that cannot be read ({reason}): write it again"
        ) from None


def _objects(values: list[Any]) -> NDArray[np.object_]:
    return np.fromiter(values, object, len(values))


def _are_whole(values: NDArray[np.float64]) -> bool:
    return bool((np.isfinite(values) & (abs(values) < 2**53) & (values == np.trunc(values))).all())


def _of_the_last_run(rollouts: Rollouts, log: _Log) -> Rollouts:
    """Return the rollouts without those of files that an earlier run in the folder wrote."""
    files = np.fromiter((table.file for table in log.table[rollouts.row]), object, len(rollouts.row))
    first = {files[block.start]: int(rollouts.step[block.start]) for block in reversed(list(rollouts.blocks(files)))}
    is_last = of_the_last_run(rollouts.source, list(first.values()), list(first))
    if is_last.all():
        return rollouts
    keep = dict(zip(first, is_last, strict=True))
    return rollouts.select(np.fromiter((keep[file] for file in files), bool, len(files)))


def _without_repeats(rollouts: Rollouts, log: _Log) -> Rollouts:
    """Return the rollouts without those that TRL wrote again, under a later step or (for a tracker) the last one."""
    tables, keep = log.table[rollouts.row], np.ones(len(rollouts.step), bool)
    blocks = list(rollouts.blocks(tables))
    digests = [_digest(rollouts, log, block) for block in blocks]
    repeats = []
    for i in range(1, len(blocks)):
        step, before = rollouts.step[blocks[i].start], rollouts.step[blocks[i - 1].start]
        if digests[i] == digests[i - 1]:
            keep[blocks[i]] = False
            repeats += [] if step == before and run_of(tables[blocks[i].start].file) else [step]
        elif step == before:
            name, other = tables[blocks[i].start].name, tables[blocks[i - 1].start].name
            raise InputError(f"{name}: step {step} has other rollouts than in {other}: keep only the files of one run")
    if repeats:
        steps = ", ".join(map(str, repeats[:5])) + (", ..." if len(repeats) > 5 else "")
        warnings.warn(
            f"{rollouts.source}: dropped {len(repeats)} of {len(blocks)} blocks of rollouts, which repeat those before "
            f"them (step {steps}): TRL logged more often than it generated",
            PromptdynWarning,
            stacklevel=4,
        )
    return rollouts if keep.all() else rollouts.select(keep)


def _digest(rollouts: Rollouts, log: _Log, block: slice) -> bytes:
    """Return a hash of a block's prompts, completions, rewards and advantages, in order."""
    rows = rollouts.row[block]
    content = repr(log.completion[rows].tolist()).encode()
    numbers = (rollouts.prompt[block], rollouts.rewards.values[block], log.advantage[rows])
    return hashlib.blake2b(content + b"".join(values.tobytes() for values in numbers)).digest()
