"""A strategy at work on a pool: what it takes, what it has seen, and how much of the pool that is."""

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

# Steps without a prompt that is new after which the choice has got stuck, if less than this share of the pool was seen.
STALLED, LITTLE = 50, 0.5


class Chooser:
    """Takes prompts of a pool as a strategy says, and keeps the strategy's state.

    Args:
        strategy: which prompts to take.
        num_prompts: of the pool.

    Attributes:
        strategy: as given.
        times_seen: (prompt,) groups that were rolled out of each so far.

    Raises:
        InputError: the strategy's state is not one of as many prompts.
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
        """Let so many prompts join, of which nothing was seen."""
        total = len(self.times_seen) + num_prompts
        self._state = extended(self._state, self._fresh(total))
        self.times_seen = np.concatenate([self.times_seen, np.zeros(num_prompts, np.int32)])

    def take(
        self, k: int, excluded: NDArray[np.intp], rng: np.random.Generator, outlook: Outlook | None
    ) -> NDArray[np.intp]:
        """(k,) rows of the prompts that the strategy takes, highest priority first.

        Args:
            k: how many; at most the prompts that are not excluded.
            excluded: rows that are not to be taken.
            rng: draws, and breaks ties.
            outlook: what the strategy may go by; None where nothing can be told yet, and all prompts are alike.

        Raises:
            InputError: the strategy gives priorities of another shape, or none (NaN) for some prompt.
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

    def see(self, rows: NDArray[np.intp], step: int) -> None:
        """Count the prompts that were rolled out in a step, and warn once where the choice keeps to a few.

        Args:
            rows: of the prompts.
            step: which step it is, for the message.
        """
        new = bool(np.any(self.times_seen[rows] == 0))
        self.times_seen[rows] += 1
        if not len(rows):
            return
        self._steps_without_new = 0 if new else self._steps_without_new + 1
        if self._steps_without_new == STALLED and self.coverage < LITTLE:
            warnings.warn(
                f"step {step}: no new prompt for {STALLED} steps, {self.coverage:.0%} of the pool ever rolled out: "
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
        """Let the strategy see a step's counts.

        Raises:
            InputError: its `step` makes a state of other fields, shapes or types, which no saved run could go on from.
        """
        before = _kinds(self._state)
        state = self.strategy.step(self._state, rows, num_successes, num_rollouts, trained)
        what = f"strategy {self.strategy.name!r}: its step made"
        if not isinstance(state, type(self._state)):
            raise InputError(
                f"{what} a {type(state).__name__} of a {type(self._state).__name__}: let it return the state"
            )
        for name, kind in _kinds(state).items():
            if kind != before[name]:
                raise InputError(f"{what} field {name!r} from {before[name]} to {kind}: let it stay as `init` makes it")
        self._state = state

    def forget(self) -> None:
        """Take the strategy back to before the first step; how often prompts were seen stays."""
        self._state = self._fresh(len(self.times_seen))

    def state_dict(self) -> dict[str, NDArray]:
        """The strategy's state, as arrays by name."""
        return {name: array.copy() for name, array in self._state._asdict().items()}

    @classmethod
    def loaded(cls, strategy: Strategy, times_seen: NDArray[np.int32], arrays: Mapping[str, NDArray]) -> Chooser:
        """One that goes on from a saved state.

        Args:
            strategy: which prompts to take.
            times_seen: (prompt,) as saved.
            arrays: what `state_dict` gave.

        Raises:
            InputError: the state is not whole.
        """
        chooser = cls(strategy, len(times_seen))
        chooser.times_seen, chooser._state = times_seen, restored(chooser._state, arrays)
        return chooser


def _kinds(state: Any) -> dict[str, str]:
    """Type and shape of each field, in words."""
    return {name: f"{array.dtype} {array.shape}" for name, array in state._asdict().items()}


def highest(
    priorities: NDArray[np.float64],
    k: int,
    excluded: NDArray[np.intp],
    rng: np.random.Generator,
    times_seen: NDArray[np.integer] | None = None,
) -> NDArray[np.intp]:
    """(k,) rows with the highest priorities, highest first, ties in random order.

    Args:
        priorities: (prompt,).
        k: how many; at most the prompts that are not excluded.
        excluded: rows that are not to be taken.
        rng: breaks ties.
        times_seen: (prompt,) where priorities tie at the last to be taken, rows seen least are; default: any are.
    """
    allowed = np.delete(np.arange(priorities.size), excluded) if excluded.size else None
    ranked = priorities if allowed is None else priorities[allowed]
    threshold = np.partition(ranked, ranked.size - k)[ranked.size - k]
    above = np.flatnonzero(ranked > threshold)
    tied = np.flatnonzero(ranked == threshold)
    places = k - above.size
    if times_seen is not None and places < tied.size:
        times = (times_seen if allowed is None else times_seen[allowed])[tied]
        last = np.partition(times, places - 1)[places - 1]
        above = np.concatenate([above, tied[times < last]])
        tied, places = tied[times == last], k - above.size
    rows = np.concatenate([above, rng.choice(tied, places, replace=False)])
    # A stable sort of shuffled rows: equal priorities keep a random order.
    rows = rng.permutation(rows)
    rows = rows[np.argsort(-ranked[rows], kind="stable")]
    return rows if allowed is None else allowed[rows]
