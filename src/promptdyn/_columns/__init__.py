"""Columns of a history on their way in: their names, checks of rows, rows that repeat. Knows no file format."""

from promptdyn._columns.names import (
    INTEGERS,
    MAX_ROLLOUTS,
    NO_LABEL,
    OWN,
    REQUIRED,
    REWARDS,
    check_lengths,
    no_rows,
    renamed,
)
from promptdyn._columns.repeats import Repeated, without_repeats
from promptdyn._columns.rows import Fault, Rows, as_error, nothing_read, num_rows, tell_skipped
from promptdyn._columns.tables import as_columns, from_arrow
from promptdyn._columns.values import as_array, is_missing, is_whole, short

__all__ = [
    "INTEGERS",
    "MAX_ROLLOUTS",
    "NO_LABEL",
    "OWN",
    "REQUIRED",
    "REWARDS",
    "Fault",
    "Repeated",
    "Rows",
    "as_array",
    "as_columns",
    "as_error",
    "check_lengths",
    "from_arrow",
    "is_missing",
    "is_whole",
    "no_rows",
    "nothing_read",
    "num_rows",
    "renamed",
    "short",
    "tell_skipped",
    "without_repeats",
]
