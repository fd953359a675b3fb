"""The part of a trainer adapter that all trainers share: prompts in flight, groups that end, a record, saved state.

NumPy only, in the trainer's process. This module knows no trainer.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError
from promptdyn.selection.files import load_selector, write_selector
from promptdyn.selection.groups import GroupRewards, Observation, group_rewards
from promptdyn.selection.recording import HistoryRecorder
from promptdyn.selection.selector import Selector

__all__ = ["Session"]

logger = logging.getLogger(__name__)


class Session:
    """Connects a run to its selector: which prompts are rolled out, which groups have ended, when to learn from them.

    A prompt is in flight from the moment it is taken until its group ends or is lost; meanwhile it is not taken again.
    Groups end one by one, in any order. `step` learns from all groups that have ended, ages every other prompt by one
    step, and discards prompts that were chosen but not taken.

    Args:
        selector: chooses prompts and learns. Its pool is the run's.
        recorder: receives a row per group; default none.
        block: least number of prompts to choose at once; later calls of `take` hand out the rest. Default 1: each call
            chooses what it asks for. A choice costs nearly the same for one prompt as for many, so a trainer that asks
            for one prompt at a time should choose as many as a training step takes.
        weights: (function,) weights of the reward functions in the folded reward; default 1 each.

    Attributes:
        selector, recorder, block, weights: as given.

    Raises:
        InputError: a block below 1.

    Example:
        >>> from promptdyn import Selector, Session, models
        >>> session = Session(Selector(models.DPS().online([f"p{i}" for i in range(100)]), num_generations=4))
        >>> for prompt_id in session.take(8):
        ...     session.end(prompt_id, [1.0, 0.0, 0.0, 1.0])
        >>> session.step().informative.sum()
        8
    """

    def __init__(
        self,
        selector: Selector,
        recorder: HistoryRecorder | None = None,
        block: int = 1,
        weights: Sequence[float] | None = None,
    ) -> None:
        if block < 1:
            raise InputError(f"block={block}: choose at least 1 prompt at once")
        self.selector = selector
        self.recorder = recorder
        self.block = block
        self.weights = weights
        self._steps = 0  # number of calls of `step`
        self._recording = False
        self._number: int | None = None  # number of the present training step, if the trainer numbers them
        self._taken: dict[str, None] = {}  # prompts taken in that training step
        self._recorded: set[str] = set()  # prompts recorded under its number
        self._waiting: list[str] = []  # prompts chosen and not taken yet
        self._in_flight: dict[str, None] = {}
        self._ended: dict[str, _Ended] = {}  # groups not learned from yet
        self._removed: list[str] = []  # prompts of a loaded state that the run's pool does not have

    @property
    def in_flight(self) -> list[str]:
        """Ids of the prompts that were taken and whose groups have neither ended nor been lost, in order of taking."""
        return list(self._in_flight)

    @property
    def ended(self) -> list[str]:
        """Ids of the prompts whose groups have ended since the last `step`, in that order."""
        return list(self._ended)

    @property
    def num_steps(self) -> int:
        """Number of calls of `step`, those before a resume included."""
        return self._steps

    @property
    def num_available(self) -> int:
        """Number of prompts that can be taken now."""
        return self.selector.num_prompts - len(self._unavailable())

    def _unavailable(self) -> set[str]:
        return {*self._in_flight, *self._ended, *self._taken, *self._removed}

    def begin(self, step: int | None = None) -> None:
        """Begin a training step. A trainer that calls `step` once per training step need not call this.

        The first call opens the recorder's file: for a new run at 0, else for a resumed one.

        Args:
            step: number under which the training step's groups are recorded. A prompt is taken at most once in a
                training step, even if `step` is called several times in it. Default: the number of calls of `step`.

        Raises:
            InputError: the run is resumed, and the recorder's file is no history.
        """
        if not self._recording:
            if self.recorder is not None:
                self.recorder.start(self._steps if step is None else step)
            self._recording = True
        if step != self._number:
            self._number, self._taken, self._recorded = step, {}, set()

    def _open(self) -> None:
        if not self._recording:
            self.begin(self._number)

    def take(self, k: int = 1, enough: float | None = None, multiple_of: int = 1) -> list[str]:
        """Take prompts to roll out now; they are in flight from here on.

        Args:
            k: number of distinct prompts.
            enough, multiple_of: as in `Selector.select`. With `enough`, prompts are chosen for this call alone, without
                the rest of a block.

        Returns:
            k ids; fewer with `enough`.

        Raises:
            InputError: fewer than k prompts are available.
        """
        self._open()
        waiting = [] if enough is not None else self._waiting
        if len(waiting) < k or k < 1:
            unavailable = self._unavailable()
            available = self.selector.num_prompts - len(unavailable)
            if not 1 <= k <= available:
                busy = len(unavailable - set(self._removed))
                removed = f", and {len(self._removed)} are not in the pool any more" if self._removed else ""
                raise InputError(
                    f"cannot take {k} of {self.selector.num_prompts} prompts: {busy} are in flight or have been taken "
                    f"in this training step{removed}: take from 1 to {available}, or say which are lost"
                )
            size = k if enough is not None else min(max(k, self.block), available) - len(waiting)
            chosen = self.selector.select(size, [*unavailable, *waiting], enough=enough, multiple_of=multiple_of)
            waiting = [*waiting, *chosen]
        taken, self._waiting = waiting[:k], waiting[k:]
        self._in_flight.update(dict.fromkeys(taken))
        if self._number is not None:
            self._taken.update(dict.fromkeys(taken))
        return taken

    def end(self, prompt_id: str, rewards: GroupRewards | Mapping[str, GroupRewards], trained: bool = True) -> None:
        """Report a group that has ended; `step` learns from it.

        A group may also belong to a prompt that was not taken, or was reported lost.

        Args:
            prompt_id: id of the group's prompt.
            rewards: (rollout,) rewards, or {reward function: (rollout,) rewards}. None and NaN are rollouts without a
                reward.
            trained: whether the group feeds the gradient; default True. `step` can tell it too.

        Raises:
            InputError: a prompt that is not in the pool, a second group of a prompt in one step, rewards that are not
                numbers, or other reward functions than in the groups before. The group is not accepted then.
        """
        prompt_id = str(prompt_id)
        self.selector.online.rows([prompt_id])
        if prompt_id in self._ended or prompt_id in self._recorded:
            raise InputError(f"prompt {prompt_id!r} has ended twice in one step: report a group once, with all rewards")
        graded = group_rewards(rewards, prompt_id)
        if self.weights is not None and len(self.weights) != len(graded):
            raise InputError(
                f"weights {self.weights} for the reward functions {', '.join(graded)}: give a number for each"
            )
        before = next(iter(self._ended.values()), None)
        if before is not None and list(before.rewards) != list(graded):  # their order is that of the weights
            raise InputError(
                f"rewards of prompt {prompt_id!r} by {', '.join(graded)}, of the groups before by "
                f"{', '.join(before.rewards)}: give those of the same functions, in one order, for every group"
            )
        if prompt_id in self._in_flight:
            del self._in_flight[prompt_id]
        elif prompt_id in self._waiting:
            self._waiting.remove(prompt_id)
        self._ended[prompt_id] = _Ended(graded, bool(trained))

    def lost(self, prompt_ids: Iterable[str]) -> None:
        """Report prompts in flight whose groups will never end, so that they may be taken again."""
        for prompt_id in prompt_ids:
            self._in_flight.pop(str(prompt_id), None)

    def mixed(self) -> dict[str, bool] | None:
        """Tell which groups that have ended have both successes and failures, without learning from them.

        Returns:
            {prompt id: flag} in the order in which the groups ended; None while there is no rule of success.

        Raises:
            InputError: the rule of success names an unknown reward function.
        """
        if not self._ended:
            return {}
        flags = self.selector.mixed(list(self._ended), self._rewards(), self.weights)
        return None if flags is None else dict(zip(self._ended, flags.tolist(), strict=True))

    def step(self, trained: Collection[str] | None = None) -> Observation:
        """Learn from the groups that have ended, record them, and discard prompts that were chosen but not taken.

        Args:
            trained: ids of the prompts whose groups feed the gradient. Default: as passed to `end`.

        Returns:
            The selector's counts.

        Raises:
            InputError: `trained` names a prompt whose group has not ended, or the rule of success names an unknown
                reward function. Nothing is learned then.
        """
        self._open()
        reported = {prompt_id for prompt_id, group in self._ended.items() if group.trained}
        trained_ids = reported if trained is None else set(trained)
        if not trained_ids <= self._ended.keys():
            unknown = min(trained_ids - self._ended.keys())
            raise InputError(
                f"trained names prompt {unknown!r}, whose group has not ended in this step: call `end` first"
            )
        observation = self.selector.observe(
            list(self._ended),
            self._rewards(),
            [prompt_id in trained_ids for prompt_id in self._ended],
            weights=self.weights,
            step=self._steps if self._number is None else self._number,
        )
        if self._number is not None:
            self._recorded.update(self._ended)
        self._ended, self._waiting = {}, []
        self._steps += 1
        if self.recorder is not None:
            self._describe(self.recorder)
            self.recorder.record(observation)
        return observation

    def close(self) -> None:
        """Complete the history after the run has ended or stopped.

        Groups that have ended and were not learned from count as not trained on; prompts in flight are lost. A later
        `take` goes on with the run, `begin(0)` starts another.
        """
        try:
            if self._ended:
                self.step(trained=())
            self.settle()
        finally:
            self._recording, self._number = False, None
            self._in_flight, self._taken, self._waiting, self._ended = {}, {}, [], {}
            self._recorded = set()

    def settle(self) -> None:
        """Make the rule of success final, as far as the rewards give one, and bring the history up to date.

        For a trainer that does not tell when the run ends: call it in the last step. The run may go on afterwards.
        """
        settled = self.selector.settle()
        if self.recorder is not None and settled:
            self._open()
            self.recorder.recount(settled)
        self.write()

    def write(self) -> None:
        """Bring the recorder's file up to date, which the recorder also does by itself every so many steps."""
        if self.recorder is not None:
            self._describe(self.recorder)
            self.recorder.write()

    def _describe(self, recorder: HistoryRecorder) -> None:
        recorder.success, recorder.pool_size = self.selector.success, self.selector.num_prompts

    def metrics(self) -> dict[str, float]:
        """Return `Selector.metrics` and the number of prompts `in_flight`, each as "selection/NAME", for a log."""
        own = {**self.selector.metrics(), "in_flight": float(len(self._in_flight))}
        return {f"selection/{name}": value for name, value in own.items()}

    def _rewards(self) -> dict[str, list[Any]] | list[Any]:
        """Return {reward function: (group, rollout) rewards} of the groups that have ended."""
        groups = list(self._ended.values())
        if not groups:
            return []
        return {name: [group.rewards[name] for group in groups] for name in groups[0].rewards}

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to go on as if the run had never stopped.

        It holds the selector's state and, under "session", the prompts in flight, those chosen and not taken yet, and
        the groups that have ended and were not learned from.
        """
        ended = [
            {
                "prompt_id": prompt_id,
                "rewards": {name: _plain(row) for name, row in group.rewards.items()},
                "trained": group.trained,
            }
            for prompt_id, group in self._ended.items()
        ]
        own = {
            "steps": self._steps,
            "step": self._number,
            "taken": list(self._taken),
            "waiting": list(self._waiting),
            "in_flight": list(self._in_flight),
            "ended": ended,
        }
        return {**self.selector.state_dict(), "session": own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a session's saved state, or from a `Selector`'s, which has nothing in flight.

        The pool stays the run's: prompts that the state lacks join, and prompts that only the state has are not taken
        any more; a log line tells how many. The trainer must roll out again the prompts that stay in flight, or report
        them lost.

        Raises:
            InputError: as in `Selector.load_state_dict`. The session is left unchanged then.
        """
        pool = set(self.selector.prompt_ids).difference(self._removed)
        steps, number, ids, ended = self._parsed(state)
        self.selector.load_state_dict(state)
        self._recording, self._steps, self._number, self._ended = False, steps, number, ended
        self._recorded = set()  # a resumed run records the step anew
        self._taken, self._in_flight = (dict.fromkeys(ids[part]) for part in ("taken", "in_flight"))
        self._waiting = [prompt_id for prompt_id in ids["waiting"] if prompt_id in pool]
        self._removed = [prompt_id for prompt_id in self.selector.prompt_ids if prompt_id not in pool]
        if self._removed:
            logger.warning(
                "%d prompts of the saved run are not in the pool any more, such as %r: they are not chosen; put them "
                "back to have them chosen again",
                len(self._removed),
                self._removed[0],
            )

    def _parsed(self, state: Mapping[str, Any]) -> tuple[int, int | None, dict[str, list[str]], dict[str, _Ended]]:
        """Return the session's part of a state: steps, the training step's number, ids, and groups that have ended."""
        try:
            own = state.get("session", {})
            known = set(state["online"]["prompt_ids"])
            steps, number = own.get("steps", state["online"]["steps"]), own.get("step")
            if type(steps) is not int or type(number) not in (int, type(None)):
                raise ValueError(f"steps={steps!r}, step={number!r}")
            ids = {part: list(own.get(part, ())) for part in ("taken", "waiting", "in_flight")}
            ended = {}
            for group in own.get("ended", ()):
                graded = group_rewards(group["rewards"], group["prompt_id"])
                ended[group["prompt_id"]] = _Ended(graded, bool(group["trained"]))
            unknown = set(ended).union(*ids.values()) - known
            if unknown:
                raise ValueError(f"prompt {next(iter(unknown))!r} is not in its pool")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"the session's state is not whole ({error}): start without it") from None
        return steps, number, ids, ended

    def save(self, path: str | Path) -> None:
        """Write the state to one .npz file, atomically, and bring the history up to date.

        The file has a version and needs no pickle. `Selector.load` can read the selector's part of it.
        """
        write_selector(path, self.state_dict())
        self.write()

    def load(self, path: str | Path) -> None:
        """Go on from a file that `save`, or a `Selector`, wrote.

        Raises:
            InputError: the file is missing or damaged, or as in `load_state_dict`.
        """
        load_selector(path, self.load_state_dict)


class _Ended(NamedTuple):
    """A group that has ended."""

    rewards: dict[str, NDArray[np.float64]]  # reward function -> (rollout,) rewards
    trained: bool


def _plain(rewards: NDArray[np.float64]) -> list[float | None]:
    """Return (rollout,) rewards for JSON, None for no reward."""
    return [None if np.isnan(reward) else reward for reward in rewards.tolist()]
