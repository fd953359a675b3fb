"""What a dataset's rows hold, read beneath its format: the same values whether it gives lists, arrays or tensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from datasets import Dataset
from datasets.table import embed_array_storage

from promptdyn.errors import InputError

__all__ = ["content_ids", "values"]

# Rows in memory at a time; a picture of each may be there.
BATCH = 100


def values(dataset: Dataset, column: str) -> list[Any]:
    """(row,) values of a column as Python's own, with nothing decoded; None where there is none."""
    found: list[Any] = dataset.select_columns([column]).with_format("arrow")[:][column].to_pylist()
    return found


def content_ids(dataset: Dataset, columns: Sequence[str], rows: Sequence[int] | None = None) -> list[str]:
    """A hash of what each row holds in some columns, the same in every process and every run.

    Arrays count with every number in full precision, pictures, sounds and other files with their bytes, wherever they
    lie; a file that has no bytes there is read.

    Args:
        dataset: of any format.
        columns: whose values count. The hash of one column is that of its value, that of several has their names too.
        rows: which; default all.

    Returns:
        (row,) 16 hexadecimal digits each.

    Raises:
        InputError: a file that cannot be read.
    """
    chosen = dataset.select_columns(list(columns))
    if rows is not None:
        chosen = chosen.select(rows)
    return [_hash(row[columns[0]] if len(columns) == 1 else row) for row in _contents(chosen)]


def _contents(dataset: Dataset) -> Iterator[dict[str, Any]]:
    """Each row, with its files' bytes."""
    for chunked in dataset.with_format("arrow").iter(BATCH):
        table = chunked.combine_chunks()  # of a shuffled dataset each row is one
        read: dict[str, list[Any]] = {}
        for name in dataset.column_names:
            try:
                read[name] = embed_array_storage(table[name], dataset.features[name]).to_pylist()
            except OSError as error:
                raise InputError(f"a file in column {name!r} of the dataset cannot be read: {error}") from None
        for row in zip(*read.values(), strict=True):
            yield dict(zip(read, row, strict=True))


def _hash(content: Any) -> str:
    text = json.dumps(_without_paths(content), sort_keys=True, default=_as_text)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _without_paths(content: Any) -> Any:
    """Content in which a file is its bytes, whatever it is called."""
    if isinstance(content, dict):
        if content.keys() == {"bytes", "path"} and content["bytes"] is not None:
            return content["bytes"]
        return {name: _without_paths(value) for name, value in content.items()}
    if isinstance(content, list) and content and not isinstance(content[0], str | int | float):
        return [_without_paths(value) for value in content]
    return content


def _as_text(value: Any) -> str:
    """What JSON does not know: bytes, dates, decimal numbers."""
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else str(value)
