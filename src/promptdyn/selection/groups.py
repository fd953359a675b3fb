"""The groups of one training step as a trainer tells them: checked, counted by a rule, and packed for a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, SupportsFloat

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError
from promptdyn.success import FOLDED, Grader, Rewards, moments

__all__ = ["GroupRewards", "Groups", "Observation", "StepRewards", "group_rewards", "packed", "rewards_of", "unpacked"]


class SupportsArray(Protocol):
    """An array of NumPy's, or a tensor of torch's."""

    def __array__(self) -> Any: ...


GroupRewards = Sequence[SupportsFloat | None] | SupportsArray
"""(rollout,) rewards of one group; None and NaN are rollouts without a grade."""
StepRewards = Sequence[GroupRewards] | SupportsArray
"""(group, rollout) rewards of a step, of groups of any sizes."""
NO_REWARDS = Rewards((), np.zeros(0), np.zeros((0, 0)))


class Observation(NamedTuple):
    """What `Selector.observe` made of the rewards: the groups with at least one graded rollout.

    Where the rule of success has just been found, or has changed, `earlier` holds what the steps before show by it.
    """

    prompt_ids: list[str]
    num_rollouts: NDArray[np.int64]  # (group,) graded rollouts
    num_successes: NDArray[np.int64]  # (group,)
    informative: NDArray[np.bool_]  # (group,) 0 < k < n
    trained: NDArray[np.bool_]  # (group,) whether it feeds the gradient
    reward_mean: NDArray[np.float32]  # (group,) of the folded rewards
    reward_std: NDArray[np.float32]  # (group,) divisor n - 1, as TRL logs it
    step: int
    earlier: tuple[Observation, ...] = ()


class Groups(NamedTuple):
    """The groups of one step."""

    step: int
    prompt_ids: list[str]
    rewards: Rewards
    group: NDArray[np.intp]  # (rollout,) index of its group, ascending
    trained: NDArray[np.bool_]  # (group,) whether it feeds the gradient

    @property
    def rolled_out(self) -> list[str]:
        """Ids of the groups that have a reward, graded or not."""
        there = np.unique(self.group[~np.isnan(self.rewards.values).all(axis=1)])
        return [self.prompt_ids[i] for i in there]

    def counted(self, grader: Grader) -> Observation:
        """The counts by a grader's rule."""
        grades = grader.grades(self.rewards)
        n = np.bincount(self.group[~np.isnan(grades)], minlength=len(self.prompt_ids))
        k = np.bincount(self.group[grades == 1], minlength=len(self.prompt_ids))
        graded = np.flatnonzero(n)
        n, k = n[graded], k[graded]
        ids = [self.prompt_ids[i] for i in graded]
        mean, std = moments(self.rewards.folded, self.group, len(self.prompt_ids))
        return Observation(ids, n, k, (k > 0) & (k < n), self.trained[graded], mean[graded], std[graded], self.step)


def rewards_of(
    given: StepRewards | Mapping[str, StepRewards], prompt_ids: Sequence[str], weights: Sequence[float] | None = None
) -> tuple[Rewards, NDArray[np.intp]]:
    """Rewards of groups as one array, and (rollout,) the group of each.

    Args:
        given: (group, rollout) rewards, or {reward function: (group, rollout) rewards}.
        prompt_ids: (group,) ids.
        weights: (function,) of the functions; default 1 each.

    Raises:
        InputError: not one row of numbers per prompt, functions that graded other numbers of rollouts, or not one
            finite weight per function.
    """
    by_function = given if isinstance(given, Mapping) else {FOLDED: given}
    if not len(prompt_ids):  # of no function, so that a step without groups fits among any others
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


def group_rewards(given: GroupRewards | Mapping[str, GroupRewards], prompt_id: str) -> dict[str, NDArray[np.float64]]:
    """{reward function: (rollout,) rewards} of one group, NaN for None; much cheaper than `rewards_of`.

    Args:
        given: (rollout,) rewards, or {reward function: (rollout,) rewards}.
        prompt_id: whose group it is.

    Raises:
        InputError: rewards that are not numbers, or functions that graded other numbers of rollouts.
    """
    by_function = given if isinstance(given, Mapping) else {FOLDED: given}
    functions = _functions(by_function)
    rewards = {name: _row(row, prompt_id) for name, row in zip(functions, by_function.values(), strict=True)}
    first = rewards[functions[0]]
    for name, row in rewards.items():
        if len(row) != len(first):
            raise _uneven(prompt_id, {name: len(row), functions[0]: len(first)})
    return rewards


def _functions(by_function: Mapping[str, object]) -> tuple[str, ...]:
    if not by_function:
        raise InputError("rewards of no function: give at least one")
    return tuple(map(str, by_function))


def _uneven(prompt_id: str, sizes: Mapping[str, int]) -> InputError:
    told = ", ".join(f"{size} by {name!r}" for name, size in sizes.items())
    return InputError(f"rewards of prompt {prompt_id!r}: {told}: give one of each function for every rollout")


def _flat(given: StepRewards, prompt_ids: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(rollout,) rewards, NaN for None, and (group,) rollouts of each group."""
    try:
        rows = _plain(given)
        rows = rows if isinstance(rows, np.ndarray) else list(rows)
        num_rows = len(rows)
    except TypeError:
        raise InputError(f"rewards are a {type(given).__name__}: give one row of rewards per prompt") from None
    if num_rows != len(prompt_ids):
        raise InputError(
            f"{num_rows} rows of rewards for {len(prompt_ids)} prompts: give one row of rewards per prompt"
        )
    if isinstance(rows, np.ndarray) and rows.ndim == 2 and rows.dtype.kind in "biuf":  # all at once, for speed
        return rows.astype(np.float64).ravel(), np.full(num_rows, rows.shape[1])
    groups = [_row(row, prompt_id) for row, prompt_id in zip(rows, prompt_ids, strict=True)]
    return np.concatenate([np.zeros(0), *groups]), np.array([len(group) for group in groups], np.int64)


def _row(group: Any, prompt_id: str) -> NDArray[np.float64]:
    """(rollout,) rewards of one group, NaN for None."""
    try:
        group = _plain(group)
        if isinstance(group, list | tuple):
            group = [_plain(reward) for reward in group]
        given = np.asarray(group)
        if given.dtype.kind not in "biuf" and any(isinstance(reward, str | bytes | complex) for reward in given.flat):
            raise TypeError  # NumPy would read "1" as a number, and 1j as 0
        values = given.astype(np.float64)  # None becomes NaN
    except (TypeError, ValueError):
        raise InputError(f"rewards of prompt {prompt_id!r} are not numbers: {group!r}") from None
    if values.ndim != 1:
        raise InputError(f"rewards of prompt {prompt_id!r} have shape {values.shape}: need one row, (rollout,)")
    return values


def _plain(values: Any) -> Any:
    """Values of a tensor, of any dtype and device and with or without gradient, as NumPy's; others as they are."""
    return np.asarray(values.detach().tolist()) if hasattr(values, "detach") else values


def packed(steps: Sequence[Groups], rows: Callable[[list[str]], NDArray[np.intp]]) -> dict[str, Any]:
    """Steps, all by the same reward functions, as JSON-able values, and arrays under "arrays".

    Args:
        steps: what is to be packed.
        rows: gives the row of each id in the pool.
    """
    told = next((groups.rewards for groups in steps if groups.rewards.functions), NO_REWARDS)
    functions = told.functions
    none = np.zeros(0, np.int64)
    return {
        "steps": [groups.step for groups in steps],
        "functions": list(functions),
        "arrays": {
            "weights": told.weights,
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
    """What `packed` packed, for a pool of (prompt,) ids; KeyError, TypeError or ValueError where it is not whole."""
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
        raise ValueError("the groups that were told do not fit together")
    steps = []
    ends, last = np.cumsum(rollouts), np.cumsum(groups)
    for i, step in enumerate(state["steps"]):
        own, these = slice(ends[i] - rollouts[i], ends[i]), slice(last[i] - groups[i], last[i])
        ids = [prompt_ids[row] for row in prompt[these]]
        if len(np.unique(prompt[these])) < len(ids) or (group[own] >= len(ids)).any():
            raise ValueError("the groups that were told do not fit together")
        rewards = Rewards(functions, weights, values[own]) if ids else NO_REWARDS
        steps.append(Groups(int(step), ids, rewards, group[own], trained[these]))
    return steps
