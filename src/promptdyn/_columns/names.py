"""The columns of a history, by name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from numpy.typing import NDArray

from promptdyn.errors import InputError

# A history's own columns; every other one is a label column.
INTEGERS = ("step", "num_successes", "num_rollouts")


REWARDS = ("reward_mean", "reward_std")


REQUIRED = ("step", "prompt_id", "num_successes", "num_rollouts")


OWN = (*REQUIRED, "trained", *REWARDS)


# The level of prompts whose label is missing.
NO_LABEL = "(none)"


# Of a group; a number beyond is a slip, and models that sum over outcomes would run without end.
MAX_ROLLOUTS = 1_000_000


# pandas writes the row numbers of a frame under these names.
ROW_NUMBERS = re.compile(r"|Unnamed: \d+|__index_level_\d+__")


def renamed(
    source: str,
    names: list[str],
    columns: Mapping[str, str] | None = None,
    drop: Sequence[str] = (),
    label_columns: Sequence[str] | None = None,
) -> dict[str, str]:
    """What a source's columns are to be called -> what it calls them, less what nobody wants.

    Args:
        source: what errors call it.
        names: of its columns.
        columns: what some are to be called -> what it calls them; a column whose name another one takes is left out.
        drop: columns to leave out, by the source's names.
        label_columns: those to keep beside a history's own, by their new names. Default: all but row numbers.

    Raises:
        InputError: a name that repeats, or one that is asked for or needed and not there.
    """
    columns, there = columns or {}, ", ".join(map(str, names)) or "none"
    for name in drop:
        if name not in names:
            raise InputError(f"{source}: no column {name!r}, to be dropped, among {there}")
    names = [name for name in names if name not in drop]
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise InputError(f"{source}: {names.count(repeated[0])} columns {repeated[0]!r}: keep one")
    for name, called in columns.items():
        if called not in names:
            raise InputError(f"{source}: no column {called!r}, to be read as {name!r}, among {there}")
    kept = {name: name for name in names if name not in columns and name not in columns.values()}
    chosen = {**columns, **kept}
    missing = [name for name in REQUIRED if name not in chosen]
    if missing:
        raise InputError(
            f"{source}: no column {', '.join(map(repr, missing))} among {there}: name the columns "
            f"{', '.join(REQUIRED)}, or say which they are (columns, as in {missing[0]}=NAME)"
        )
    if label_columns is None:
        return {name: called for name, called in chosen.items() if not ROW_NUMBERS.fullmatch(str(name))}
    for name in label_columns:
        if name not in chosen or name in OWN:
            raise InputError(f"{source}: no column {name!r} of labels (label_columns) among {there}")
    return {name: called for name, called in chosen.items() if name in OWN or name in label_columns}


def check_lengths(source: str, columns: Mapping[str, NDArray]) -> None:
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
    return InputError(f"{source}: the history has no rows: give at least one rolled-out prompt")
