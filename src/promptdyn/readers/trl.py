"""Reader of the completions that TRL's GRPOTrainer logs with `log_completions=True`.

TRL writes `OUTPUT_DIR/completions/completions_00001.parquet` and so on, one row per rollout: `step`, `prompt` (text
or messages), `completion`, a float column per reward function, columns from `log_extra`, `advantage`. At each logging
step it writes the rollouts of its latest generation, so what a history can know depends on how TRL logged:

- logging more often than generating writes rollouts again, under a later step. These repeats are dropped, with a
  warning.
- logging less often than generating (`logging_steps` above the steps that a generation serves) loses rollouts.
- evaluating while training replaces a step's file by evaluation rollouts, which look the same: do not log
  completions in such a run.

So log every generation, and give each prompt an id by `log_extra("prompt_id", prompt_id)` in a reward function.
`step` is the number of optimizer steps done when TRL logged, from 1.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError, PromptdynWarning
from promptdyn.history import RewardHistory
from promptdyn.prompts import column_names
from promptdyn.readers.base import Reader
from promptdyn.readers.files import files_in, of_the_last_run
from promptdyn.readers.fold import Rollouts, checked, count, weights_of
from promptdyn.success import AUTO, Grader, Success, spread

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

__all__ = ["TRLCompletions"]

COLUMNS = ("step", "prompt", "completion", "advantage")


@dataclass(frozen=True)
class TRLCompletions(Reader):
    """Counts the successes of each prompt and step among logged completions.

    It reads a folder of completions, the run's folder that holds `completions`, or Parquet files of them. A rollout
    without a grade (null or NaN where the rule of success wants a reward) does not count; a group without any has no
    row. Groups of one prompt in one step are counted together. All rows are `trained`.

    Attributes:
        prompt_key: column that identifies prompts. Default: `prompt_id` where every file has it, else `prompt`.
            Messages are identified by their JSON text, with sorted keys and without nulls.
        reward: column(s) of the reward functions, in TRL's order. Default: all columns of floats that are not TRL's
            own, the prompt key or a label column, if the logged advantages go with their sum; where there are no
            floats, the only one of integers or booleans.
        reward_weights: weights of these in the folded reward, TRL's `reward_weights`; default 1 each.
        success: what a success is, see `promptdyn.success`. Default "auto": found from the first rewards, as a live run
            does; a line is logged that says what was found, unless rewards are 0 and 1.
        label_columns: columns with a label for each prompt; a null is the label "(none)". Default: none.
        skip_bad: leave out rollouts without a step or a key, or whose label differs from those before of their prompt,
            with a warning, instead of raising.
        keep_superseded: keep files of a run that ended later in the same folder before this one began again. Default:
            file times tell them, and they are left out with a warning.
    """

    prompt_key: str | None = None
    reward: str | Sequence[str] | None = None
    reward_weights: float | Sequence[float] | None = None
    success: Success = AUTO
    label_columns: str | Sequence[str] = ()
    skip_bad: bool = False
    keep_superseded: bool = False

    name = "trl"

    def recognizes(self, path: Path) -> bool:
        """Whether `path` is a Parquet file with TRL's columns, a folder with one, or a run's folder around it.

        Raises:
            InputError: a Parquet file is damaged.
        """
        return any(set(COLUMNS) <= set(_schema(file)[0].names) for file in _files(path) if _is_parquet(file))

    def read(self, paths: Sequence[Path], source: str) -> RewardHistory:
        """Count the successes.

        Warns:
            PromptdynWarning: of files and rollouts that are left out; of rewards that do not go with the advantages.

        Raises:
            InputError: nothing to read; a column is missing; it is not clear which columns are rewards; a rollout has
                no step, key or label; two files hold different rollouts of a step; labels of a prompt differ; a
                `success` that is no rule, or names no column of rewards.
        """
        grader = Grader(self.success)
        # TRL writes a file without rollouts when it logs before it has generated.
        files = dict.fromkeys(file for path in paths for file in _files(path))
        schemas = {file: schema for file in files for schema, rows in [_schema(file)] if rows > 0}
        if not schemas:
            raise InputError(f"{source}: no rollouts in Parquet files: give TRL's folder of completions")
        prompt_key = self.prompt_key
        if prompt_key is None:
            prompt_key = "prompt_id" if all("prompt_id" in schema.names for schema in schemas.values()) else "prompt"
        asked, labels = column_names(self.reward), column_names(self.label_columns)
        names = asked or _may_be_rewards(source, next(iter(schemas.values())), {*COLUMNS, prompt_key, *labels})
        weights = weights_of(source, names, self.reward_weights)
        for file, schema in schemas.items():
            for name in (*COLUMNS, prompt_key, *names, *labels):
                if name not in schema.names:
                    there = ", ".join(schema.names)
                    raise InputError(f"{file}: no column {name!r} among {there}: name one of these, or log it")

        log = _Log.of([_read(file, prompt_key, names, labels) for file in schemas])
        rollouts = checked(
            source,
            log.step.astype(np.int64) if _are_whole(log.step) else log.step,
            log.key,
            log.rewards,
            weights,
            log.labels,
            lambda row: f"{log.file[row]} row {log.row[row]}",
            prompt_key,
            "log all of them, or give prompt_key='prompt'" if prompt_key != "prompt" else "",
            self.skip_bad,
        )
        if not self.keep_superseded:
            rollouts = _of_the_last_run(rollouts, log)
        rollouts = _without_repeats(rollouts, log)
        if len(names) > 1:
            _check_fold(rollouts, log, given=bool(asked))
        return count(rollouts, grader)


class _Log(NamedTuple):
    """Columns of one file, or of several, over their rollouts."""

    file: NDArray[np.object_]
    row: NDArray[np.intp]  # in the file
    step: NDArray[np.float64]
    key: NDArray[np.object_]
    completion: NDArray[np.object_]
    advantage: NDArray[np.float64]
    rewards: dict[str, NDArray[np.float64]]  # function ->
    labels: dict[str, NDArray[np.object_]]  # label column ->

    @classmethod
    def of(cls, files: list[_Log]) -> _Log:
        def joined(name: str) -> Any:
            parts = [getattr(file, name) for file in files]
            if not isinstance(parts[0], dict):
                return np.concatenate(parts)
            return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

        return cls(*map(joined, cls._fields))


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    folder = path / "completions" if (path / "completions").is_dir() else path
    return [file for file in files_in(folder) if file.suffix == ".parquet"]


def _is_parquet(file: Path) -> bool:
    with file.open("rb") as content:
        return content.read(4) == b"PAR1"


@contextmanager
def _open(file: Path) -> Iterator[pq.ParquetFile]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as parquet:
            yield parquet
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        found = " ".join(str(error).split())
        raise InputError(f"{file}: not a Parquet file, or damaged ({found}): remove or replace it") from None


def _schema(file: Path) -> tuple[pa.Schema, int]:
    """The file's schema and number of rows."""
    with _open(file) as parquet:
        return parquet.schema_arrow, parquet.metadata.num_rows


def _may_be_rewards(source: str, schema: pa.Schema, exclude: set[str]) -> list[str]:
    import pyarrow as pa

    names = [name for name in schema.names if name not in exclude]
    kinds = {name: schema.field(name).type for name in names}
    floats = [name for name in names if pa.types.is_floating(kinds[name])]
    whole = [name for name in names if pa.types.is_integer(kinds[name]) or pa.types.is_boolean(kinds[name])]
    if floats or len(whole) == 1:
        return floats or whole
    found = f"columns {', '.join(whole)} may each be" if whole else "no column of numbers is"
    raise InputError(f"{source}: {found} the reward: say reward=NAME, of {', '.join(whole or names) or 'none'}")


# Cosine between the advantages of a group and what they should be, from which on they are alike.
ALIKE = 0.999


def _check_fold(rollouts: Rollouts, log: _Log, given: bool) -> None:
    """Tell where the rewards, folded by their weights, do not go with the logged advantages.

    Within a group TRL's advantages are a multiple of what the folded reward is above its mean.

    Raises:
        InputError: they do not, and nobody has said which columns are rewards.
    """
    groups = unlike = 0
    all_folded, advantages = rollouts.rewards.folded, log.advantage[rollouts.row]
    for block in rollouts.blocks(rollouts.prompt):
        folded, advantage = all_folded[block], advantages[block]
        if not (np.isfinite(folded).all() and np.isfinite(advantage).all()) or not spread(folded[None])[0]:
            continue
        # Scaled, since products of huge numbers are beyond double precision.
        folded, advantage = (values / max(abs(values).max(), 1.0) for values in (folded, advantage))
        above = folded - folded.mean()
        groups += 1
        unlike += not above @ advantage >= ALIKE * np.linalg.norm(above) * np.linalg.norm(advantage) > 0
    if not groups or unlike <= groups // 10:
        return
    columns = ", ".join(rollouts.rewards.functions)
    weights = ", ".join(f"{weight:g}" for weight in rollouts.rewards.weights)
    told = (
        f"{rollouts.source}: the sum of the columns {columns}, at weights {weights}, does not go with the logged "
        f"advantages in {unlike} of {groups} groups"
    )
    if not given:
        raise InputError(f"{told}: say which are rewards (reward) and at what weights (reward_weights)")
    warnings.warn(f"{told}: is a reward missing, or a weight another?", PromptdynWarning, stacklevel=4)


def _read(file: Path, prompt_key: str, names: Sequence[str], label_columns: Sequence[str]) -> _Log:
    with _open(file) as parquet:
        table = parquet.read(columns=list(dict.fromkeys((*COLUMNS, prompt_key, *names, *label_columns))))
    rows = table.num_rows
    return _Log(
        file=np.full(rows, file, object),
        row=np.arange(rows),
        step=_numbers(file, table, "step"),
        key=_objects(_values(file, table, prompt_key)),
        completion=_objects(_values(file, table, "completion")),
        advantage=_numbers(file, table, "advantage"),
        rewards={name: _numbers(file, table, name) for name in names},
        labels={name: _objects(_values(file, table, name)) for name in label_columns},
    )


def _numbers(file: Path, table: pa.Table, name: str) -> NDArray[np.float64]:
    """(rollout,) a numeric column, NaN for null."""
    import pyarrow as pa

    kind = table[name].type
    if not (pa.types.is_primitive(kind) or pa.types.is_null(kind)) or pa.types.is_temporal(kind):
        raise InputError(f"{file}: column {name!r} is of type {kind}: name a column of numbers")
    values: NDArray[np.float64] = table[name].cast(pa.float64(), safe=False).to_numpy()
    return values


def _values(file: Path, table: pa.Table, name: str) -> list[Any]:
    """(rollout,) a column's values as Python's own."""
    try:
        return table[name].to_pylist()
    except (ValueError, OverflowError) as error:  # bytes that are no text, dates that Python has not
        found = " ".join(str(error).split())
        raise InputError(f"{file}: column {name!r} holds what cannot be read ({found}): write it again") from None


def _objects(values: list[Any]) -> NDArray[np.object_]:
    return np.fromiter(values, object, len(values))


def _are_whole(values: NDArray[np.float64]) -> bool:
    return bool((np.isfinite(values) & (abs(values) < 2**53) & (values == np.trunc(values))).all())


def _of_the_last_run(rollouts: Rollouts, log: _Log) -> Rollouts:
    """Rollouts less those in files of a run that ended later in this folder, before this one began again."""
    files = log.file[rollouts.row]
    first = {files[block.start]: int(rollouts.step[block.start]) for block in reversed(list(rollouts.blocks(files)))}
    kept = of_the_last_run(rollouts.source, list(first.values()), list(first))
    if kept.all():
        return rollouts
    of_file = dict(zip(first, kept, strict=True))
    return rollouts.select(np.fromiter((of_file[file] for file in files), bool, len(files)))


def _without_repeats(rollouts: Rollouts, log: _Log) -> Rollouts:
    """Rollouts less those that TRL wrote again under a later step."""
    files, keep = log.file[rollouts.row], np.ones(len(rollouts.step), bool)
    blocks = list(rollouts.blocks(files))
    digests = [_digest(rollouts, log, block) for block in blocks]
    repeats = []
    for i in range(1, len(blocks)):
        step, file, before = rollouts.step[blocks[i].start], files[blocks[i].start], files[blocks[i - 1].start]
        if digests[i] == digests[i - 1]:
            repeats.append(step)
            keep[blocks[i]] = False
        elif step == rollouts.step[blocks[i - 1].start]:
            raise InputError(f"{file}: step {step} has other rollouts than in {before}: keep only the files of one run")
    if not repeats:
        return rollouts
    steps = ", ".join(map(str, repeats[:5])) + (", ..." if len(repeats) > 5 else "")
    warnings.warn(
        f"{rollouts.source}: dropped {len(repeats)} of {len(blocks)} blocks of rollouts, which repeat those before "
        f"them (step {steps}): TRL logged more often than it generated",
        PromptdynWarning,
        stacklevel=4,
    )
    return rollouts.select(keep)


def _digest(rollouts: Rollouts, log: _Log, block: slice) -> bytes:
    """Of prompts, completions, rewards and advantages of a block, in order."""
    rows = rollouts.row[block]
    content = repr(log.completion[rows].tolist()).encode()
    numbers = (rollouts.prompt[block], rollouts.rewards.values[block], log.advantage[rows])
    return hashlib.blake2b(content + b"".join(values.tobytes() for values in numbers)).digest()
