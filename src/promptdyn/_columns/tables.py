"""Read tables of the usual kinds as columns by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from promptdyn._columns.values import as_array
from promptdyn.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa


def as_columns(source: str, table: Any) -> Mapping[str, Any]:
    """Return the columns of a table of any usual kind, by name.

    Raises:
        InputError: `table` is no table.
    """
    if isinstance(table, Mapping):
        return table
    if hasattr(table, "iloc"):  # pandas
        index = [name for name in table.index.names if name is not None and name not in table.columns]
        framed: Mapping[str, Any] = table.reset_index(index) if index else table
        return framed
    if hasattr(table, "with_format") and hasattr(table, "num_rows"):  # datasets.Dataset
        table = table.with_format("arrow")[:]  # the dataset may be a selection of its table's rows
    if hasattr(table, "__arrow_c_stream__"):  # pyarrow, polars, duckdb, ...
        import pyarrow as pa

        return _ArrowColumns(table if isinstance(table, pa.Table) else pa.table(table))
    raise InputError(
        f"{source}: a {type(table).__name__} is no table: give a dict of columns, a data frame, a pyarrow.Table or a "
        "datasets.Dataset; rows as dicts go to from_records"
    )


class _ArrowColumns(Mapping[str, NDArray]):
    """Columns of a `pyarrow.Table`, each turned into an array when it is asked for."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    def __getitem__(self, name: str) -> NDArray:
        return from_arrow(self.table[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.table.column_names)

    def __len__(self) -> int:
        return int(self.table.num_columns)


def from_arrow(column: pa.ChunkedArray) -> NDArray:
    """Return a column's (row,) values."""
    import pyarrow as pa

    # For nulls of a dictionary column pyarrow's to_numpy returns the dictionary's last word.
    if (pa.types.is_dictionary(column.type) and column.null_count) or pa.types.is_nested(column.type):
        return as_array(column.to_pylist())
    values: NDArray = column.to_numpy()
    return values
