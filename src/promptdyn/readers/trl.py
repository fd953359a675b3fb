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
import json
import logging
import reprlib
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError, PromptdynWarning
from promptdyn.history import RewardHistory
from promptdyn.success import AUTO, Grader, Rewards, Success, moments, spread

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

__all__ = ["read", "read_trl", "recognises"]

logger = logging.getLogger(__name__)

COLUMNS = ("step", "prompt", "completion", "advantage")


def recognises(path: Path) -> bool:
    """Whether `path` is a Parquet file with TRL's columns, a folder with one, or a run's folder around it.

    Raises:
        InputError: a Parquet file is damaged.
    """
    return any(set(COLUMNS) <= set(_schema(file)[0].names) for file in _files(path) if _is_parquet(file))


def read_trl(
    path: str | Path,
    prompt_key: str | None = None,
    reward: str | Sequence[str] | None = None,
    reward_weights: Sequence[float] | None = None,
    success: Success = AUTO,
    cluster_columns: Sequence[str] = (),
) -> RewardHistory:
    """Count the successes of each prompt and step among logged completions.

    A rollout without a grade (null or NaN where the rule of success wants a reward) does not count; a group without any
    has no row. Groups of one prompt in one step are counted together. All rows are `trained`.

    Args:
        path: folder of completions, the run's folder that holds `completions`, or one Parquet file.
        prompt_key: column that identifies prompts. Default: `prompt_id` where every file has it, else `prompt`.
            Messages are identified by their JSON text, with sorted keys and without nulls.
        reward: column(s) of the reward functions, in TRL's order. Default: all columns of floats that are not TRL's
            own, the prompt key or a cluster column, if the logged advantages go with their sum; where there are no
            floats, the only one of integers or booleans.
        reward_weights: weights of these in the folded reward, TRL's `reward_weights`; default 1 each.
        success: what a success is, see `promptdyn.success`. Default "auto": found from the first rewards, as a live run
            does; a line is logged that says what was found, unless rewards are 0 and 1.
        cluster_columns: columns with a label for each prompt; a null is the label "(none)". Default: none.

    Raises:
        InputError: nothing to read; a column is missing; it is not clear which columns are rewards; a rollout has no
            step, key or label; two files hold different rollouts of a step; labels of a prompt differ; a `success` that
            is no rule, or names no column of rewards.
    """
    path = Path(path)
    grader = Grader(success)
    # TRL writes a file without rollouts when it logs before it has generated.
    schemas = {file: schema for file in _files(path) for schema, rows in [_schema(file)] if rows > 0}
    if not schemas:
        raise InputError(f"{path}: no rollouts in Parquet files: give TRL's folder of completions")
    if prompt_key is None:
        prompt_key = "prompt_id" if all("prompt_id" in schema.names for schema in schemas.values()) else "prompt"
    given = [reward] if isinstance(reward, str) else reward
    names = given or _may_be_rewards(path, next(iter(schemas.values())), {*COLUMNS, prompt_key, *cluster_columns})
    weights = _weights(path, names, reward_weights)
    for file, schema in schemas.items():
        for name in (*COLUMNS, prompt_key, *names, *cluster_columns):
            if name not in schema.names:
                there = ", ".join(schema.names)
                raise InputError(f"{file}: no column {name!r} among {there}: name one of these, or log it")
    try:
        grader.check(names)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None

    index: defaultdict[str, int] = defaultdict(count().__next__)
    blocks = [block for file in schemas for block in _blocks(file, prompt_key, names, weights, cluster_columns, index)]
    blocks = _without_repeats(path, blocks)
    if len(names) > 1:
        _check_fold(path, blocks, given=bool(given))
    for block in blocks:
        grader.see(block.rewards)
    grader.settle()
    if grader.words:
        logger.warning("%s: %s", path, grader.words)
    return _count(path, blocks, list(index), grader)


read = read_trl


MOST_STEPS = np.iinfo(np.int32).max


class _Block(NamedTuple):
    """The rollouts of one step in one file."""

    step: int
    file: Path
    row: NDArray[np.intp]  # (rollout,) row in the file
    prompt: NDArray[np.int64]  # (rollout,) code of the prompt's key
    rewards: Rewards
    advantage: NDArray[np.float64]  # (rollout,)
    labels: dict[str, NDArray[np.object_]]  # cluster column -> (rollout,)
    digest: bytes  # of prompts, completions, rewards and advantages, in order


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    folder = path / "completions" if (path / "completions").is_dir() else path
    return sorted(folder.glob("*.parquet"))


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


def _may_be_rewards(path: Path, schema: pa.Schema, exclude: set[str]) -> list[str]:
    import pyarrow as pa

    names = [name for name in schema.names if name not in exclude]
    kinds = {name: schema.field(name).type for name in names}
    floats = [name for name in names if pa.types.is_floating(kinds[name])]
    whole = [name for name in names if pa.types.is_integer(kinds[name]) or pa.types.is_boolean(kinds[name])]
    if floats or len(whole) == 1:
        return floats or whole
    found = f"columns {', '.join(whole)} may each be" if whole else "no column of numbers is"
    raise InputError(f"{path}: {found} the reward: say reward=NAME, of {', '.join(whole or names) or 'none'}")


def _weights(path: Path, names: Sequence[str], given: Sequence[float] | None) -> NDArray[np.float64]:
    try:
        weights = np.ones(len(names)) if given is None else np.array(given, np.float64)
    except (TypeError, ValueError):
        weights = np.zeros(0)
    if weights.shape != (len(names),) or not np.isfinite(weights).all():
        raise InputError(
            f"{path}: reward_weights {given} for the rewards {', '.join(names)}: give a number for each, in this order"
        )
    return weights


# Cosine between the advantages of a group and what they should be, from which on they are alike.
ALIKE = 0.999


def _check_fold(path: Path, blocks: list[_Block], given: bool) -> None:
    """Tell where the rewards, folded by their weights, do not go with the logged advantages.

    Within a group TRL's advantages are a multiple of what the folded reward is above its mean.

    Raises:
        InputError: they do not, and nobody has said which columns are rewards.
    """
    groups = unlike = 0
    for block in blocks:
        ends = np.flatnonzero(np.diff(block.prompt)) + 1
        for rollouts in np.split(np.arange(len(block.prompt)), ends):
            folded, advantage = block.rewards.folded[rollouts], block.advantage[rollouts]
            if not (np.isfinite(folded).all() and np.isfinite(advantage).all()) or not spread(folded[None])[0]:
                continue
            # Scaled, since products of huge numbers are beyond double precision.
            folded, advantage = (values / max(abs(values).max(), 1.0) for values in (folded, advantage))
            above = folded - folded.mean()
            groups += 1
            unlike += not above @ advantage >= ALIKE * np.linalg.norm(above) * np.linalg.norm(advantage) > 0
    if not groups or unlike <= groups // 10:
        return
    columns = ", ".join(blocks[0].rewards.functions)
    weights = ", ".join(f"{weight:g}" for weight in blocks[0].rewards.weights)
    told = (
        f"{path}: the sum of the columns {columns}, at weights {weights}, does not go with the logged advantages in "
        f"{unlike} of {groups} groups"
    )
    if not given:
        raise InputError(f"{told}: say which are rewards (reward) and at what weights (reward_weights)")
    warnings.warn(f"{told}: is a reward missing, or a weight another?", PromptdynWarning, stacklevel=4)


def _blocks(
    file: Path,
    prompt_key: str,
    names: Sequence[str],
    weights: NDArray[np.float64],
    cluster_columns: Sequence[str],
    index: defaultdict[str, int],
) -> Iterator[_Block]:
    """The file's rollouts, step by step; prompt keys are numbered in `index`."""
    with _open(file) as parquet:
        table = parquet.read(columns=list(dict.fromkeys((*COLUMNS, prompt_key, *names, *cluster_columns))))
    step = _numbers(file, table, "step")
    for row in np.flatnonzero(np.isnan(step))[:1]:
        raise InputError(f"{file} row {row}: step is missing: remove the file, or fill in its steps")
    for row in np.flatnonzero((step < 0) | (step > MOST_STEPS) | (step != np.trunc(step)))[:1]:
        raise InputError(f"{file} row {row}: step={step[row]:g} is no whole number from 0 to {MOST_STEPS}: mend it")
    prompt = np.fromiter((index[key] for key in _keys(file, table, prompt_key)), np.int64, len(step))
    rewards = np.stack([_numbers(file, table, name) for name in names], axis=1)
    advantages = _numbers(file, table, "advantage")
    completions = _objects(_values(file, table, "completion"))
    labels = {name: _labels(_values(file, table, name)) for name in cluster_columns}

    order = np.argsort(step, kind="stable")
    for row in np.split(order, np.flatnonzero(np.diff(step[order])) + 1):
        content = repr(completions[row].tolist()).encode()
        numbers = (prompt[row], rewards[row], advantages[row])
        yield _Block(
            step=int(step[row[0]]),
            file=file,
            row=row,
            prompt=prompt[row],
            rewards=Rewards(tuple(names), weights, rewards[row]),
            advantage=advantages[row],
            labels={name: values[row] for name, values in labels.items()},
            digest=hashlib.blake2b(content + b"".join(values.tobytes() for values in numbers)).digest(),
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


def _labels(values: list[Any]) -> NDArray[np.object_]:
    """(rollout,) labels, None where there is none: a NaN would differ from itself."""
    return _objects([None if value != value else value for value in values])


def _keys(file: Path, table: pa.Table, name: str) -> Iterator[str]:
    """The text that identifies each rollout's prompt."""
    for row, value in enumerate(_values(file, table, name)):
        if value is None:
            raise InputError(f"{file} row {row}: {name} is missing: log all of them, or give prompt_key='prompt'")
        if isinstance(value, list | dict):
            value = json.dumps(_without_nulls(value), sort_keys=True, ensure_ascii=False)
        yield str(value)


def _without_nulls(value: Any) -> Any:
    # Parquet gives every message all the keys that any message of its file has.
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _without_repeats(path: Path, blocks: list[_Block]) -> list[_Block]:
    """Blocks by step, less those that TRL wrote again under a later step."""
    blocks = sorted(blocks, key=lambda block: block.step)
    repeats = []
    for i, (before, block) in enumerate(pairwise(blocks), 1):
        if block.digest == before.digest:
            repeats.append(i)
        elif block.step == before.step:
            raise InputError(
                f"{block.file}: step {block.step} has other rollouts than in {before.file}: "
                "keep only the files of one run"
            )
    if repeats:
        steps = ", ".join(str(blocks[i].step) for i in repeats[:5]) + (", ..." if len(repeats) > 5 else "")
        warnings.warn(
            f"{path}: dropped {len(repeats)} of {len(blocks)} blocks of rollouts, which repeat those before them "
            f"(step {steps}): TRL logged more often than it generated",
            PromptdynWarning,
            stacklevel=3,
        )
    dropped = set(repeats)
    return [block for i, block in enumerate(blocks) if i not in dropped]


def _count(path: Path, blocks: list[_Block], prompt_ids: list[str], grader: Grader) -> RewardHistory:
    """Fold rollouts into one row per step and prompt, in the order of their first rollouts."""
    start = np.cumsum([0, *(len(block.row) for block in blocks)])
    step = np.repeat([block.step for block in blocks], np.diff(start))
    prompt = np.concatenate([block.prompt for block in blocks])
    grades = np.concatenate([grader.grades(block.rewards) for block in blocks])
    scored = ~np.isnan(grades)

    _, first, group = np.unique(step * len(prompt_ids) + prompt, return_index=True, return_inverse=True)
    num_rollouts = np.bincount(group[scored], minlength=len(first))
    num_successes = np.bincount(group[grades == 1], minlength=len(first))
    rows = np.argsort(first)
    rows = rows[num_rollouts[rows] > 0]
    mean, std = moments(np.concatenate([block.rewards.folded for block in blocks]), group, len(first))

    def place(rollout: int) -> str:
        at = int(np.searchsorted(start, rollout, side="right")) - 1
        return f"{blocks[at].file} row {blocks[at].row[rollout - start[at]]}"

    clusters = {}
    for name in blocks[0].labels:
        labels = np.concatenate([block.labels[name] for block in blocks])
        before = labels[first][group]
        for rollout in np.flatnonzero(labels != before)[:1]:
            prompt_id = reprlib.repr(prompt_ids[prompt[rollout]])
            raise InputError(
                f"{place(rollout)} (prompt {prompt_id}, step {step[rollout]}): cluster column {name!r} changes "
                f"from {before[rollout]!r} to {labels[rollout]!r}: give all rollouts of a prompt one label, or "
                "leave the column out"
            )
        clusters[name] = labels[first][rows]
    return RewardHistory.from_columns(
        step=step[first][rows],
        prompt_id=np.fromiter(prompt_ids, object, len(prompt_ids))[prompt[first][rows]],
        num_rollouts=num_rollouts[rows],
        num_successes=num_successes[rows],
        clusters=clusters,
        source=str(path),
        place=lambda row: place(first[rows][row]),
        success=str(grader.rule),
        reward_mean=mean[rows],
        reward_std=std[rows],
    )
