"""Reader of the completions that TRL's GRPOTrainer logs with `log_completions=True`.

TRL writes `OUTPUT_DIR/completions/completions_00001.parquet` and so on, one row per rollout: `step`, `prompt` (text or
messages), `completion`, a float column per reward function, columns from `log_extra`, `advantage`. At each logging step it
writes the rollouts of its latest generation, so what a history can know depends on how TRL logged:

- logging more often than generating writes rollouts again under a later step. The repeats are dropped, with a warning.
- logging less often than generating (`logging_steps` above the steps a generation serves) loses rollouts for good.
- evaluating while training replaces a step's file by evaluation rollouts, which look the same: log such runs without.

So log every generation, and give each prompt an id with `log_extra("prompt_id", prompt_id)` in a reward function.
`step` is TRL's count of optimizer steps done when it logged, from 1.
"""

from __future__ import annotations

import hashlib
import json
import math
import reprlib
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError
from promptdyn.history import RewardHistory

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

__all__ = ["read", "read_trl", "recognises"]

COLUMNS = ("step", "prompt", "completion", "advantage")


def recognises(path: Path) -> bool:
    """Whether `path` is a Parquet file with TRL's columns, a folder with one, or a run's folder around it."""
    return any(set(COLUMNS) <= set(_column_names(file)) for file in _files(path) if _is_parquet(file))


def read_trl(
    path: str | Path,
    prompt_key: str | None = None,
    reward: str | None = None,
    success_threshold: float = 0.5,
    cluster_columns: Sequence[str] = (),
) -> RewardHistory:
    """Count the successes of each prompt and step among logged completions.

    A rollout without a reward (null or NaN) does not count; a group without any has no row. Groups of one prompt in
    one step are counted together. All rows are `trained`.

    Args:
        path: folder of completions, the run's folder that holds `completions`, or one Parquet file.
        prompt_key: column that identifies prompts. Default: `prompt_id` where every file has it, else `prompt`.
            Messages are identified by their JSON text, with sorted keys and without nulls.
        reward: column of the reward that decides on success. Default: the only float column besides TRL's own.
        success_threshold: a rollout succeeds if its reward is at least this. Default 0.5.
        cluster_columns: columns with a label for each prompt. Default: none.

    Raises:
        InputError: nothing to read; a column is missing; several columns may be the reward; a rollout has no step, key
            or label; two different files hold the same step; labels of a prompt differ.
    """
    path = Path(path)
    if not math.isfinite(success_threshold):
        raise InputError(f"success_threshold={success_threshold} is no number: give the least reward of a success")
    files = [file for file in _files(path) if _num_rollouts(file) > 0]
    if not files:
        raise InputError(f"{path}: no rollouts in Parquet files: give TRL's folder of completions")
    for file in files:
        _require(file, COLUMNS)
    if prompt_key is None:
        prompt_key = "prompt_id" if all("prompt_id" in _column_names(file) for file in files) else "prompt"
    if reward is None:
        reward = _only_reward(files[0], exclude={*COLUMNS, prompt_key, *cluster_columns})

    index: defaultdict[str, int] = defaultdict(count().__next__)
    blocks = [block for file in files for block in _blocks(file, prompt_key, reward, cluster_columns, index)]
    return _count(path, _without_repeats(path, blocks), list(index), success_threshold)


read = read_trl


class _Block(NamedTuple):
    """The rollouts of one step in one file."""

    step: int
    file: Path
    row: NDArray[np.intp]  # (rollout,) row in the file
    prompt: NDArray[np.int64]  # (rollout,) code of the prompt's key
    reward: NDArray[np.float64]  # (rollout,) NaN without a reward
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
    except (pa.ArrowException, OSError) as error:
        message = " ".join(str(error).split())
        raise InputError(f"{file}: not a Parquet file, or damaged ({message}): remove or replace it") from None


def _num_rollouts(file: Path) -> int:
    with _open(file) as parquet:
        return int(parquet.metadata.num_rows)


def _column_names(file: Path) -> list[str]:
    with _open(file) as parquet:
        return list(parquet.schema_arrow.names)


def _require(file: Path, names: Iterable[str]) -> None:
    there = _column_names(file)
    for name in names:
        if name not in there:
            raise InputError(f"{file}: no column {name!r}, only {', '.join(there)}: name one of these, or log it")


def _only_reward(file: Path, exclude: set[str]) -> str:
    import pyarrow as pa

    with _open(file) as parquet:
        schema = parquet.schema_arrow
    floats = [field.name for field in schema if pa.types.is_floating(field.type) and field.name not in exclude]
    if len(floats) == 1:
        return floats[0]
    found = f"columns {', '.join(floats)} may each be the reward" if floats else "no float column may be the reward"
    raise InputError(f"{file}: {found}: say which decides on success with reward=NAME, of {', '.join(schema.names)}")


def _blocks(
    file: Path, prompt_key: str, reward: str, cluster_columns: Sequence[str], index: defaultdict[str, int]
) -> Iterator[_Block]:
    """The file's rollouts, step by step; prompt keys are numbered in `index`."""
    _require(file, (prompt_key, reward, *cluster_columns))
    with _open(file) as parquet:
        table = parquet.read(columns=list(dict.fromkeys((*COLUMNS, prompt_key, reward, *cluster_columns))))
    step = _numbers(file, table, "step")
    for row in np.flatnonzero(np.isnan(step))[:1]:
        raise InputError(f"{file} row {row}: step is missing: remove the file, or fill in its steps")
    prompt = np.fromiter((index[key] for key in _keys(file, table, prompt_key)), np.int64, len(step))
    rewards, advantages = _numbers(file, table, reward), _numbers(file, table, "advantage")
    completions = _objects(table["completion"])
    labels = {name: _objects(table[name]) for name in cluster_columns}

    order = np.argsort(step, kind="stable")
    for row in np.split(order, np.flatnonzero(np.diff(step[order])) + 1):
        content = repr(completions[row].tolist()).encode()
        numbers = (prompt[row], rewards[row], advantages[row])
        yield _Block(
            step=int(step[row[0]]),
            file=file,
            row=row,
            prompt=prompt[row],
            reward=rewards[row],
            labels={name: values[row] for name, values in labels.items()},
            digest=hashlib.blake2b(content + b"".join(values.tobytes() for values in numbers)).digest(),
        )


def _numbers(file: Path, table: pa.Table, name: str) -> NDArray[np.float64]:
    """(rollout,) a numeric column, NaN for null."""
    import pyarrow as pa

    kind = table[name].type
    if not (pa.types.is_primitive(kind) or pa.types.is_null(kind)) or pa.types.is_temporal(kind):
        raise InputError(f"{file}: column {name!r} is of type {kind}: name a column of numbers")
    values: NDArray[np.float64] = table[name].cast(pa.float64()).to_numpy()
    return values


def _objects(column: pa.ChunkedArray) -> NDArray[np.object_]:
    return np.fromiter(column.to_pylist(), object, len(column))


def _keys(file: Path, table: pa.Table, name: str) -> Iterator[str]:
    """The text that identifies each rollout's prompt."""
    for row, value in enumerate(table[name].to_pylist()):
        if value is None:
            raise InputError(f"{file} row {row}: {name} is missing: log it for every rollout, or give prompt_key='prompt'")
        yield json.dumps(_without_nulls(value), sort_keys=True, ensure_ascii=False) if isinstance(
            value, list | dict
        ) else str(value)


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
                f"{block.file}: step {block.step} holds other rollouts than in {before.file}: give the files of one run"
            )
    if repeats:
        steps = ", ".join(str(blocks[i].step) for i in repeats[:5]) + (", ..." if len(repeats) > 5 else "")
        warnings.warn(
            f"{path}: {len(repeats)} of {len(blocks)} steps repeat the rollouts of the step before and were dropped "
            f"({steps}): TRL logged more often than it generated",
            stacklevel=3,
        )
    dropped = set(repeats)
    return [block for i, block in enumerate(blocks) if i not in dropped]


def _count(path: Path, blocks: list[_Block], prompt_ids: list[str], success_threshold: float) -> RewardHistory:
    """Fold rollouts into one row per step and prompt, in the order of their first rollouts."""
    length = [len(block.row) for block in blocks]
    step = np.repeat([block.step for block in blocks], length)
    prompt = np.concatenate([block.prompt for block in blocks])
    reward = np.concatenate([block.reward for block in blocks])
    scored = ~np.isnan(reward)

    _, first, group = np.unique(step * len(prompt_ids) + prompt, return_index=True, return_inverse=True)
    num_rollouts = np.bincount(group[scored], minlength=len(first))
    num_successes = np.bincount(group[reward >= success_threshold], minlength=len(first))
    rows = np.argsort(first)
    rows = rows[num_rollouts[rows] > 0]

    def place(rollout: int) -> str:
        block = int(np.searchsorted(np.cumsum(length), rollout, side="right"))
        return f"{blocks[block].file} row {blocks[block].row[rollout - sum(length[:block])]}"

    clusters = {}
    for name in blocks[0].labels:
        labels = np.concatenate([block.labels[name] for block in blocks])
        for rollout in np.flatnonzero(labels != labels[first][group])[:1]:
            raise InputError(
                f"{place(rollout)} (prompt {reprlib.repr(prompt_ids[prompt[rollout]])}, step {step[rollout]}): cluster "
                f"column {name!r} changes from {labels[first][group][rollout]!r} to {labels[rollout]!r}: give all "
                "rollouts of a prompt one label, or leave the column out"
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
    )
