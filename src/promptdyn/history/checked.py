"""Check the columns of a history."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict, get_args

import numpy as np
from numpy.typing import NDArray

from promptdyn._columns import (
    MAX_ROLLOUTS,
    REWARDS,
    Fault,
    Repeated,
    Rows,
    check_lengths,
    error_for,
    error_for_no_rows,
    num_rows,
    warn_skipped,
    without_repeats,
)
from promptdyn.errors import PromptdynWarning, check_choice

__all__ = ["TableOptions", "check_columns"]


class TableOptions(TypedDict, total=False):
    """How the columns of a table are read, see `RewardHistory.from_table`."""

    row_name: Callable[[int], str] | None
    columns: Mapping[str, str] | None
    drop: Sequence[str]
    label_columns: Sequence[str] | None
    repeated: Repeated
    skip_bad: bool
    faults: Sequence[Fault]


def check_columns(
    own: Mapping[str, NDArray],
    labels: Mapping[str, NDArray],
    source: str,
    row_name: Callable[[int], str] | None,
    repeated: Repeated,
    skip_bad: bool,
    keep_all_labels: bool = True,
    faults: Sequence[Fault] = (),
) -> dict[str, Any]:
    """Check a history's `own` columns, and columns of labels, of which some may not fit.

    Args:
        own: (row,) columns step, prompt_id, num_successes, num_rollouts, and perhaps trained, reward_mean, reward_std.
        labels: name -> (row,) labels.
        source, row_name, repeated, skip_bad: see `RewardHistory.from_columns`.
        keep_all_labels: True raises where a column's labels differ within a prompt; False leaves the column out.
        faults: lines that a reader could not read as rows.

    Returns:
        The attributes of the `RewardHistory` by name.

    Raises:
        InputError: see `RewardHistory.from_columns`.
    """
    check_choice("repeated", repeated, get_args(Repeated))
    if faults and len(own["step"]) == 0:
        raise error_for_no_rows(source, faults)
    check_lengths(source, {**own, **labels})
    rows = Rows(row_name or (lambda row: f"{source} row {row}"), own["prompt_id"], own["step"])
    steps = rows.integers("step", own["step"], least=0)
    n = rows.integers("num_rollouts", own["num_rollouts"], least=1, most=MAX_ROLLOUTS)
    k = rows.integers("num_successes", own["num_successes"], least=0)
    rows.note(
        np.flatnonzero(rows.good & (k > n)),
        lambda row: f"num_successes={k[row]} exceeds num_rollouts={n[row]}",
        "count the successes among the rollouts",
    )
    trained = rows.booleans("trained", own["trained"]) if "trained" in own else np.ones(len(n), bool)
    typed: dict[str, NDArray] = {"step": steps, "num_successes": k, "num_rollouts": n, "trained": trained}
    for name, least in (("reward_mean", -np.inf), ("reward_std", 0.0)):
        if name in own:
            typed[name] = rows.numbers(name, own[name], least=least)

    order = np.argsort(steps, kind="stable")
    order = rows.order = order if rows.good.all() else order[rows.good[order]]
    typed = {name: values[order] for name, values in typed.items()}
    typed["prompt"], prompt_ids = rows.labels("prompt_id", own["prompt_id"])
    if repeated == "error":
        rows.note_repeats(typed["prompt"], typed["step"], np.stack([k[order], n[order]], axis=1))
    columns: dict[str, NDArray[np.object_]] = {}
    left_out: list[str] = []
    for name, values in labels.items():
        checked = rows if keep_all_labels else rows.trial()
        columns[name] = checked.labels_of_prompts(name, values, typed["prompt"])
        if not keep_all_labels and checked.faults:
            why = f" ({checked.faults[0].first_row}: {checked.faults[0].problem})" if not left_out else ""
            left_out.append(f"{name!r}{why}")
            del columns[name]

    bad = int((~rows.good).sum())
    all_faults, num_bad, total = [*faults, *rows.faults], num_rows(faults) + bad, num_rows(faults) + len(n)
    if all_faults:
        if not skip_bad or num_bad == total:
            raise error_for(source, all_faults, num_bad, total)
        warn_skipped(source, all_faults, num_bad, total)
    if bad:
        good = np.flatnonzero(rows.good)
        own, labels = ({name: values[good] for name, values in part.items()} for part in (own, labels))
        return check_columns(
            own, labels, source, lambda row: rows.row_name(int(good[row])), repeated, skip_bad, keep_all_labels
        )
    if left_out:
        warnings.warn(
            f"{source}: left out {', '.join(left_out)}: labels are the same in all rows of a prompt; drop such "
            "columns, or name those to keep (label_columns)",
            PromptdynWarning,
            stacklevel=3,
        )
    if repeated != "error":
        typed = without_repeats(source, typed, repeated)
    rewards: dict[str, Any] = {
        name: typed[name] for name in REWARDS if name in typed and not np.isnan(typed[name]).all()
    }
    return {
        "prompt_ids": prompt_ids,
        **{name: typed[name] for name in ("prompt", "step", "num_successes", "num_rollouts", "trained")},
        "columns": columns,
        **rewards,
    }
