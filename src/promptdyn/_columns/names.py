"""Names of a history's columns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from numpy.typing import NDArray

from promptdyn.errors import InputError

# A history's own columns. Every other column holds labels.
INTEGERS = ("step", "num_successes", "num_rollouts")
REWARDS = ("reward_mean", "reward_std")
REQUIRED = ("step", "prompt_id", "num_successes", "num_rollouts")
OWN = (*REQUIRED, "trained", *REWARDS)
# The level of prompts whose label is missing.
NO_LABEL = "(none)"
# Most rollouts in a group. A larger number is a mistake, and models that sum over outcomes would run without end.
MAX_ROLLOUTS = 1_000_000
# pandas writes the row numbers of a frame under these names.
ROW_NUMBERS = re.compile(r"|Unnamed: \d+|__index_level_\d+__")


def rename_columns(
    source: str,
    names: list[str],
    columns: Mapping[str, str] | None = None,
    drop: Sequence[str] = (),
    label_columns: Sequence[str] | None = None,
) -> dict[str, str]:
    """Return the columns to keep of a source: new name -> the source's name.

    Args:
        source: name of the source in errors.
        names: the source's names of all its columns.
        columns: new name -> the source's name, of columns to rename. A column whose name a renamed one takes is left
            out.
        drop: columns to leave out, by the source's names.
        label_columns: columns to keep beside a history's own, by their new names. Default: all but row numbers.

    Raises:
        InputError: a name that repeats, or a column that is asked for or required and missing.
    """
    columns, available = columns or {}, ", ".join(map(str, names)) or "none"
    for name in drop:
        if name not in names:
            raise InputError(f"{source}: no column {name!r}, to be dropped, among {available}")
    names = [name for name in names if name not in drop]
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise InputError(f"{source}: {names.count(repeated[0])} columns {repeated[0]!r}: keep one")
    for name, source_name in columns.items():
        if source_name not in names:
            raise InputError(f"{source}: no column {source_name!r}, to be read as {name!r}, among {available}")
    same_name = {name: name for name in names if name not in columns and name not in columns.values()}
    source_names = {**columns, **same_name}
    missing = [name for name in REQUIRED if name not in source_names]
    if missing:
        raise InputError(
            f"{source}: no column {', '.join(map(repr, missing))} among {available}: name the columns "
            f"{', '.join(REQUIRED)}, or say which they are (columns, as in {missing[0]}=NAME)"
        )
    if label_columns is None:
        return {name: source_name for name, source_name in source_names.items() if not ROW_NUMBERS.fullmatch(str(name))}
    for name in label_columns:
        if name not in source_names or name in OWN:
            raise InputError(f"{source}: no column {name!r} of labels (label_columns) among {available}")
    return {name: source_name for name, source_name in source_names.items() if name in OWN or name in label_columns}


def check_lengths(source: str, columns: Mapping[str, NDArray]) -> None:
    """Raise InputError unless columns have one axis, equal lengths, and at least one row."""
    for name, values in columns.items():
        if values.ndim != 1:
            raise InputError(f"{source}: column {name!r} has shape {values.shape}: give one value a row")
        if len(values) != len(columns["step"]):
            raise InputError(
                f"{source}: column {name!r} has {len(values)} values and 'step' has {len(columns['step'])}: "
                "give columns of equal length"
            )
    if len(columns["step"]) == 0:
        raise no_rows(source)


def no_rows(source: str) -> InputError:
    """Return the error about a source without rows."""
    return InputError(f"{source}: the history has no rows: give at least one rolled-out prompt")
