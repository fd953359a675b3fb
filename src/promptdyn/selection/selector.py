"""The object a trainer holds: asks for prompts, is told their rewards. NumPy only, in the trainer's own process."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from promptdyn.errors import InputError, PromptdynWarning
from promptdyn.online import OnlineFilter
from promptdyn.selection.policies import POLICIES, Policy, entropy
from promptdyn.selection.policies import take as take_rows
from promptdyn.selection.scores import SCORES, Score
from promptdyn.storage import read_state, write_state

__all__ = ["Observation", "Selector"]

# Prompts that the pool's mean belief entropy is measured on, evenly spaced.
ENTROPY_SAMPLE = 1_000
# Steps without a prompt that is new after which the choice has got stuck.
STALLED = 50


class Observation(NamedTuple):
    """What `Selector.observe` made of the rewards: the groups with at least one graded rollout."""

    prompt_ids: list[str]
    num_rollouts: NDArray[np.int64]  # (group,) graded rollouts
    num_successes: NDArray[np.int64]  # (group,)
    informative: NDArray[np.bool_]  # (group,) 0 < k < n
    trained: NDArray[np.bool_]  # (group,) whether it feeds the gradient


class Selector:
    """Chooses the prompts of each training step from the beliefs, and learns from their rewards.

    Args:
        online: filter over the pool (`model.online(ids)`, `fit.online(ids)`).
        policy: which prompts to take: "proportional" (default), "thompson", "gumbel", "top", "top_entropy", "uniform",
            with settings as in "gumbel:temperature=0.05", or a `Policy`.
        score: what a prompt is worth: "informative" (default), "reward_variance", "half_solved", or a function.
        num_generations: rollouts per prompt that forecasts are made for; default 8.
        success_threshold: a rollout succeeds when its reward is at least this; default 0.5.
        seed: of the selector's own generator, which draws samples and breaks ties.

    Raises:
        InputError: an unknown policy or score, or a setting out of range.
    """

    def __init__(
        self,
        online: OnlineFilter,
        policy: str | Policy = "proportional",
        score: str | Score = "informative",
        num_generations: int = 8,
        success_threshold: float = 0.5,
        seed: int = 0,
    ) -> None:
        if num_generations < 2:
            raise InputError(
                f"num_generations={num_generations}: a group of fewer than 2 rollouts cannot be informative"
            )
        if not np.isfinite(success_threshold):
            raise InputError(f"success_threshold={success_threshold} is not finite: give the least reward of a success")
        if isinstance(score, str) and score not in SCORES:
            raise InputError(f"score {score!r} is none of {', '.join(SCORES)}")
        self.online = online
        self.policy: Policy = POLICIES.parse_one(policy) if isinstance(policy, str) else policy
        self.score: Score = SCORES[score] if isinstance(score, str) else score
        self.num_generations, self.success_threshold = num_generations, success_threshold
        self._rng = np.random.default_rng(seed)
        self._times_seen = np.zeros(online.num_prompts, np.int32)
        self._metrics: dict[str, float] = {}
        self._steps_without_new = 0

    @property
    def prompt_ids(self) -> list[str]:
        """(prompt,) ids of the pool."""
        return self.online.prompt_ids

    @property
    def num_prompts(self) -> int:
        return self.online.num_prompts

    def add(
        self,
        prompt_ids: Sequence[str],
        clusters: Sequence[str | None] | None = None,
        features: ArrayLike | None = None,
    ) -> None:
        """Let new prompts join the pool; raises as `OnlineFilter.add`."""
        self.online.add(prompt_ids, clusters, features)
        self._times_seen = np.concatenate([self._times_seen, np.zeros(len(prompt_ids), np.int32)])

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
        given = self.policy.priorities(self.online, self.score, self.num_generations, self._rng)
        priorities = np.asarray(given, dtype=float)
        if priorities.shape != (self.num_prompts,):
            raise InputError(
                f"{self._choice()} gave priorities of shape {priorities.shape} for {self.num_prompts} prompts"
            )
        unknown = np.flatnonzero(np.isnan(priorities))
        if unknown.size:
            raise InputError(f"{self._choice()} gave prompt {self.online.ids(unknown[:1])[0]!r} the priority NaN")
        rows = take_rows(priorities, k, excluded, self._rng, self._times_seen)
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
        prompt_ids: Sequence[str],
        rewards: ArrayLike | Sequence[Sequence[float | None]],
        trained: Sequence[bool] | bool = True,
    ) -> Observation:
        """Learn from one training step's rewards; every other prompt ages by one step.

        Args:
            prompt_ids: (group,) ids rolled out, each once.
            rewards: (group, rollout) rewards. None and NaN are rollouts without a grade: they are counted out of
                n, and a group without any grade counts as not rolled out. Groups may differ in length.
            trained: (group,) or one flag: whether the group feeds the gradient. Default True.

        Returns:
            The counts that were absorbed.

        Raises:
            InputError: unknown or repeated id, or not one row of rewards and one flag per id; nothing is absorbed then.
        """
        start = time.perf_counter()
        ids = [str(prompt_id) for prompt_id in prompt_ids]
        self.online.rows(ids, distinct=True)  # an id is checked even where its group is counted out
        num_rollouts, num_successes = _counts(rewards, ids, self.success_threshold)
        graded = num_rollouts > 0
        seen = [prompt_id for prompt_id, keep in zip(ids, graded, strict=True) if keep]
        num_rollouts, num_successes = num_rollouts[graded], num_successes[graded]
        try:
            flags = np.asarray(trained)
        except ValueError:
            raise InputError("trained is neither a flag nor a list of flags: give one flag per prompt") from None
        if flags.ndim and flags.shape != graded.shape:
            raise InputError(f"trained has shape {flags.shape} for {len(ids)} prompts: give one flag per prompt")
        flags = np.broadcast_to(flags, graded.shape)[graded]
        self.online.step(seen, num_successes, num_rollouts, flags)

        informative = (num_successes > 0) & (num_successes < num_rollouts)
        rows = self.online.rows(seen)
        self._watch_coverage(bool(np.any(self._times_seen[rows] == 0)))
        self._times_seen[rows] += 1
        self._metrics["informative"] = float(informative.mean()) if len(seen) else float("nan")
        self._metrics["ungraded_groups"] = float(len(ids) - len(seen))
        self._metrics["observe_time_s"] = time.perf_counter() - start
        return Observation(seen, num_rollouts, num_successes, informative, flags)

    def _watch_coverage(self, new: bool) -> None:
        """Warn once where `top` keeps to a few prompts: others are never learned of, and the policy forgets them."""
        self._steps_without_new = 0 if new else self._steps_without_new + 1
        coverage = np.count_nonzero(self._times_seen) / self.num_prompts
        if self._steps_without_new == STALLED and self.policy.name == "top" and coverage < 0.5:
            warnings.warn(
                f"step {self.online.steps}: no new prompt for {STALLED} steps, {coverage:.0%} of the pool ever rolled "
                "out: policy 'top' takes the same prompts again and again; use 'proportional'",
                PromptdynWarning,
                stacklevel=3,
            )

    def metrics(self) -> dict[str, float]:
        """What happened in the last step, for a trainer's log.

        `predicted_informative` and `informative`: effective-sample ratio forecast for the chosen prompts, and
        realised; `coverage`: share of the pool rolled out so far; `belief_entropy`: mean entropy in nats of the
        forecast none / some / all; `ungraded_groups`; `select_time_s`, `observe_time_s`.
        """
        every = max(1, self.num_prompts // ENTROPY_SAMPLE)
        return {
            **self._metrics,
            "coverage": float(np.count_nonzero(self._times_seen) / self.num_prompts),
            "belief_entropy": float(
                entropy(self.online.outcome(self.num_generations, slice(None, None, every))).mean()
            ),
        }

    def _choice(self) -> str:
        """Policy and score in words, the same in every process."""
        settings = ", ".join(f"{name}={value!r}" for name, value in vars(self.policy).items())
        score = getattr(self.score, "__name__", type(self.score).__name__)
        return f"policy {self.policy.name}({settings}) on score {score}"

    def _settings(self) -> dict[str, Any]:
        return {
            "choice": self._choice(),
            "num_generations": self.num_generations,
            "success_threshold": self.success_threshold,
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on choosing as if never stopped: beliefs, generator, coverage."""
        return {
            **self._settings(),
            "online": self.online.state_dict(),
            "rng": self._rng.bit_generator.state,
            "times_seen": self._times_seen.copy(),
            "metrics": dict(self._metrics),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state.

        Raises:
            InputError: saved with another model, pool, policy, score, num_generations or success_threshold, or not
                whole; the selector is as it was then.
        """
        for setting, value in self._settings().items():
            if setting in state and state[setting] != value:
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
            self.online.load_state_dict(state["online"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"the selector's state is not whole ({error!r}): start without it") from None
        self._rng, self._times_seen, self._metrics = rng, times_seen.astype(np.int32), metrics

    def save(self, path: str | Path) -> None:
        """Write the state to one .npz file (versioned, no pickle), atomically."""
        state = self.state_dict()
        arrays = {f"online/{name}": array for name, array in state["online"].pop("arrays").items()}
        write_state(path, "selector", state, {**arrays, "times_seen": state.pop("times_seen")})

    def load(self, path: str | Path) -> None:
        """Read what `save` wrote; InputError says what is wrong with the file or does not fit this selector."""
        state, arrays = read_state(path, "selector")
        if "times_seen" in arrays:
            state["times_seen"] = arrays.pop("times_seen")
        online = {name.removeprefix("online/"): array for name, array in arrays.items()}
        try:
            values = state.get("online", {})
            if not isinstance(values, dict):
                raise InputError(f"the selector's state is not whole (online={values!r}): start without it")
            self.load_state_dict({**state, "online": {**values, "arrays": online}})
        except InputError as error:
            raise InputError(f"{path}: {error}") from None


def _counts(rewards: Any, ids: list[str], threshold: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(group,) graded rollouts and (group,) those whose reward is at least the threshold."""
    try:
        rows = rewards if isinstance(rewards, np.ndarray) else list(rewards)
        num_rows = len(rows)
    except TypeError:
        raise InputError(f"rewards are a {type(rewards).__name__}: give one row of rewards per prompt") from None
    if num_rows != len(ids):
        raise InputError(f"{len(rows)} rows of rewards for {len(ids)} prompts: give one row of rewards per prompt")
    if isinstance(rows, np.ndarray) and rows.ndim == 2 and rows.dtype.kind in "biuf":  # all at once, for speed
        return np.sum(~np.isnan(rows), axis=1), np.sum(rows >= threshold, axis=1)
    groups = [_grades(group, prompt_id) for group, prompt_id in zip(rows, ids, strict=True)]
    successes = [np.count_nonzero(group >= threshold) for group in groups]
    return np.array([len(group) for group in groups], np.int64), np.array(successes, np.int64)


def _grades(group: Any, prompt_id: str) -> NDArray[np.float64]:
    """(graded,) rewards of one group without None and NaN."""
    try:
        given = np.asarray(group)
        if given.dtype.kind not in "biuf" and any(isinstance(reward, str | bytes | complex) for reward in given.flat):
            raise TypeError  # NumPy would read "1" as a number, and 1j as 0
        values = given.astype(np.float64)  # None becomes NaN
    except (TypeError, ValueError):
        raise InputError(f"rewards of prompt {prompt_id!r} are not numbers: {group!r}") from None
    if values.ndim != 1:
        raise InputError(f"rewards of prompt {prompt_id!r} have shape {values.shape}: need one row, (rollout,)")
    return values[~np.isnan(values)]
