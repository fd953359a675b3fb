"""Read and write the Parquet file of a history, and read the columns of other Parquet files."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from promptdyn._columns import from_arrow, rename_columns
from promptdyn.errors import InputError, PromptdynWarning
from promptdyn.storage import atomic

__all__ = ["POOL_SIZE_KEY", "SUCCESS_KEY", "columns_to_read", "read_parquet", "write_parquet"]

VERSION = 2  # 2: reward_mean, reward_std
VERSION_KEY = b"promptdyn.history.version"
SUCCESS_KEY = b"promptdyn.history.success"
POOL_SIZE_KEY = b"promptdyn.history.pool_size"


def read_parquet(
    path: str | Path, choose: Callable[[list[str], set[str]], Collection[str]] | None = None
) -> tuple[list[str], dict[str, NDArray], dict[bytes, str]]:
    """Read a Parquet file: the names of all its columns, the columns read by name, and the file's metadata.

    Args:
        path: the file.
        choose: function of (names of all columns, names of those that hold lists or structs) that returns the columns
            to read. Default: all.

    Raises:
        InputError: as in `RewardHistory.from_parquet`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not Path(path).is_file():
        raise InputError(f"{path}: no such file: give a history's Parquet file")
    try:
        with pq.ParquetFile(path) as file:
            schema, metadata = file.schema_arrow, file.metadata.metadata or {}
        _check_version(path, metadata)
        names = schema.names
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"{path}: {names.count(name)} columns {name!r}: keep one")
        nested = {name for name, kind in zip(names, schema.types, strict=True) if pa.types.is_nested(kind)}
        read = list(names if choose is None else choose(names, nested))
        kinds = {name: schema.field(name).type for name in read}
        # As a dictionary column, each distinct text is decoded only once.
        texts = [name for name in read if pa.types.is_string(kinds[name]) or pa.types.is_large_string(kinds[name])]
        with pq.ParquetFile(path, read_dictionary=texts) as file:
            table = file.read(columns=read)
        values = {name: from_arrow(table[name]) for name in read}
    except (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a Parquet file, or damaged ({reason}): write it again") from None
    return names, values, {key: value.decode(errors="replace") for key, value in metadata.items()}


def columns_to_read(
    source: str,
    names: list[str],
    nested: set[str],
    columns: Mapping[str, str] | None = None,
    drop: Sequence[str] = (),
    label_columns: Sequence[str] | None = None,
) -> list[str]:
    """Return the names of a table's columns that `RewardHistory.from_table` uses.

    Columns of lists or structs (`nested`) hold no labels and are left out, unless they are asked for by name.

    Warns:
        PromptdynWarning: such columns were left out.

    Raises:
        InputError: a column is missing.
    """
    read = list(rename_columns(source, names, columns, drop, label_columns).values())
    left_out = [name for name in read if name in nested and name not in (columns or {}).values()]
    if not left_out or label_columns is not None:
        return read
    message = f"{source}: left out {', '.join(map(repr, left_out))}: lists and structs are no labels"
    warnings.warn(message, PromptdynWarning, stacklevel=4)
    return [name for name in read if name not in left_out]


def write_parquet(
    path: str | Path, columns: Mapping[str, NDArray], prompt: NDArray[np.int32], metadata: Mapping[bytes, str]
) -> None:
    """Write a history's columns and metadata. The file appears whole or not at all, and replaces an existing one.

    Args:
        path: the file.
        columns: name -> (row,) numbers, or an array of objects: (prompt,) texts.
        prompt: (row,) index of the row's prompt.
        metadata: what else to say of the history.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    def as_arrow(values: NDArray) -> pa.Array:
        if values.dtype != object:
            return pa.array(values, from_pandas=True)
        # A dictionary column stores each text once.
        return pa.DictionaryArray.from_arrays(pa.array(prompt), pa.array(values, pa.large_string()))

    table = pa.table({name: as_arrow(values) for name, values in columns.items()})
    # Without Arrow's own schema in the file, other readers see plain strings.
    options = {"compression": "zstd", "store_schema": False}
    with atomic(path) as part, pq.ParquetWriter(part, table.schema, **options) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({VERSION_KEY: str(VERSION), **metadata})


def _check_version(path: str | Path, metadata: Mapping[bytes, bytes]) -> None:
    try:
        version = int(metadata.get(VERSION_KEY, b"0"))
    except ValueError:
        raise InputError(f"{path}: of format {metadata[VERSION_KEY]!r}, which is no number: write it again") from None
    if version > VERSION:
        raise InputError(
            f"{path}: history format {version} is newer than the {VERSION} that this promptdyn reads: upgrade promptdyn"
        )
