"""Check the groups of one training step, count their successes by a rule, and pack them for a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, SupportsFloat

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError
from promptdyn.success import FOLDED, Grader, Rewards, moments

__all__ = ["GroupRewards", "Groups", "Observation", "StepRewards", "group_rewards", "packed", "rewards_of", "unpacked"]


class SupportsArray(Protocol):
    """A NumPy array or a torch tensor."""

    def __array__(self) -> Any: ...


GroupRewards = Sequence[SupportsFloat | None] | SupportsArray
"""(rollout,) rewards of one group; None and NaN are rollouts without a grade."""
StepRewards = Sequence[GroupRewards] | SupportsArray
"""(group, rollout) rewards of a step; groups may differ in size."""
NO_REWARDS = Rewards((), np.zeros(0), np.zeros((0, 0)))


class Observation(NamedTuple):
    """The counts that `Selector.observe` made of a step's rewards, for groups with at least one graded rollout.

    If the rule of success has just been found, or has changed, `earlier` has the observations of all earlier steps by
    the new rule.
    """

    prompt_ids: list[str]
    num_successes: NDArray[np.int64]  # (group,)
    num_rollouts: NDArray[np.int64]  # (group,) graded rollouts
    informative: NDArray[np.bool_]  # (group,) 0 < k < n
    trained: NDArray[np.bool_]  # (group,) whether the group feeds the gradient
    reward_mean: NDArray[np.float32]  # (group,) mean of the folded rewards
    reward_std: NDArray[np.float32]  # (group,) their standard deviation, of divisor n - 1 as TRL logs it
    step: int
    earlier: tuple[Observation, ...] = ()


class Groups(NamedTuple):
    """The groups of one step."""

    step: int
    prompt_ids: list[str]
    rewards: Rewards
    group: NDArray[np.intp]  # (rollout,) index of its group, ascending
    trained: NDArray[np.bool_]  # (group,) whether the group feeds the gradient

    @property
    def rolled_out(self) -> list[str]:
        """Ids of the groups that have a reward, graded or not."""
        rewarded = np.unique(self.group[~np.isnan(self.rewards.values).all(axis=1)])
        return [self.prompt_ids[i] for i in rewarded]

    def count_by(self, grader: Grader) -> Observation:
        """Count successes by the grader's rule."""
        grades = grader.grades(self.rewards)
        n = np.bincount(self.group[~np.isnan(grades)], minlength=len(self.prompt_ids))
        k = np.bincount(self.group[grades == 1], minlength=len(self.prompt_ids))
        graded = np.flatnonzero(n)
        n, k = n[graded], k[graded]
        ids = [self.prompt_ids[i] for i in graded]
        mean, std = moments(self.rewards.folded, self.group, len(self.prompt_ids))
        return Observation(
            prompt_ids=ids,
            num_successes=k,
            num_rollouts=n,
            informative=(k > 0) & (k < n),
            trained=self.trained[graded],
            reward_mean=mean[graded],
            reward_std=std[graded],
            step=self.step,
        )


def rewards_of(
    rewards: StepRewards | Mapping[str, StepRewards], prompt_ids: Sequence[str], weights: Sequence[float] | None = None
) -> tuple[Rewards, NDArray[np.intp]]:
    """Return the rewards of groups as one table, and the (rollout,) group of each row.

    Args:
        rewards: (group, rollout) rewards, or {reward function: (group, rollout) rewards}.
        prompt_ids: (group,) ids.
        weights: (function,) weights of the functions; default 1 each.

    Raises:
        InputError: not one row of numbers per prompt, functions with different numbers of rollouts, or not one finite
            weight per function.
    """
    by_function = rewards if isinstance(rewards, Mapping) else {FOLDED: rewards}
    if not len(prompt_ids):  # without functions, so that an empty step fits any others
        for rows in by_function.values():
            _flat(rows, prompt_ids)
        return NO_REWARDS, np.zeros(0, np.intp)
    functions = _functions(by_function)
    factors = np.ones(len(functions)) if weights is None else np.asarray(weights, np.float64)
    if factors.shape != (len(functions),) or not np.isfinite(factors).all():
        raise InputError(f"weights {weights} for the reward functions {', '.join(functions)}: give a number for each")
    columns: list[NDArray[np.float64]] = []
    sizes = np.zeros(0, np.int64)
    for name, rows in by_function.items():
        values, lengths = _flat(rows, prompt_ids)
        if columns and not np.array_equal(lengths, sizes):
            i = int(np.flatnonzero(lengths != sizes)[0])
            raise _uneven(prompt_ids[i], {str(name): lengths[i], functions[0]: sizes[i]})
        columns.append(values)
        sizes = lengths
    return Rewards(functions, factors, np.stack(columns, axis=1)), np.repeat(np.arange(len(prompt_ids)), sizes)


def group_rewards(rewards: GroupRewards | Mapping[str, GroupRewards], prompt_id: str) -> dict[str, NDArray[np.float64]]:
    """Return {reward function: (rollout,) rewards} of one group, NaN for None; much cheaper than `rewards_of`.

    Args:
        rewards: (rollout,) rewards, or {reward function: (rollout,) rewards}.
        prompt_id: id of the group's prompt, for errors.

    Raises:
        InputError: rewards that are not numbers, or functions with different numbers of rollouts.
    """
    by_function = rewards if isinstance(rewards, Mapping) else {FOLDED: rewards}
    functions = _functions(by_function)
    rows = {name: _row(row, prompt_id) for name, row in zip(functions, by_function.values(), strict=True)}
    first = rows[functions[0]]
    for name, row in rows.items():
        if len(row) != len(first):
            raise _uneven(prompt_id, {name: len(row), functions[0]: len(first)})
    return rows


def _functions(by_function: Mapping[str, object]) -> tuple[str, ...]:
    if not by_function:
        raise InputError("rewards of no function: give at least one")
    return tuple(map(str, by_function))


def _uneven(prompt_id: str, sizes: Mapping[str, int]) -> InputError:
    counts = ", ".join(f"{size} by {name!r}" for name, size in sizes.items())
    return InputError(f"rewards of prompt {prompt_id!r}: {counts}: give one of each function for every rollout")


def _flat(rewards: StepRewards, prompt_ids: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return all groups' (rollout,) rewards, NaN for None, and the (group,) number of rollouts of each."""
    try:
        rows = _plain(rewards)
        rows = rows if isinstance(rows, np.ndarray) else list(rows)
        num_rows = len(rows)
    except TypeError:
        raise InputError(f"rewards are a {type(rewards).__name__}: give one row of rewards per prompt") from None
    if num_rows != len(prompt_ids):
        raise InputError(
            f"{num_rows} rows of rewards for {len(prompt_ids)} prompts: give one row of rewards per prompt"
        )
    if isinstance(rows, np.ndarray) and rows.ndim == 2 and rows.dtype.kind in "biuf":  # whole arrays at once, for speed
        return rows.astype(np.float64).ravel(), np.full(num_rows, rows.shape[1])
    groups = [_row(row, prompt_id) for row, prompt_id in zip(rows, prompt_ids, strict=True)]
    return np.concatenate([np.zeros(0), *groups]), np.array([len(group) for group in groups], np.int64)


def _row(group: Any, prompt_id: str) -> NDArray[np.float64]:
    """Return one group's (rollout,) rewards, NaN for None."""
    try:
        group = _plain(group)
        if isinstance(group, list | tuple):
            group = [_plain(reward) for reward in group]
        array = np.asarray(group)
        if array.dtype.kind not in "biuf" and any(isinstance(reward, str | bytes | complex) for reward in array.flat):
            raise TypeError  # NumPy would read "1" as a number, and 1j as 0
        values = array.astype(np.float64)  # None becomes NaN
    except (TypeError, ValueError):
        raise InputError(f"rewards of prompt {prompt_id!r} are not numbers: {group!r}") from None
    if values.ndim != 1:
        raise InputError(f"rewards of prompt {prompt_id!r} have shape {values.shape}: need one row, (rollout,)")
    return values


def _plain(values: Any) -> Any:
    """Return a tensor of any dtype and device as a NumPy array; other values unchanged."""
    return np.asarray(values.detach().tolist()) if hasattr(values, "detach") else values


def packed(steps: Sequence[Groups], rows: Callable[[list[str]], NDArray[np.intp]]) -> dict[str, Any]:
    """Return steps as JSON-able values, with arrays under "arrays".

    Args:
        steps: the groups of each step, all graded by the same reward functions.
        rows: function of ids that returns their rows in the pool.
    """
    any_rewards = next((groups.rewards for groups in steps if groups.rewards.functions), NO_REWARDS)
    functions = any_rewards.functions
    none = np.zeros(0, np.int64)
    return {
        "steps": [groups.step for groups in steps],
        "functions": list(functions),
        "arrays": {
            "weights": any_rewards.weights,
            "values": np.concatenate(
                [np.zeros((0, len(functions))), *(groups.rewards.values for groups in steps if groups.prompt_ids)]
            ),
            "group": np.concatenate([none, *(groups.group for groups in steps)]),
            "rollouts": np.array([len(groups.group) for groups in steps], np.int64),
            "prompt": np.concatenate([none, *(rows(groups.prompt_ids) for groups in steps)]),
            "trained": np.concatenate([np.zeros(0, bool), *(groups.trained for groups in steps)]),
            "groups": np.array([len(groups.prompt_ids) for groups in steps], np.int64),
        },
    }


def unpacked(state: Mapping[str, Any], prompt_ids: Sequence[str]) -> list[Groups]:
    """Return the steps that `packed` packed, for a pool of (prompt,) ids.

    Raises:
        KeyError, TypeError, ValueError: the state is damaged.
    """
    functions, names = tuple(map(str, state["functions"])), ("group", "rollouts", "prompt", "groups")
    weights, values, trained = (np.array(state["arrays"][name]) for name in ("weights", "values", "trained"))
    group, rollouts, prompt, groups = (np.array(state["arrays"][name]) for name in names)
    if not (
        all(array.dtype == np.int64 and array.ndim == 1 and (array >= 0).all() for array in (group, rollouts, prompt))
        and weights.shape == (len(functions),)
        and values.shape == (len(group), len(functions))
        and (weights.dtype.kind, values.dtype.kind, trained.dtype.kind) == ("f", "f", "b")
        and rollouts.shape == groups.shape == (len(state["steps"]),)
        and rollouts.sum() == len(group)
        and groups.sum() == len(prompt) == len(trained)
        and (prompt < len(prompt_ids)).all()
    ):
        raise ValueError("the saved groups do not fit together")
    steps = []
    ends, last = np.cumsum(rollouts), np.cumsum(groups)
    for i, step in enumerate(state["steps"]):
        rollout_rows, group_rows = slice(ends[i] - rollouts[i], ends[i]), slice(last[i] - groups[i], last[i])
        ids = [prompt_ids[row] for row in prompt[group_rows]]
        if len(np.unique(prompt[group_rows])) < len(ids) or (group[rollout_rows] >= len(ids)).any():
            raise ValueError("the saved groups do not fit together")
        rewards = Rewards(functions, weights, values[rollout_rows]) if ids else NO_REWARDS
        steps.append(Groups(int(step), ids, rewards, group[rollout_rows], trained[group_rows]))
    return steps
