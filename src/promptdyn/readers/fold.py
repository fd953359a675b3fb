"""From single rollouts to a history: what every reader of rollouts does once it knows their columns."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from promptdyn._columns import Fault, Rows, as_error, nothing_read, num_rows, tell_skipped
from promptdyn.errors import InputError
from promptdyn.history import RewardHistory
from promptdyn.success import Grader, Rewards, moments

__all__ = ["Rollouts", "as_key", "checked", "count", "weights_of"]


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rollouts:
    """Rollouts that were checked, by step; within a step in the order of their source."""

    source: str
    step: NDArray[np.int32]  # (rollout,)
    prompt: NDArray[np.int32]  # (rollout,) index into prompt_ids
    prompt_ids: NDArray[np.object_]  # (prompt,)
    rewards: Rewards
    labels: Mapping[str, NDArray[np.object_]]  # label column -> (prompt,)
    row: NDArray[np.intp]  # (rollout,) its number in the source
    place: Callable[[int], str]  # what errors call a row of the source

    def select(self, mask: NDArray[np.bool_]) -> Rollouts:
        """The rollouts where a (rollout,) mask is true."""
        return replace(
            self,
            step=self.step[mask],
            prompt=self.prompt[mask],
            rewards=self.rewards._replace(values=self.rewards.values[mask]),
            row=self.row[mask],
        )

    def blocks(self, key: NDArray | None = None) -> Iterator[slice]:
        """Rollouts of one step, and of one of (rollout,) keys, as long as these stay the same."""
        changed = np.diff(self.step, prepend=-1) != 0
        if key is not None:
            changed |= np.append(True, key[1:] != key[:-1])
        begins = np.flatnonzero(changed)
        return map(slice, begins, np.append(begins[1:], len(self.step)))


def as_key(value: Any) -> Any:
    """What identifies a prompt as text: messages by their JSON, with sorted keys and without nulls."""
    if isinstance(value, list | dict):
        return json.dumps(_without_nulls(value), sort_keys=True, ensure_ascii=False, default=str)
    return value


def _without_nulls(value: Any) -> Any:
    # Parquet gives every message all the keys that any message of its file has.
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def weights_of(source: str, functions: Sequence[str], given: float | Sequence[float] | None) -> NDArray[np.float64]:
    """(function,) weights of reward functions in the folded reward: 1 each where none are given.

    Raises:
        InputError: not a finite number for each.
    """
    try:
        weights = np.ones(len(functions)) if given is None else np.atleast_1d(np.array(given, np.float64))
    except (TypeError, ValueError):
        weights = np.zeros(0)
    if weights.shape != (len(functions),) or not np.isfinite(weights).all():
        raise InputError(
            f"{source}: reward_weights {given} for the rewards {', '.join(functions)}: give a number for each, in this "
            "order"
        )
    return weights


def checked(
    source: str,
    step: NDArray,
    key: Iterable[Any],
    rewards: Mapping[str, NDArray],
    weights: NDArray[np.float64],
    labels: Mapping[str, NDArray],
    place: Callable[[int], str],
    key_name: str = "prompt_id",
    key_mend: str = "",
    skip_bad: bool = False,
    faults: Sequence[Fault] = (),
) -> Rollouts:
    """Check the columns of rollouts.

    Args:
        source: what errors call the whole.
        step: (rollout,)
        key: (rollout,) what identifies the prompt, see `as_key`.
        rewards: reward function -> (rollout,) what it gave; NaN, or a missing value, where it gave none.
        weights: (function,) of them in the folded reward.
        labels: label column -> (rollout,).
        place: what errors call a rollout, given its number from 0.
        key_name, key_mend: what errors call the key, and what they tell to do where it is missing.
        skip_bad: leave out rollouts that are wrong, with a warning, instead of raising.
        faults: what is wrong with lines that are no rollouts.

    Raises:
        InputError: no rollouts; a step that is none, a prompt without a key, a reward that is no number, labels of a
            prompt that differ. One error tells all kinds, how many there are, and where the first of each stands.
    """
    keys = np.fromiter(map(as_key, key), object)
    if len(keys) == 0:
        raise nothing_read(source, faults)
    rows = Rows(place, keys, step)
    steps = rows.integers("step", step, least=0)
    values = np.stack([_as_floats(rows, name, given) for name, given in rewards.items()], axis=1)
    order = np.argsort(steps, kind="stable")
    order = rows.order = order[rows.good[order]]
    prompt, prompt_ids = rows.labels(key_name, keys, mend=key_mend)
    of_prompts = {name: rows.labels_of_prompts(name, values, prompt) for name, values in labels.items()}
    found, bad = [*faults, *rows.faults], num_rows(faults) + int((~rows.good).sum())
    if found:
        total = num_rows(faults) + len(keys)
        if not skip_bad or bad == total:
            raise as_error(source, found, bad, total)
        tell_skipped(source, found, bad, total)
    kept = rows.good[order]
    return Rollouts(
        source=source,
        step=steps[order][kept],
        prompt=prompt[kept],
        prompt_ids=prompt_ids,
        rewards=Rewards(tuple(rewards), weights, values[order[kept]]),
        labels=of_prompts,
        row=order[kept],
        place=place,
    )


def _as_floats(rows: Rows, name: str, values: NDArray) -> NDArray[np.float64]:
    if values.dtype.kind == "f":
        return values.astype(np.float64)
    if values.dtype.kind == "O":
        values = np.fromiter((int(v) if isinstance(v, bool) else v for v in values), object, len(values))
    return rows.numbers(name, values + 0 if values.dtype.kind == "b" else values, dtype=np.float64).astype(np.float64)


def count(rollouts: Rollouts, grader: Grader) -> RewardHistory:
    """Fold rollouts into one row per step and prompt, in the order of their first rollouts.

    A rollout without a grade does not count, and a group without any has no row. A line is logged that says what a
    success is, where that had to be found.

    Raises:
        InputError: the rule names what is no reward function; no rollout has a grade.
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
        num_rollouts=num_rollouts[rows],
        num_successes=num_successes[rows],
        columns={name: labels[prompt] for name, labels in rollouts.labels.items()},
        source=rollouts.source,
        place=lambda row: rollouts.place(int(rollouts.row[first[rows][row]])),
        success=str(grader.rule),
        reward_mean=mean[rows],
        reward_std=std[rows],
    )
