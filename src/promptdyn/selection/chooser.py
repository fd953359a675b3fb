"""Apply a strategy to a pool: choose prompts, keep the strategy's state, and watch the coverage of the pool."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError, PromptdynWarning
from promptdyn.online.state import check_axes, extended, restored
from promptdyn.selection.strategies import Outlook, Strategy

__all__ = ["Chooser", "highest"]

# A strategy is warned of if it takes no new prompt for so many steps while less than this share of the pool was seen.
STUCK_STEPS, STUCK_COVERAGE = 50, 0.5


class Chooser:
    """Chooses prompts of a pool by a strategy, and keeps the strategy's state.

    Args:
        strategy: decides which prompts to take.
        num_prompts: number of prompts in the pool.

    Attributes:
        strategy: as given.
        times_seen: (prompt,) number of groups rolled out of each prompt so far.

    Raises:
        InputError: the fields of the strategy's state do not have one entry per prompt.
    """

    def __init__(self, strategy: Strategy, num_prompts: int) -> None:
        self.strategy = strategy
        self.times_seen = np.zeros(num_prompts, np.int32)
        self._state = self._fresh(num_prompts)
        self._steps_without_new = 0

    def _fresh(self, num_prompts: int) -> Any:
        state = self.strategy.init(num_prompts)
        check_axes(f"strategy {self.strategy.name!r}", state, num_prompts, self.strategy.shared)
        return state

    @property
    def coverage(self) -> float:
        """Share of the pool rolled out at least once."""
        return np.count_nonzero(self.times_seen) / len(self.times_seen)

    def add(self, num_prompts: int) -> None:
        """Add so many prompts, which have not been seen."""
        total = len(self.times_seen) + num_prompts
        self._state = extended(self._state, self._fresh(total))
        self.times_seen = np.concatenate([self.times_seen, np.zeros(num_prompts, np.int32)])

    def choose(
        self, k: int, excluded: NDArray[np.intp], rng: np.random.Generator, outlook: Outlook | None
    ) -> NDArray[np.intp]:
        """Return the (k,) rows of the prompts that the strategy takes, highest priority first.

        Args:
            k: number of prompts, at most those that are not excluded.
            excluded: rows that must not be taken.
            rng: generator for the strategy, and to break ties.
            outlook: what the strategy may know; None while nothing is known, when all prompts have equal priority.

        Raises:
            InputError: the strategy returns priorities of another shape, or NaN.
        """
        if outlook is None:
            return highest(np.zeros(len(self.times_seen)), k, excluded, rng, self.times_seen)
        priorities = np.asarray(self.strategy.priorities(self._state, outlook, rng), dtype=float)
        if priorities.shape != self.times_seen.shape:
            raise InputError(
                f"strategy {self.strategy.name!r} gave priorities of shape {priorities.shape} for "
                f"{len(self.times_seen)} prompts"
            )
        unknown = np.flatnonzero(np.isnan(priorities))
        if unknown.size:
            prompt_id = outlook.online.ids(unknown[:1])[0]
            raise InputError(f"strategy {self.strategy.name!r} gave prompt {prompt_id!r} the priority NaN")
        return highest(priorities, k, excluded, rng, self.times_seen)

    def count(self, rows: NDArray[np.intp], step: int) -> None:
        """Count the prompts rolled out in a step, and warn once if the same few are taken again and again.

        Args:
            rows: rows of the prompts.
            step: number of the step, for the warning.
        """
        new = bool(np.any(self.times_seen[rows] == 0))
        self.times_seen[rows] += 1
        if not len(rows):
            return
        self._steps_without_new = 0 if new else self._steps_without_new + 1
        if self._steps_without_new == STUCK_STEPS and self.coverage < STUCK_COVERAGE:
            warnings.warn(
                f"step {step}: no new prompt for {STUCK_STEPS} steps, {self.coverage:.0%} of the pool ever rolled out: "
                f"strategy {self.strategy.name!r} takes the same prompts again and again; use 'proportional', some of "
                "whose draws (uniform=0.125) take any prompt",
                PromptdynWarning,
                stacklevel=3,
            )

    def learn(
        self,
        rows: NDArray[np.intp],
        num_successes: NDArray[np.int64],
        num_rollouts: NDArray[np.int64],
        trained: NDArray[np.bool_],
    ) -> None:
        """Show a step's counts to the strategy.

        Raises:
            InputError: the strategy's `step` returns a state of another class, or fields of other shapes or types.
        """
        before = _kinds(self._state)
        state = self.strategy.step(self._state, rows, num_successes, num_rollouts, trained)
        subject = f"strategy {self.strategy.name!r}: its step made"
        if not isinstance(state, type(self._state)):
            raise InputError(
                f"{subject} a {type(state).__name__} of a {type(self._state).__name__}: let it return the state"
            )
        for name, kind in _kinds(state).items():
            if kind != before[name]:
                raise InputError(
                    f"{subject} field {name!r} from {before[name]} to {kind}: let it stay as `init` makes it"
                )
        self._state = state

    def forget(self) -> None:
        """Reset the strategy's state to before the first step; `times_seen` stays."""
        self._state = self._fresh(len(self.times_seen))

    def state_dict(self) -> dict[str, NDArray]:
        """Return the strategy's state as arrays by name."""
        return {name: array.copy() for name, array in self._state._asdict().items()}

    @classmethod
    def resumed(cls, strategy: Strategy, times_seen: NDArray[np.int32], arrays: Mapping[str, NDArray]) -> Chooser:
        """Return a chooser that goes on from a saved state.

        Args:
            strategy: decides which prompts to take.
            times_seen: (prompt,) saved counts.
            arrays: what `state_dict` returned.

        Raises:
            InputError: the state is damaged.
        """
        chooser = cls(strategy, len(times_seen))
        chooser.times_seen, chooser._state = times_seen, restored(chooser._state, arrays)
        return chooser


def _kinds(state: Any) -> dict[str, str]:
    """Return the type and shape of each field as text."""
    return {name: f"{array.dtype} {array.shape}" for name, array in state._asdict().items()}


def highest(
    priorities: NDArray[np.float64],
    k: int,
    excluded: NDArray[np.intp],
    rng: np.random.Generator,
    times_seen: NDArray[np.integer] | None = None,
) -> NDArray[np.intp]:
    """Return the (k,) rows with the highest priorities, highest first, ties in random order.

    Args:
        priorities: (prompt,) priorities.
        k: number of rows, at most those that are not excluded.
        excluded: rows that must not be taken.
        rng: generator that breaks ties.
        times_seen: (prompt,) counts: among equal priorities, rows seen least are taken first. Default: at random.
    """
    allowed = np.delete(np.arange(priorities.size), excluded) if excluded.size else None
    ranked = priorities if allowed is None else priorities[allowed]
    threshold = np.partition(ranked, ranked.size - k)[ranked.size - k]
    above = np.flatnonzero(ranked > threshold)
    tied = np.flatnonzero(ranked == threshold)
    num_tied_needed = k - above.size
    if times_seen is not None and num_tied_needed < tied.size:
        times = (times_seen if allowed is None else times_seen[allowed])[tied]
        last = np.partition(times, num_tied_needed - 1)[num_tied_needed - 1]
        above = np.concatenate([above, tied[times < last]])
        tied, num_tied_needed = tied[times == last], k - above.size
    rows = np.concatenate([above, rng.choice(tied, num_tied_needed, replace=False)])
    # A stable sort of shuffled rows: equal priorities keep a random order.
    rows = rng.permutation(rows)
    rows = rows[np.argsort(-ranked[rows], kind="stable")]
    return rows if allowed is None else allowed[rows]
