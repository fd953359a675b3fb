"""Check the columns of a new history: their names, the values of their rows, repeated rows. Knows no file format."""

from promptdyn._columns.names import (
    INTEGERS,
    MAX_ROLLOUTS,
    NO_LABEL,
    OWN,
    REQUIRED,
    REWARDS,
    check_lengths,
    no_rows,
    rename_columns,
)
from promptdyn._columns.repeats import Repeated, without_repeats
from promptdyn._columns.rows import Fault, Rows, error_for, error_for_no_rows, merge_faults, num_rows, warn_skipped
from promptdyn._columns.tables import as_columns, from_arrow
from promptdyn._columns.values import as_array, is_missing, is_whole, quote

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
    "check_lengths",
    "error_for",
    "error_for_no_rows",
    "from_arrow",
    "is_missing",
    "is_whole",
    "merge_faults",
    "no_rows",
    "num_rows",
    "quote",
    "rename_columns",
    "warn_skipped",
    "without_repeats",
]
