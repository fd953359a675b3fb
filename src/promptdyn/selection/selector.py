"""The object a trainer holds: asks for prompts, is told their rewards. NumPy only, in the trainer's own process."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError
from promptdyn.online import OnlineFilter
from promptdyn.prompts import Ids, Prompts
from promptdyn.registry import text_of
from promptdyn.selection.chooser import Chooser
from promptdyn.selection.files import load_selector, write_selector
from promptdyn.selection.groups import Groups, Observation, StepRewards, packed, rewards_of, unpacked
from promptdyn.selection.scores import SCORES, Score, entropy
from promptdyn.selection.strategies import STRATEGIES, Outlook, Strategy
from promptdyn.selection.watch import SuccessWatch
from promptdyn.success import AUTO, Grader, Success

__all__ = ["Observation", "Selector"]

# Prompts that the pool's mean belief entropy is measured on, evenly spaced.
ENTROPY_SAMPLE = 1_000

logger = logging.getLogger(__name__)


class Selector:
    """Chooses the prompts of each training step from the beliefs, and learns from their rewards.

    Args:
        online: filter over the pool (`model.online(prompts)`, `fit.online(prompts)`).
        strategy: which prompts to take: "proportional" (default), "thompson", "gumbel", "top", "top_entropy",
            "uniform", "greso", "history_resampling", with settings as in "gumbel:temperature=0.05", one of a file,
            "FILE.py:NAME", or a `Strategy`.
        score: what a prompt is worth: "informative" (default), "reward_variance", "half_solved", one of a file,
            "FILE.py:NAME", or a function (online, num_rollouts, rng) -> (prompt,) numbers.
        num_generations: rollouts per prompt that forecasts are made for; default 8.
        success: what a success is: a number (threshold on the reward), a reward function's name, "FUNCTION>=NUMBER", a
            function of the rewards by name, or "auto" (default): found from the first rewards, see
            `promptdyn.success`. Until it can be told, prompts are chosen as "uniform" does.
        seed: of the selector's own generator, which draws samples and breaks ties.

    Raises:
        InputError: no filter (a model or a fit makes one, `.online(prompts)`), an unknown strategy or score, a setting
            out of range, or a `success` that is no rule.
    """

    def __init__(
        self,
        online: OnlineFilter,
        strategy: str | Strategy = "proportional",
        score: str | Score = "informative",
        num_generations: int = 8,
        success: Success = AUTO,
        seed: int = 0,
    ) -> None:
        if not isinstance(online, OnlineFilter):
            what = online.__name__ if isinstance(online, type) else type(online).__name__
            raise InputError(
                f"Selector is given a {what}: give it a filter over the pool, .online(prompts) of a fit or of a "
                "model that learns online"
            )
        if num_generations < 2:
            raise InputError(
                f"num_generations={num_generations}: a group of fewer than 2 rollouts cannot be informative"
            )
        self.online = online
        self.score = SCORES.resolve(score)
        self.num_generations = num_generations
        self.grader = Grader(success)
        self._rng = np.random.default_rng(seed)
        self._chooser = Chooser(STRATEGIES.resolve(strategy), online.num_prompts)
        self._metrics: dict[str, float] = {}
        self._watch = SuccessWatch()
        # All steps, while the rule of success may still change, and how many of them the filter has absorbed.
        self._unsettled: list[Groups] = []
        self._absorbed = 0

    @property
    def prompt_ids(self) -> list[str]:
        """(prompt,) ids of the pool."""
        return self.online.prompt_ids

    @property
    def num_prompts(self) -> int:
        return self.online.num_prompts

    @property
    def strategy(self) -> Strategy:
        """Which prompts are taken."""
        return self._chooser.strategy

    @property
    def success(self) -> str | None:
        """The rule of success in force, as `promptdyn.success` writes it; None while it cannot be told."""
        return None if self.grader.rule is None else str(self.grader.rule)

    def add(self, prompts: Prompts | Ids) -> None:
        """Let new prompts join the pool; raises as `OnlineFilter.add`."""
        self.online.add(prompts)
        self._chooser.add(self.num_prompts - len(self._chooser.times_seen))

    def select(
        self, k: int, exclude: Iterable[str] = (), enough: float | None = None, multiple_of: int = 1
    ) -> list[str]:
        """Choose the prompts of the next step.

        Args:
            k: how many distinct prompts.
            exclude: ids not to choose, such as prompts still in flight.
            enough: informative groups that will do: the rest of the k is left out once so many are forecast among the
                first. Default: all k.
            multiple_of: what the number of prompts is to be a multiple of where it is cut so; k should be one too.

        Returns:
            k ids or, with `enough`, some of them: highest priority first.

        Raises:
            InputError: k < 1, more than the pool has left, or an excluded id that is not in the pool.
        """
        start = time.perf_counter()
        excluded = np.unique(self.online.rows(list(exclude)))
        available = self.num_prompts - excluded.size
        if not 1 <= k <= available:
            left_out = f" less {excluded.size} excluded" if excluded.size else ""
            raise InputError(
                f"cannot select k={k} of {self.num_prompts} prompts{left_out}: k must be from 1 to {available}"
            )
        known = Outlook(self.online, self.score, self.num_generations, self._chooser.times_seen)
        rows = self._chooser.take(k, excluded, self._rng, None if self.grader.rule is None else known)
        forecast = self.online.informative(self.num_generations, rows=rows)
        if enough is not None:
            needed = int(np.searchsorted(np.cumsum(forecast), enough - 1e-9)) + 1
            kept = min(-(-needed // multiple_of) * multiple_of, k)
            rows, forecast = rows[:kept], forecast[:kept]
        self._metrics["predicted_informative"] = float(forecast.mean())
        self._metrics["select_time_s"] = time.perf_counter() - start
        return self.online.ids(rows)

    def observe(
        self,
        prompt_ids: Ids,
        rewards: StepRewards | Mapping[str, StepRewards],
        trained: Sequence[bool] | NDArray[np.bool_] | bool = True,
        weights: Sequence[float] | None = None,
        step: int | None = None,
    ) -> Observation:
        """Learn from one training step's rewards; every other prompt ages by one step.

        Args:
            prompt_ids: (group,) ids rolled out, each once.
            rewards: (group, rollout) rewards, or {reward function: (group, rollout) rewards}. None and NaN are rollouts
                without a reward. A rollout without a grade is counted out of n, and a group without any counts as not
                rolled out. Groups may differ in length.
            trained: (group,) or one flag: whether the group feeds the gradient. Default True.
            weights: (function,) of the reward functions in the folded reward; default 1 each.
            step: the training step, for whoever records it; default the number of steps told so far.

        Returns:
            The counts that were absorbed; no group while the rule of success cannot be told.

        Raises:
            InputError: unknown or repeated id, not one row of rewards and one flag per id, or a reward function that
                the rule of success names and that is not there; nothing is absorbed then.
        """
        start = time.perf_counter()
        ids = [str(prompt_id) for prompt_id in prompt_ids]
        self.online.rows(ids, distinct=True)  # an id is checked even where its group is counted out
        given, group = rewards_of(rewards, ids, weights)
        try:
            flags = np.asarray(trained)
        except ValueError:
            raise InputError("trained is neither a flag nor a list of flags: give one flag per prompt") from None
        if flags.ndim and flags.shape != (len(ids),):
            raise InputError(f"trained has shape {flags.shape} for {len(ids)} prompts: give one flag per prompt")
        number = self.online.steps + len(self._unsettled) - self._absorbed if step is None else step
        if flags.size and flags.dtype.kind != "b":
            raise InputError(f"trained is of type {flags.dtype}: give booleans, one flag per prompt")
        groups = Groups(number, ids, given, group, np.broadcast_to(flags, (len(ids),)).astype(bool))
        seen = self._learn(groups)

        self._chooser.see(self.online.rows(groups.rolled_out), self.online.steps)
        if self.grader.rule is not None:
            self._watch.see(groups, seen, self.grader.rule)
        self._metrics["informative"] = float(seen.informative.mean()) if len(seen.prompt_ids) else float("nan")
        self._metrics["ungraded_groups"] = float(len(ids) - len(seen.prompt_ids))
        self._metrics["observe_time_s"] = time.perf_counter() - start
        return seen

    def mixed(
        self,
        prompt_ids: Ids,
        rewards: StepRewards | Mapping[str, StepRewards],
        weights: Sequence[float] | None = None,
    ) -> NDArray[np.bool_] | None:
        """Which groups `observe` would find informative, were it told of them now; nothing is learned.

        Args:
            prompt_ids, rewards, weights: as those of `observe`.

        Returns:
            (group,) flags; None where the rule of success cannot be told even from these rewards.

        Raises:
            InputError: not one row of rewards per id, or a reward function that the rule names and that is not there.
        """
        ids = [str(prompt_id) for prompt_id in prompt_ids]
        given, group = rewards_of(rewards, ids, weights)
        grader = self.grader
        if not grader.settled:
            grader = deepcopy(grader)
            grader.see(given)
        if grader.rule is None:
            return None
        seen = Groups(self.online.steps, ids, given, group, np.ones(len(ids), bool)).counted(grader)
        mixed = dict(zip(seen.prompt_ids, seen.informative, strict=True))
        return np.array([mixed.get(prompt_id, False) for prompt_id in ids], bool)

    def settle(self) -> tuple[Observation, ...]:
        """Let the rule of success stay that is best by what was told so far: a run ends, or its record is wanted.

        Returns:
            What the steps so far show by it; nothing where the rule has been in force for all of them.
        """
        if self.grader.settled:
            return ()
        before = self.grader.rule
        self.grader.settle()
        if not self.grader.settled:
            return ()
        same = self.grader.rule == before and self._absorbed == len(self._unsettled)
        seen = () if same else self._relearn()
        self._forget()
        return seen

    def _learn(self, groups: Groups) -> Observation:
        """Absorb a step, and the steps before it where this one changes the rule of success."""
        if self.grader.settled:
            return self._absorb(groups.counted(self.grader))
        before = self.grader.rule
        self.grader.see(groups.rewards)
        self._unsettled.append(groups)
        if self.grader.rule is None:
            seen = groups.counted(self.grader)
        elif self.grader.rule == before and self._absorbed == len(self._unsettled) - 1:
            seen = self._absorb(groups.counted(self.grader))
            self._absorbed += 1
        else:
            *earlier, seen = self._relearn()
            seen = seen._replace(earlier=tuple(earlier))
        if self.grader.settled:
            self._forget()
        return seen

    def _relearn(self) -> tuple[Observation, ...]:
        """Absorb all steps by the rule in force now, in place of what was absorbed by another rule."""
        if self.online.steps == self._absorbed:  # a filter that knew something before keeps all that it has absorbed
            self.online.reset()
            self._absorbed = 0
        self._chooser.forget()
        steps = tuple(groups.counted(self.grader) for groups in self._unsettled)
        for seen in steps[: self._absorbed]:
            self._show(seen)
        for seen in steps[self._absorbed :]:
            self._absorb(seen)
        self._absorbed = len(steps)
        return steps

    def _absorb(self, seen: Observation) -> Observation:
        self._show(seen)  # first: a strategy of one's own may fail
        self.online.step(seen.prompt_ids, seen.num_successes, seen.num_rollouts, seen.trained)
        return seen

    def _show(self, seen: Observation) -> None:
        """Let the strategy see a step."""
        rows = self.online.rows(seen.prompt_ids)
        self._chooser.learn(rows, seen.num_successes, seen.num_rollouts, seen.trained)

    def _forget(self) -> None:
        """Let go of the steps that were kept, since the rule stays."""
        self._unsettled, self._absorbed = [], 0
        if self.grader.notice:
            logger.warning("%s", self.grader.notice)

    def metrics(self) -> dict[str, float]:
        """What happened in the last step, for a trainer's log.

        `predicted_informative` and `informative`: effective-sample ratio forecast for the chosen prompts, and
        realized; `coverage`: share of the pool rolled out so far; `belief_entropy`: mean entropy in nats of the
        forecast none / some / all; `ungraded_groups`; `select_time_s`, `observe_time_s`.
        """
        every = max(1, self.num_prompts // ENTROPY_SAMPLE)
        return {
            **self._metrics,
            "coverage": float(self._chooser.coverage),
            "belief_entropy": float(
                entropy(self.online.outcome(self.num_generations, slice(None, None, every))).mean()
            ),
        }

    def _choice(self) -> str:
        """Strategy and score in words, the same in every process."""
        return f"{text_of(self.strategy)} on score {text_of(self.score)}"

    def _settings(self) -> dict[str, Any]:
        return {
            "choice": self._choice(),
            "num_generations": self.num_generations,
            "success": str(self.grader),
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on choosing as if never stopped."""
        return {
            **self._settings(),
            "online": self.online.state_dict(),
            "rng": self._rng.bit_generator.state,
            "times_seen": self._chooser.times_seen.copy(),
            "strategy": {"arrays": self._chooser.state_dict()},
            "metrics": dict(self._metrics),
            "grader": self.grader.state_dict(),
            "unsettled": packed(self._unsettled, self.online.rows),
            "absorbed": self._absorbed,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state.

        Prompts go by their ids, see `OnlineFilter.load_state_dict`. A line says how many of the pool the state has not.

        Raises:
            InputError: saved with another model, another pool (no prompt in common), strategy, score, num_generations
                or success, or not whole; the selector is as it was then.
        """
        for setting, value in self._settings().items():
            # A strategy was called a policy once.
            if setting in state and state[setting] not in (value, f"policy {value}"):
                raise InputError(
                    f"the selector was saved with {setting} {state[setting]}, this one has {value}: "
                    "use the saved setting, or start without the saved state"
                )
        try:
            rng = np.random.default_rng()
            rng.bit_generator.state = state["rng"]
            times_seen = np.array(state["times_seen"])
            metrics = dict(state["metrics"])
            if times_seen.shape != (len(state["online"]["prompt_ids"]),) or times_seen.dtype.kind not in "iu":
                raise InputError(
                    f"the selector's state is not whole (times_seen of shape {times_seen.shape} and type "
                    f"{times_seen.dtype}): start without it"
                )
            unsettled, absorbed = unpacked(state["unsettled"], state["online"]["prompt_ids"]), state["absorbed"]
            if not isinstance(absorbed, int) or not 0 <= absorbed <= len(unsettled):
                raise InputError(f"the selector's state is not whole (absorbed={absorbed!r}): start without it")
            grader = self.grader.resumed(state["grader"], [groups.rewards for groups in unsettled])
            chooser = Chooser.loaded(
                self.strategy, times_seen.astype(np.int32), state.get("strategy", {"arrays": {}})["arrays"]
            )
            self.online.load_state_dict(state["online"])
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"the selector's state is not whole ({error!r}): start without it") from None
        joined = self.num_prompts - len(times_seen)
        if joined:
            logger.warning("%d prompts were not there when the selector was saved: they join the pool", joined)
            chooser.add(joined)
        self._chooser = chooser
        self._rng, self._metrics = rng, metrics
        self.grader, self._unsettled, self._absorbed = grader, unsettled, absorbed

    def save(self, path: str | Path) -> None:
        """Write the state to one .npz file (versioned, no pickle), atomically."""
        write_selector(path, self.state_dict())

    def load(self, path: str | Path) -> None:
        """Read what `save` wrote; InputError says what is wrong with the file or does not fit this selector."""
        load_selector(path, self.load_state_dict)
