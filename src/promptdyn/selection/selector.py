"""Choose the prompts of each training step, and learn from their rewards. NumPy only, in the trainer's process."""

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

# The pool's mean belief entropy is measured on about so many prompts, evenly spaced.
ENTROPY_SAMPLE = 1_000

logger = logging.getLogger(__name__)


class Selector:
    """Chooses the prompts of each training step from the beliefs, and learns from their rewards.

    Args:
        online: a filter over the pool (`model.online(prompts)`, `fit.online(prompts)`).
        strategy: which prompts to take: "proportional" (default), "thompson", "gumbel", "top", "top_entropy",
            "uniform", "greso" or "history_resampling", with settings as in "gumbel:temperature=0.05"; your own in a
            file, "FILE.py:NAME"; or a `Strategy`.
        score: what a prompt is worth: "informative" (default), "reward_variance" or "half_solved"; your own in a file,
            "FILE.py:NAME"; or a function (online, num_rollouts, rng) -> (prompt,) numbers.
        num_generations: number of rollouts per prompt for which forecasts are made; default 8.
        success: what a success is: a number (threshold on the reward), a reward function's name, "FUNCTION>=NUMBER", a
            function of the rewards by name, or "auto" (default), which finds a rule from the first rewards, see
            `promptdyn.success`. While there is no rule, prompts are chosen as by "uniform".
        seed: seed of the selector's own generator, which draws samples and breaks ties; default 0.

    Raises:
        InputError: `online` is no filter, an unknown strategy or score, a setting out of range, or a `success` that is
            no rule.
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
            kind = online.__name__ if isinstance(online, type) else type(online).__name__
            raise InputError(
                f"Selector is given a {kind}: give it a filter over the pool, .online(prompts) of a fit or of a "
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
        # All steps so far while the rule of success may still change, and how many of them the filter has absorbed.
        self._unsettled: list[Groups] = []
        self._absorbed = 0

    @property
    def prompt_ids(self) -> list[str]:
        """(prompt,) ids of the pool."""
        return self.online.prompt_ids

    @property
    def num_prompts(self) -> int:
        """Number of prompts in the pool."""
        return self.online.num_prompts

    @property
    def strategy(self) -> Strategy:
        """The strategy that decides which prompts to take."""
        return self._chooser.strategy

    @property
    def success(self) -> str | None:
        """The rule of success that applies now, as text; None while there is none."""
        return None if self.grader.rule is None else str(self.grader.rule)

    def add(self, prompts: Prompts | Ids) -> None:
        """Add new prompts to the pool. Raises as `OnlineFilter.add` does."""
        self.online.add(prompts)
        self._chooser.add(self.num_prompts - len(self._chooser.times_seen))

    def select(
        self, k: int, exclude: Iterable[str] = (), enough: float | None = None, multiple_of: int = 1
    ) -> list[str]:
        """Choose the prompts of the next step.

        Args:
            k: number of distinct prompts.
            exclude: ids not to choose, such as prompts in flight; default none.
            enough: number of informative groups that suffices. Of the k prompts, only the first that are forecast to
                give so many are returned. Default: all k.
            multiple_of: the number of prompts is a multiple of this if `enough` shortens it; k should be one too.
                Default 1.

        Returns:
            k ids, highest priority first; fewer with `enough`.

        Raises:
            InputError: k < 1, more prompts than the pool has left, or an excluded id that is not in the pool.
        """
        start = time.perf_counter()
        excluded = np.unique(self.online.rows(list(exclude)))
        available = self.num_prompts - excluded.size
        if not 1 <= k <= available:
            left_out = f" less {excluded.size} excluded" if excluded.size else ""
            raise InputError(
                f"cannot select k={k} of {self.num_prompts} prompts{left_out}: k must be from 1 to {available}"
            )
        outlook = Outlook(self.online, self.score, self.num_generations, self._chooser.times_seen)
        rows = self._chooser.choose(k, excluded, self._rng, None if self.grader.rule is None else outlook)
        forecast = self.online.informative(self.num_generations, rows=rows)
        if enough is not None:
            needed = int(np.searchsorted(np.cumsum(forecast), enough - 1e-9)) + 1
            num_taken = min(-(-needed // multiple_of) * multiple_of, k)
            rows, forecast = rows[:num_taken], forecast[:num_taken]
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
        """Learn from one training step's rewards. Every other prompt ages by one step.

        Args:
            prompt_ids: (group,) ids of the prompts rolled out, each once.
            rewards: (group, rollout) rewards, or {reward function: (group, rollout) rewards}. None and NaN are rollouts
                without a reward. A rollout without a grade does not count in n, and a group without any grade counts as
                not rolled out. Groups may differ in length.
            trained: (group,) whether the group feeds the gradient, or one value for all. Default True.
            weights: (function,) weights of the reward functions in the folded reward; default 1 each.
            step: number of the training step, for a record; default the number of steps observed so far.

        Returns:
            The counts that were absorbed; no group while there is no rule of success.

        Raises:
            InputError: an unknown or repeated id, not one row of rewards and one flag per id, or a rule of success that
                names an unknown reward function. Nothing is absorbed then.
        """
        start = time.perf_counter()
        ids = [str(prompt_id) for prompt_id in prompt_ids]
        self.online.rows(ids, distinct=True)  # ids are checked even if their groups have no grade
        reward_table, group = rewards_of(rewards, ids, weights)
        try:
            flags = np.asarray(trained)
        except ValueError:
            raise InputError("trained is neither a flag nor a list of flags: give one flag per prompt") from None
        if flags.ndim and flags.shape != (len(ids),):
            raise InputError(f"trained has shape {flags.shape} for {len(ids)} prompts: give one flag per prompt")
        number = self.online.steps + len(self._unsettled) - self._absorbed if step is None else step
        if flags.size and flags.dtype.kind != "b":
            raise InputError(f"trained is of type {flags.dtype}: give booleans, one flag per prompt")
        groups = Groups(number, ids, reward_table, group, np.broadcast_to(flags, (len(ids),)).astype(bool))
        observation = self._learn(groups)

        self._chooser.count(self.online.rows(groups.rolled_out), self.online.steps)
        if self.grader.rule is not None:
            self._watch.see(groups, observation, self.grader.rule)
        self._metrics["informative"] = (
            float(observation.informative.mean()) if len(observation.prompt_ids) else float("nan")
        )
        self._metrics["ungraded_groups"] = float(len(ids) - len(observation.prompt_ids))
        self._metrics["observe_time_s"] = time.perf_counter() - start
        return observation

    def mixed(
        self,
        prompt_ids: Ids,
        rewards: StepRewards | Mapping[str, StepRewards],
        weights: Sequence[float] | None = None,
    ) -> NDArray[np.bool_] | None:
        """Tell which groups `observe` would find informative now, without learning from them.

        Args:
            prompt_ids, rewards, weights: as in `observe`.

        Returns:
            (group,) flags; None if there is no rule of success, even from these rewards.

        Raises:
            InputError: not one row of rewards per id, or a rule that names an unknown reward function.
        """
        ids = [str(prompt_id) for prompt_id in prompt_ids]
        reward_table, group = rewards_of(rewards, ids, weights)
        grader = self.grader
        if not grader.settled:
            grader = deepcopy(grader)
            grader.see(reward_table)
        if grader.rule is None:
            return None
        observation = Groups(self.online.steps, ids, reward_table, group, np.ones(len(ids), bool)).count_by(grader)
        is_informative = dict(zip(observation.prompt_ids, observation.informative, strict=True))
        return np.array([is_informative.get(prompt_id, False) for prompt_id in ids], bool)

    def settle(self) -> tuple[Observation, ...]:
        """Make final the best rule of success that the rewards so far give, as at the end of a run.

        Returns:
            The observations of all steps so far by that rule; none if it has applied to all of them already.
        """
        if self.grader.settled:
            return ()
        before = self.grader.rule
        self.grader.settle()
        if not self.grader.settled:
            return ()
        same = self.grader.rule == before and self._absorbed == len(self._unsettled)
        observations = () if same else self._relearn()
        self._forget()
        return observations

    def _learn(self, groups: Groups) -> Observation:
        """Absorb a step, and again all steps before it if this one changes the rule of success."""
        if self.grader.settled:
            return self._absorb(groups.count_by(self.grader))
        before = self.grader.rule
        self.grader.see(groups.rewards)
        self._unsettled.append(groups)
        if self.grader.rule is None:
            observation = groups.count_by(self.grader)
        elif self.grader.rule == before and self._absorbed == len(self._unsettled) - 1:
            observation = self._absorb(groups.count_by(self.grader))
            self._absorbed += 1
        else:
            *earlier, observation = self._relearn()
            observation = observation._replace(earlier=tuple(earlier))
        if self.grader.settled:
            self._forget()
        return observation

    def _relearn(self) -> tuple[Observation, ...]:
        """Observe all steps again by the present rule, in place of what another rule made of them."""
        if self.online.steps == self._absorbed:  # a filter with earlier knowledge is not reset
            self.online.reset()
            self._absorbed = 0
        self._chooser.forget()
        steps = tuple(groups.count_by(self.grader) for groups in self._unsettled)
        for observation in steps[: self._absorbed]:
            self._show_strategy(observation)
        for observation in steps[self._absorbed :]:
            self._absorb(observation)
        self._absorbed = len(steps)
        return steps

    def _absorb(self, observation: Observation) -> Observation:
        self._show_strategy(observation)  # before the filter's step, since a user's strategy may fail
        self.online.step(
            observation.prompt_ids, observation.num_successes, observation.num_rollouts, observation.trained
        )
        return observation

    def _show_strategy(self, observation: Observation) -> None:
        """Show a step to the strategy."""
        rows = self.online.rows(observation.prompt_ids)
        self._chooser.learn(rows, observation.num_successes, observation.num_rollouts, observation.trained)

    def _forget(self) -> None:
        """Drop the steps that were kept, since the rule is final, and log the rule."""
        self._unsettled, self._absorbed = [], 0
        if self.grader.notice:
            logger.warning("%s", self.grader.notice)

    def metrics(self) -> dict[str, float]:
        """Return measures of the last step, for a trainer's log.

        `predicted_informative` and `informative` are the effective-sample ratio of the chosen prompts, as forecast and
        as realized; `coverage` is the share of the pool rolled out so far; `belief_entropy` the mean entropy in nats of
        the forecast outcome; `ungraded_groups` the number of groups without a grade; `select_time_s` and
        `observe_time_s` are times in seconds.
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
        """Return strategy and score as text, the same in every process."""
        return f"{text_of(self.strategy)} on score {text_of(self.score)}"

    def _settings(self) -> dict[str, Any]:
        """Return the settings that a saved state must share."""
        return {
            "choice": self._choice(),
            "num_generations": self.num_generations,
            "success": str(self.grader),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to go on as if the run had never stopped."""
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

        Prompts are matched by id, see `OnlineFilter.load_state_dict`. If the state lacks prompts of the pool, a log
        line tells how many.

        Raises:
            InputError: the state was saved with another model, another pool (no prompt in common), or another strategy,
                score, num_generations or success; or it is damaged. The selector is left unchanged.
        """
        for setting, value in self._settings().items():
            # Earlier versions called a strategy a policy, and "proportional" never drew scores.
            earlier = value.replace(", drawn=False", "") if isinstance(value, str) else value
            if setting in state and state[setting] not in (value, earlier, f"policy {earlier}"):
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
            chooser = Chooser.resumed(
                self.strategy, times_seen.astype(np.int32), state.get("strategy", {"arrays": {}})["arrays"]
            )
            self.online.load_state_dict(state["online"])
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"the selector's state is not whole ({error!r}): start without it") from None
        num_new = self.num_prompts - len(times_seen)
        if num_new:
            logger.warning("%d prompts were not there when the selector was saved: they join the pool", num_new)
            chooser.add(num_new)
        self._chooser = chooser
        self._rng, self._metrics = rng, metrics
        self.grader, self._unsettled, self._absorbed = grader, unsettled, absorbed

    def save(self, path: str | Path) -> None:
        """Write the state to one .npz file, atomically; the file has a version and needs no pickle."""
        write_selector(path, self.state_dict())

    def load(self, path: str | Path) -> None:
        """Go on from a file that `save` wrote.

        Raises:
            InputError: the file is missing or damaged, or as in `load_state_dict`.
        """
        load_selector(path, self.load_state_dict)
