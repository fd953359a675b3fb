"""Read the values of a dataset's rows beneath its format: the same whether it gives lists, arrays or tensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from datasets import Dataset
from datasets.table import embed_array_storage

from promptdyn.errors import InputError

__all__ = ["content_ids", "values"]

# Rows in memory at a time: each may hold a picture.
BATCH = 100


def values(dataset: Dataset, column: str) -> list[Any]:
    """Return the (row,) values of a column as Python objects, with nothing decoded; None for a missing value."""
    column_values: list[Any] = dataset.select_columns([column]).with_format("arrow")[:][column].to_pylist()
    return column_values


def content_ids(dataset: Dataset, columns: Sequence[str], rows: Sequence[int] | None = None) -> list[str]:
    """Hash what each row holds in some columns. The hashes are the same in every process and every run.

    Arrays are hashed with every number in full precision. Pictures, sounds and other files are hashed by their bytes,
    whatever their path; a file whose bytes are not in the dataset is read from disk.

    Args:
        dataset: of any format.
        columns: columns whose values are hashed; names are hashed too when there is more than one column.
        rows: rows to hash; default all.

    Returns:
        (row,) hashes of 16 hexadecimal digits.

    Raises:
        InputError: a file cannot be read.
    """
    selected = dataset.select_columns(list(columns))
    if rows is not None:
        selected = selected.select(rows)
    return [_hash(row[columns[0]] if len(columns) == 1 else row) for row in _contents(selected)]


def _contents(dataset: Dataset) -> Iterator[dict[str, Any]]:
    """Yield each row with the bytes of its files."""
    for chunked in dataset.with_format("arrow").iter(BATCH):
        table = chunked.combine_chunks()  # in a shuffled dataset each row is a chunk
        columns: dict[str, list[Any]] = {}
        for name in dataset.column_names:
            try:
                columns[name] = embed_array_storage(table[name], dataset.features[name]).to_pylist()
            except OSError as error:
                raise InputError(f"a file in column {name!r} of the dataset cannot be read: {error}") from None
        for row in zip(*columns.values(), strict=True):
            yield dict(zip(columns, row, strict=True))


def _hash(content: Any) -> str:
    text = json.dumps(_without_paths(content), sort_keys=True, default=_as_text)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _without_paths(content: Any) -> Any:
    """Replace each file by its bytes, without its path."""
    if isinstance(content, dict):
        if content.keys() == {"bytes", "path"} and content["bytes"] is not None:
            return content["bytes"]
        return {name: _without_paths(value) for name, value in content.items()}
    if isinstance(content, list) and content and not isinstance(content[0], str | int | float):
        return [_without_paths(value) for value in content]
    return content


def _as_text(value: Any) -> str:
    """Write what JSON does not know, such as bytes, dates and decimal numbers."""
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else str(value)
