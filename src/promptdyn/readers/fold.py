"""Fold single rollouts into a history, once a reader knows their columns."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from promptdyn._columns import Fault, Rows, error_for, error_for_no_rows, num_rows, warn_skipped
from promptdyn.errors import InputError
from promptdyn.history import RewardHistory
from promptdyn.success import Grader, Rewards, moments

__all__ = ["Rollouts", "as_key", "check_rollouts", "fold", "weights_of"]


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rollouts:
    """Checked rollouts, sorted by step; within a step they keep the source's order."""

    source: str
    step: NDArray[np.int32]  # (rollout,)
    prompt: NDArray[np.int32]  # (rollout,) index into prompt_ids
    prompt_ids: NDArray[np.object_]  # (prompt,)
    rewards: Rewards
    trained: NDArray[np.bool_]  # (rollout,) whether the trainer learned from its group
    labels: Mapping[str, NDArray[np.object_]]  # label column -> (prompt,)
    row: NDArray[np.intp]  # (rollout,) row number in the source
    row_name: Callable[[int], str]  # name of a row in errors, from its number

    def select(self, mask: NDArray[np.bool_]) -> Rollouts:
        """Return the rollouts where a (rollout,) mask is true."""
        return replace(
            self,
            step=self.step[mask],
            prompt=self.prompt[mask],
            rewards=self.rewards._replace(values=self.rewards.values[mask]),
            trained=self.trained[mask],
            row=self.row[mask],
        )

    def blocks(self, key: NDArray | None = None) -> Iterator[slice]:
        """Yield slices of consecutive rollouts with one step, and one value of a (rollout,) key if it is given."""
        changed = np.diff(self.step, prepend=-1) != 0
        if key is not None:
            changed |= np.append(True, key[1:] != key[:-1])
        begins = np.flatnonzero(changed)
        return map(slice, begins, np.append(begins[1:], len(self.step)))


def as_key(value: Any) -> Any:
    """Return what identifies a prompt, messages as their JSON text, with sorted keys and without nulls."""
    if isinstance(value, list | dict):
        return json.dumps(_without_nulls(value), sort_keys=True, ensure_ascii=False, default=str)
    return value


def _without_nulls(value: Any) -> Any:
    # Parquet adds to every message the keys of all other messages in the file, with nulls.
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def weights_of(
    source: str, functions: Sequence[str], weights_given: float | Sequence[float] | None
) -> NDArray[np.float64]:
    """Return (function,) weights of reward functions in the folded reward; 1 each by default.

    Raises:
        InputError: the weights are not one finite number for each function.
    """
    try:
        weights = (
            np.ones(len(functions)) if weights_given is None else np.atleast_1d(np.array(weights_given, np.float64))
        )
    except (TypeError, ValueError):
        weights = np.zeros(0)
    if weights.shape != (len(functions),) or not np.isfinite(weights).all():
        raise InputError(
            f"{source}: reward_weights {weights_given} for the rewards {', '.join(functions)}: give a number for each, "
            "in this order"
        )
    return weights


def check_rollouts(
    source: str,
    step: NDArray,
    key: Iterable[Any],
    rewards: Mapping[str, NDArray],
    weights: NDArray[np.float64],
    labels: Mapping[str, NDArray],
    row_name: Callable[[int], str],
    key_name: str = "prompt_id",
    key_mend: str = "",
    skip_bad: bool = False,
    faults: Sequence[Fault] = (),
    trained: NDArray[np.bool_] | None = None,
) -> Rollouts:
    """Check the columns of rollouts.

    Args:
        source: name of the whole in errors.
        step: (rollout,) training steps.
        key: (rollout,) identifiers of prompts, see `as_key`.
        rewards: reward function -> (rollout,) rewards; NaN, or a missing value, for none.
        weights: (function,) weights in the folded reward.
        labels: label column -> (rollout,) labels.
        row_name: function that gives the name of a rollout in errors, from its number (counted from 0).
        key_name, key_mend: name of the key in errors, and the mend if it is missing.
        skip_bad: leave out bad rollouts, with a warning, instead of raising.
        faults: lines that could not be read as rollouts.
        trained: (rollout,) whether the trainer learned from the rollout's group; default True.

    Raises:
        InputError: no rollouts; a bad step, a prompt without a key, a reward that is no number, a prompt with different
            labels. One error tells every kind of fault, how many rollouts have it, and where the first stands.
    """
    keys = np.fromiter(map(as_key, key), object)
    if len(keys) == 0:
        raise error_for_no_rows(source, faults)
    rows = Rows(row_name, keys, step)
    steps = rows.integers("step", step, least=0)
    values = np.stack([_as_floats(rows, name, column) for name, column in rewards.items()], axis=1)
    order = np.argsort(steps, kind="stable")
    order = rows.order = order[rows.good[order]]
    prompt, prompt_ids = rows.labels(key_name, keys, mend=key_mend)
    labels_of_prompts = {name: rows.labels_of_prompts(name, values, prompt) for name, values in labels.items()}
    all_faults, bad = [*faults, *rows.faults], num_rows(faults) + int((~rows.good).sum())
    if all_faults:
        total = num_rows(faults) + len(keys)
        if not skip_bad or bad == total:
            raise error_for(source, all_faults, bad, total)
        warn_skipped(source, all_faults, bad, total)
    good = rows.good[order]
    return Rollouts(
        source=source,
        step=steps[order][good],
        prompt=prompt[good],
        prompt_ids=prompt_ids,
        rewards=Rewards(tuple(rewards), weights, values[order[good]]),
        trained=np.ones(int(good.sum()), bool) if trained is None else trained[order[good]],
        labels=labels_of_prompts,
        row=order[good],
        row_name=row_name,
    )


def _as_floats(rows: Rows, name: str, values: NDArray) -> NDArray[np.float64]:
    if values.dtype.kind == "f":
        return values.astype(np.float64)
    if values.dtype.kind == "O":
        values = np.fromiter((int(v) if isinstance(v, bool) else v for v in values), object, len(values))
    return rows.numbers(name, values + 0 if values.dtype.kind == "b" else values, dtype=np.float64).astype(np.float64)


def fold(rollouts: Rollouts, grader: Grader) -> RewardHistory:
    """Fold rollouts into one row per step and prompt, in the order of their first rollouts.

    A rollout without a grade does not count, and a group without any grade has no row. A row is `trained` if one of its
    rollouts is: a step may have several groups of a prompt. If the rule of success had to be
    found, a log line tells it.

    Raises:
        InputError: the rule names an unknown reward function; no rollout has a grade.
    """
    try:
        grader.check(rollouts.rewards.functions)
    except InputError as error:
        raise InputError(f"{rollouts.source}: {error}") from None
    by_step = [rollouts.rewards._replace(values=rollouts.rewards.values[block]) for block in rollouts.blocks()]
    for rewards in by_step:
        grader.see(rewards)
    grader.settle()
    if grader.notice:
        logger.warning("%s: %s", rollouts.source, grader.notice)
    grades = np.concatenate([grader.grades(rewards) for rewards in by_step])
    scored = ~np.isnan(grades)
    pairs = rollouts.step.astype(np.int64) * len(rollouts.prompt_ids) + rollouts.prompt
    _, first, group = np.unique(pairs, return_index=True, return_inverse=True)
    num_rollouts = np.bincount(group[scored], minlength=len(first))
    num_successes = np.bincount(group[grades == 1], minlength=len(first))
    rows = np.argsort(first)
    rows = rows[num_rollouts[rows] > 0]
    mean, std = moments(rollouts.rewards.folded, group, len(first))
    prompt = rollouts.prompt[first][rows]
    return RewardHistory.from_columns(
        step=rollouts.step[first][rows],
        prompt_id=rollouts.prompt_ids[prompt],
        num_successes=num_successes[rows],
        num_rollouts=num_rollouts[rows],
        trained=(np.bincount(group[rollouts.trained], minlength=len(first)) > 0)[rows],
        columns={name: labels[prompt] for name, labels in rollouts.labels.items()},
        source=rollouts.source,
        row_name=lambda row: rollouts.row_name(int(rollouts.row[first[rows][row]])),
        success=str(grader.rule),
        reward_mean=mean[rows],
        reward_std=std[rows],
    )
