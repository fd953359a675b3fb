"""Find the distinct prompts of a dataset, describe them as a pool, and fetch their rows."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import pyarrow as pa
from datasets import Dataset

from promptdyn._columns import is_missing
from promptdyn.clusters import LABEL_COLUMNS
from promptdyn.errors import InputError
from promptdyn.prompts import Prompts
from promptdyn.training.content import content_ids, values

__all__ = ["Distinct", "dataset_of", "distinct", "fetch", "prompt_ids", "prompt_rows", "prompts"]

logger = logging.getLogger(__name__)


def prompts(dataset: Dataset, id_column: str = "prompt_id") -> Prompts:
    """Make the pool of a dataset: the ids of its distinct rows, and its columns, each read when it is first needed.

    Label columns of the pool are the columns with well-known names, such as "task" and "difficulty"
    (`promptdyn.clusters.LABEL_COLUMNS`).

    Args:
        dataset: a `datasets.Dataset`.
        id_column: the column of prompt ids, see `prompt_rows`.

    Raises:
        InputError: see `prompt_rows`.
    """
    return distinct(dataset, id_column).pool


def prompt_ids(dataset: Dataset, id_column: str = "prompt_id") -> list[str]:
    """Return the ids of a dataset's pool: enough for models that use no column. Raises as `prompt_rows`."""
    return list(prompt_rows(dataset, id_column))


class Distinct(NamedTuple):
    """The distinct prompts of a dataset.

    Attributes:
        dataset: the dataset with one row per prompt.
        pool: its pool, in the same order.
        rows: prompt id -> row in the dataset as it was.
    """

    dataset: Dataset
    pool: Prompts
    rows: dict[str, int]


def distinct(dataset: Dataset, id_column: str = "prompt_id", prompt_column: str = "prompt") -> Distinct:
    """Find the distinct prompts of a dataset. Takes and raises what `prompt_rows` does."""
    rows = prompt_rows(dataset, id_column, prompt_column)
    if len(rows) < len(dataset):
        dataset = dataset.select(list(rows.values()))
    label_columns = [column for column in LABEL_COLUMNS if column in dataset.column_names]
    return Distinct(dataset, Prompts(list(rows), _DatasetColumns(dataset), label_columns), rows)


class _DatasetColumns(Mapping[str, Any]):
    """Mapping from a column's name to its (row,) values as Python objects."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def __getitem__(self, column: str) -> list[Any]:
        if column not in self._dataset.column_names:
            raise KeyError(column)
        return values(self._dataset, column)

    def __iter__(self) -> Iterator[str]:
        return iter(self._dataset.column_names)

    def __len__(self) -> int:
        return len(self._dataset.column_names)

    def __contains__(self, column: object) -> bool:  # the base class would read the column
        return column in self._dataset.column_names


def prompt_rows(dataset: Dataset, id_column: str = "prompt_id", prompt_column: str = "prompt") -> dict[str, int]:
    """Find the prompts of a dataset: id -> row, in the order of the rows.

    Rows that are equal in every column are one prompt, and the first row stands for all. Rows with the same prompt
    that differ in another column, such as the answer or a picture, are different prompts. A line is logged if there
    are rows of either sort.

    Args:
        dataset: a `datasets.Dataset`.
        id_column: the column of prompt ids. If the dataset lacks it, the id is a hash of the row's prompt, or of the
            whole row for rows with the same prompt that differ. It is the same in every run and every order of rows.
        prompt_column: the column of prompts, text or messages. A dataset with ids may lack it, if an environment gives
            the prompts.

    Raises:
        InputError: the dataset cannot be indexed, it has a column neither of prompts nor of ids, an id is empty or
            that of two rows that differ, or a file, such as a picture, cannot be read that is needed to compare rows.
    """
    if not isinstance(dataset, Dataset):
        raise InputError(
            f"the training data is of type {type(dataset).__name__}, which has no rows to choose from: give "
            "a datasets.Dataset (of a stream, Dataset.from_list(list(stream)))"
        )
    has_ids = id_column in dataset.column_names
    if prompt_column not in dataset.column_names and not has_ids:
        raise InputError(
            f"the dataset has no column {prompt_column!r}: it has {', '.join(dataset.column_names) or 'none'}; if an "
            f"environment gives the prompts, add a column {id_column!r} of ids"
        )
    if has_ids:
        ids = ["" if is_missing(prompt_id) else str(prompt_id) for prompt_id in values(dataset, id_column)]
        if "" in ids:
            raise InputError(f"row {ids.index('')} of the dataset has an empty {id_column!r}: give every row an id")
    else:
        logger.warning("the dataset has no column %r: ids are hashes of the prompts", id_column)
        ids = content_ids(dataset, [prompt_column])
    # Whole rows are read only for ids that repeat.
    repeated = {prompt_id for prompt_id, count in Counter(ids).items() if count > 1}
    several = [row for row, prompt_id in enumerate(ids) if prompt_id in repeated]
    content = dict(zip(several, content_ids(dataset, dataset.column_names, several), strict=True))
    contents: dict[str, dict[str, int]] = {}  # id -> content of a row -> first row with it
    for row in several:
        contents.setdefault(ids[row], {}).setdefault(content[row], row)
    rows: dict[str, int] = {}
    num_told_apart = 0
    for row, prompt_id in enumerate(ids):
        if len(contents.get(prompt_id, ())) > 1:
            if has_ids:
                first, second, *_ = contents[prompt_id].values()
                raise InputError(
                    f"prompt id {prompt_id!r} is that of rows {first} and {second}, which differ: make the ids unique"
                )
            prompt_id = content[row]
            num_told_apart += prompt_id not in rows
        rows.setdefault(prompt_id, row)
    if len(rows) < len(ids):
        logger.warning("%d of %d rows of the dataset repeat others and are left out", len(ids) - len(rows), len(ids))
    if num_told_apart:
        logger.warning(
            "%d rows share their prompt with others and differ in another column: each is a prompt of its own",
            num_told_apart,
        )
    return rows


def dataset_of(records: Sequence[Mapping[str, Any]]) -> Dataset:
    """Make a dataset of records that may differ in their keys and in the types of a key's values.

    Args:
        records: (row,) values by column; a column that a record lacks is None in its row. A column whose values have no
            common type is turned into text, as JSON.
    """
    names = dict.fromkeys(name for record in records for name in record)
    return Dataset(pa.table({name: _array([record.get(name) for record in records]) for name in names}))


def _array(column: list[Any]) -> pa.Array:
    try:
        return pa.array(column)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        return pa.array([None if value is None else json.dumps(value, default=str) for value in column])


def fetch(dataset: Dataset, rows: list[int]) -> list[dict[str, Any]]:
    """Return the examples at `rows`, each an object of its own. Repeats are read once and copied, which is cheaper."""
    distinct_rows = list(dict.fromkeys(rows))
    example_of = dict(zip(distinct_rows, dataset.__getitems__(distinct_rows), strict=True))
    return [
        {
            name: value if isinstance(value, str | int | float) else deepcopy(value)
            for name, value in example_of[row].items()
        }
        for row in rows
    ]
