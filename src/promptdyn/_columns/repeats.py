"""Find several rows of one prompt and step, and merge them, drop all but one, or set them apart."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from promptdyn._columns.names import MAX_ROLLOUTS
from promptdyn.errors import InputError, PromptdynWarning

Repeated = Literal["error", "merge", "last", "apart"]
"""What to do with several rows of one prompt and step: refuse them, add them up, keep the last, or make each a step."""


def first_of_each(prompt: NDArray[np.int32], step: NDArray[np.int32]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return for each row the (row,) first row of the same prompt and step, and how many such rows come before it."""
    key = step.astype(np.int64) * (int(prompt.max(initial=0)) + 1) + prompt
    by_key = np.argsort(key, kind="stable")
    begins = np.flatnonzero(np.diff(key[by_key], prepend=-1))
    if len(begins) == len(key):  # no row repeats
        return np.arange(len(key)), np.zeros(len(key), np.intp)
    sizes = np.diff(np.append(begins, len(key)))
    first, earlier = np.empty((2, len(key)), np.intp)
    first[by_key] = np.repeat(by_key[begins], sizes)
    earlier[by_key] = np.arange(len(key)) - np.repeat(begins, sizes)
    return first, earlier


def without_repeats(source: str, columns: Mapping[str, NDArray], repeated: Repeated) -> dict[str, NDArray]:
    """Return columns in which no prompt has two rows of a step, from columns that are sorted by step.

    Args:
        source: name of the source in the warning.
        columns: column name -> (row,) values.
        repeated: what to do with several rows of one prompt and step, but "error".

    Warns:
        PromptdynWarning: rows repeat; the warning tells how many, and what was done with them.
    """
    step = columns["step"]
    first, earlier = first_of_each(columns["prompt"], step)
    kept_rows, group = np.unique(first, return_inverse=True)
    repeats = len(step) - len(kept_rows)
    if not repeats:
        return dict(columns)
    if repeated == "apart":
        result, added = _apart(source, columns, earlier)
        action = f"made steps of their own for them ({added:,} more), and gave later ones new numbers where needed"
    elif repeated == "last":
        last = np.empty(len(kept_rows), np.intp)
        last[group] = np.arange(len(step))  # of equal groups the last assignment stays
        result, action = {name: values[last] for name, values in columns.items()}, "kept the last of each"
    else:
        result, action = _merged(source, columns, kept_rows, group), "added their rollouts and successes up"
    message = f"{source}: {repeats:,} of {len(step):,} rows repeat the prompt and step of a row before them: {action}"
    warnings.warn(message, PromptdynWarning, stacklevel=4)
    return result


def _apart(source: str, columns: Mapping[str, NDArray], earlier: NDArray[np.intp]) -> tuple[dict[str, NDArray], int]:
    """Return columns in which a prompt's second, third, ... rows of a step form new steps, and how many these are."""
    step = columns["step"]
    rows = np.lexsort((earlier, step))
    begins = (np.diff(step[rows], prepend=-1) != 0) | (np.diff(earlier[rows], prepend=-1) != 0)
    # A step keeps its number, or takes the next free one if earlier steps have used its own.
    number_before, rank = step[rows][begins].astype(np.int64), np.arange(begins.sum())
    number = np.maximum.accumulate(number_before - rank) + rank
    if number[-1] > np.iinfo(np.int32).max:
        raise InputError(f"{source}: no numbers are left for steps of repeated rows: merge them, or keep the last")
    apart = {name: values[rows] for name, values in columns.items()}
    apart["step"] = number[np.cumsum(begins) - 1].astype(np.int32)
    return apart, len(number) - len(np.unique(number_before))


def _merged(
    source: str, columns: Mapping[str, NDArray], kept_rows: NDArray[np.intp], group: NDArray[np.intp]
) -> dict[str, NDArray]:
    """Return columns with one row for each row in `kept_rows`, which adds up all rows of its `group`."""

    def total(values: NDArray) -> NDArray[np.float64]:
        return np.bincount(group, values.astype(np.float64), len(kept_rows)).astype(np.float64)

    merged = {name: values[kept_rows] for name, values in columns.items()}
    n = columns["num_rollouts"].astype(np.float64)
    for row in kept_rows[total(n) > MAX_ROLLOUTS][:1]:
        raise InputError(
            f"{source}: rows of step {columns['step'][row]} add up to more than {MAX_ROLLOUTS:,} rollouts of a prompt: "
            "keep the last, or set them apart"
        )
    for name in ("num_successes", "num_rollouts"):
        merged[name] = total(columns[name]).astype(np.int32)
    merged["trained"] = total(columns["trained"]) > 0
    mean = columns.get("reward_mean", np.full(len(n), np.nan)).astype(np.float64)
    merged_mean = total(n * mean) / total(n)
    if "reward_mean" in columns:
        merged["reward_mean"] = merged_mean.astype(np.float32)
    if "reward_std" in columns:
        within = (n - 1) * columns["reward_std"].astype(np.float64) ** 2
        squares = total(within + n * (mean - merged_mean[group]) ** 2)
        merged["reward_std"] = np.sqrt(squares / np.maximum(total(n) - 1, 1)).astype(np.float32)
    return merged
