"""What every trainer needs between itself and a `Selector`, and none should write again.

NumPy only, in the trainer's own process; knows no trainer.
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
    """A run's dealings with its selector: what is rolled out, what came of it, and when it is learned of.

    A prompt is in flight from the moment it is taken until its group ends or is lost, and is not taken again meanwhile.
    Groups end one by one and in any order. `step` learns of all that have ended, ages every other prompt by one step,
    and has the next prompts chosen anew.

    Args:
        selector: chooses and learns. Its pool is the run's.
        recorder: receives a row per group; default none.
        block: prompts that are chosen at once where fewer are asked for, and handed out by later calls of `take`.
            Default 1: each call chooses what it asks for. A choice costs nearly the same for one prompt as for many, so
            a trainer that asks for one prompt at a time should choose as many as a training step takes.
        weights: (function,) of the reward functions in the folded reward; default 1 each.

    Attributes:
        selector, recorder, block, weights: as given.

    Raises:
        InputError: a block of less than 1 prompt.

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
        self._steps = 0  # learned of
        self._recording = False
        self._number: int | None = None  # of the training step under way, where the trainer numbers them
        self._taken: dict[str, None] = {}  # in it
        self._recorded: set[str] = set()  # under its number
        self._waiting: list[str] = []  # chosen, not taken yet
        self._in_flight: dict[str, None] = {}
        self._ended: dict[str, _Ended] = {}  # not learned of yet
        self._gone: list[str] = []  # of a saved state, and not in the pool that the run began with

    @property
    def in_flight(self) -> list[str]:
        """Ids of the prompts that were taken and have neither ended nor been lost, in the order they were taken."""
        return list(self._in_flight)

    @property
    def num_available(self) -> int:
        """Prompts that may be taken now."""
        return self.selector.num_prompts - len(self._unavailable())

    def _unavailable(self) -> set[str]:
        return {*self._in_flight, *self._ended, *self._taken, *self._gone}

    def begin(self, step: int | None = None) -> None:
        """Begin a training step. A trainer that calls `step` once in each need not call this.

        The first call opens the recorder's file: anew at 0, else as a run that resumes.

        Args:
            step: the number that the step's groups are recorded under. A prompt is taken once in a training step, even
                where `step` is called several times in it. Default: the calls of `step` are counted from 0.

        Raises:
            InputError: the recorder's file is to be gone on with, and is no history.
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
        """Prompts to roll out now; they are in flight from here on.

        Args:
            k: how many distinct prompts.
            enough, multiple_of: as those of `Selector.select`. A choice with `enough` is made for itself, without the
                rest of a block.

        Returns:
            k ids or, with `enough`, some of them.

        Raises:
            InputError: fewer than k prompts are available.
        """
        self._open()
        waiting = [] if enough is not None else self._waiting
        if len(waiting) < k or k < 1:
            unavailable = self._unavailable()
            available = self.selector.num_prompts - len(unavailable)
            if not 1 <= k <= available:
                busy = len(unavailable - set(self._gone))
                gone = f", and {len(self._gone)} are not in the pool any more" if self._gone else ""
                raise InputError(
                    f"cannot take {k} of {self.selector.num_prompts} prompts: {busy} are in flight or have been taken "
                    f"in this training step{gone}: take from 1 to {available}, or say which are lost"
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
        """Tell of a group that has ended; `step` learns of it.

        The group of a prompt that was not taken, or was said to be lost, is as welcome.

        Args:
            prompt_id: whose group it is.
            rewards: (rollout,) rewards, or {reward function: (rollout,) rewards}. None and NaN are rollouts without a
                reward.
            trained: whether it feeds the gradient; `step` can say so as well.

        Raises:
            InputError: a prompt that the pool has not, a second group of it in one step, rewards that are not numbers,
                or by other functions than the groups before; the group is not there then.
        """
        prompt_id = str(prompt_id)
        self.selector.online.rows([prompt_id])
        if prompt_id in self._ended or prompt_id in self._recorded:
            raise InputError(
                f"prompt {prompt_id!r} has ended twice in one step: tell of a group once, with all rewards"
            )
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
        """Tell of prompts that are in flight and whose groups will never end: they may be taken again. Others stay."""
        for prompt_id in prompt_ids:
            self._in_flight.pop(str(prompt_id), None)

    def mixed(self) -> dict[str, bool] | None:
        """Whether each group that has ended, and is not learned of, has successes and failures; nothing is learned.

        Returns:
            {prompt id: flag} in the order in which groups ended; None where the rule of success cannot be told yet.

        Raises:
            InputError: the rule of success names a reward function that is not there.
        """
        if not self._ended:
            return {}
        flags = self.selector.mixed(list(self._ended), self._rewards(), self.weights)
        return None if flags is None else dict(zip(self._ended, flags.tolist(), strict=True))

    def step(self, trained: Collection[str] | None = None) -> Observation:
        """Learn of the groups that have ended, record them, and have the next prompts chosen anew.

        Args:
            trained: ids of those that feed the gradient; default: as `end` was told.

        Returns:
            What the selector made of them.

        Raises:
            InputError: `trained` names a prompt that has not ended, or the rule of success names a reward function that
                is not there; nothing is learned then.
        """
        self._open()
        told = {prompt_id for prompt_id, group in self._ended.items() if group.trained}
        feeding = told if trained is None else set(trained)
        if not feeding <= self._ended.keys():
            stranger = min(feeding - self._ended.keys())
            raise InputError(
                f"trained names prompt {stranger!r}, whose group has not ended in this step: tell `end` first"
            )
        seen = self.selector.observe(
            list(self._ended),
            self._rewards(),
            [prompt_id in feeding for prompt_id in self._ended],
            weights=self.weights,
            step=self._steps if self._number is None else self._number,
        )
        if self._number is not None:
            self._recorded.update(self._ended)
        self._ended, self._waiting = {}, []
        self._steps += 1
        if self.recorder is not None:
            self._describe(self.recorder)
            self.recorder.record(seen)
        return seen

    def close(self) -> None:
        """The run is over, or has stopped: complete the history.

        Groups that have ended and are not learned of count as not trained on; what is in flight is lost. Who takes
        prompts afterwards goes on with the run; `begin(0)` starts another.
        """
        try:
            if self._ended:
                self.step(trained=())
            settled = self.selector.settle()
            if self.recorder is not None and settled:
                self._open()
                self.recorder.recount(settled)
            self.write()
        finally:
            self._recording, self._number = False, None
            self._in_flight, self._taken, self._waiting, self._ended = {}, {}, [], {}
            self._recorded = set()

    def write(self) -> None:
        """Bring the recorder's file up to date; the recorder does so by itself every so many steps."""
        if self.recorder is not None:
            self._describe(self.recorder)
            self.recorder.write()

    def _describe(self, recorder: HistoryRecorder) -> None:
        recorder.success, recorder.pool_size = self.selector.success, self.selector.num_prompts

    def metrics(self) -> dict[str, float]:
        """Those of `Selector.metrics`, and `in_flight`, each as "selection/NAME", for a trainer's log."""
        own = {**self.selector.metrics(), "in_flight": float(len(self._in_flight))}
        return {f"selection/{name}": value for name, value in own.items()}

    def _rewards(self) -> dict[str, list[Any]] | list[Any]:
        """{reward function: (group, rollout) rewards} of the groups that have ended."""
        groups = list(self._ended.values())
        if not groups:
            return []
        return {name: [group.rewards[name] for group in groups] for name in groups[0].rewards}

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on as if never stopped: the selector's state, and under "session" what is in flight,
        what is chosen and not taken yet, and what has ended and is not learned of.
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
        """Go on from a saved state, or from that of a `Selector`, as where nothing was under way.

        The pool is the run's: prompts that are new join it, and those that the state alone has are not taken any more;
        a line says how many. What stays in flight is for the trainer to roll out again, or to say lost.

        Raises:
            InputError: as `Selector.load_state_dict`; the session is as it was then.
        """
        pool = set(self.selector.prompt_ids).difference(self._gone)
        steps, number, ids, ended = self._parsed(state)
        self.selector.load_state_dict(state)
        self._recording, self._steps, self._number, self._ended = False, steps, number, ended
        self._recorded = set()  # a resumed run records the step anew
        self._taken, self._in_flight = (dict.fromkeys(ids[part]) for part in ("taken", "in_flight"))
        self._waiting = [prompt_id for prompt_id in ids["waiting"] if prompt_id in pool]
        self._gone = [prompt_id for prompt_id in self.selector.prompt_ids if prompt_id not in pool]
        if self._gone:
            logger.warning(
                "%d prompts that were there when the run was saved are not in the pool any more, such as %r: they are "
                "not chosen; put them back to have them chosen again",
                len(self._gone),
                self._gone[0],
            )

    def _parsed(self, state: Mapping[str, Any]) -> tuple[int, int | None, dict[str, list[str]], dict[str, _Ended]]:
        """The session's part of a state: steps, the number of the training step, ids, and groups that have ended."""
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
            strangers = set(ended).union(*ids.values()) - known
            if strangers:
                raise ValueError(f"prompt {next(iter(strangers))!r} is not in its pool")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"the session's state is not whole ({error}): start without it") from None
        return steps, number, ids, ended

    def save(self, path: str | Path) -> None:
        """Write the state to one .npz file (versioned, no pickle), atomically, and bring the history up to date.

        `Selector.load` reads it too: the selector's part.
        """
        write_selector(path, self.state_dict())
        self.write()

    def load(self, path: str | Path) -> None:
        """Read what `save` wrote, or a `Selector`'s file; InputError says what is wrong with it or does not fit."""
        load_selector(path, self.load_state_dict)


class _Ended(NamedTuple):
    """A group that has ended."""

    rewards: dict[str, NDArray[np.float64]]  # (rollout,) of each reward function
    trained: bool


def _plain(rewards: NDArray[np.float64]) -> list[float | None]:
    """(rollout,) rewards as JSON knows them, None where there is none."""
    return [None if np.isnan(reward) else reward for reward in rewards.tolist()]
