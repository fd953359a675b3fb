"""Roll out a pool of prompts with one model, and count the successes of each."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError
from promptdyn.history import RewardHistory
from promptdyn.prompts import Prompts
from promptdyn.selection import meets
from promptdyn.selection.groups import Groups
from promptdyn.storage import check_target
from promptdyn.success import Grader, Rewards
from promptdyn.training import policy
from promptdyn.training.checkpoints import steps_done
from promptdyn.training.dataset import distinct, fetch
from promptdyn.training.interrupts import terminable
from promptdyn.training.recipes import selector_recipe
from promptdyn.training.record.log import RolloutLog
from promptdyn.training.record.settings import RecordSettings
from promptdyn.training.rollout import ROLLOUT_ENGINES, Generator, Sampling, function_names, grade, roll_out
from promptdyn.training.run.inputs import load_inputs
from promptdyn.training.run.settings import grpo_settings

__all__ = ["Progress", "Recording", "record"]

Progress = Callable[[int, int, Mapping[str, float]], None]
"""A function of (prompts rolled out, prompts in all, numbers to watch by name)."""

# Columns whose pictures TRL shows to the model.
PICTURES = ("image", "images")
# A share of rollouts without an end above which a line tells it: their answers were probably never given.
MANY_CUT_OFF = 0.5

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recording:
    """A finished recording.

    Attributes:
        history: a row for each prompt that has a grade.
        log_path: the log of rollouts, which may be deleted.
        prompts: number of prompts rolled out, now and before.
        tokens: number of tokens of all rollouts.
        cut_off: number of rollouts that reached `max_completion_length` without an end.
        seconds: wall-clock seconds of rolling out, without loading; 0 if nothing was left to do.
        started: number of prompts that were rolled out before.
    """

    history: RewardHistory
    log_path: Path
    prompts: int
    tokens: int
    cut_off: int
    seconds: float
    started: int

    @property
    def prompts_per_second(self) -> float:
        """Prompts rolled out in a second; NaN if nothing was left to do."""
        return (self.prompts - self.started) / self.seconds if self.seconds else math.nan

    def tell_doubts(self, sampling: Sampling) -> None:
        """Log what makes the counts doubtful."""
        rollouts, summary = self.prompts * sampling.num_generations, self.history.summary()
        if self.cut_off > MANY_CUT_OFF * rollouts:
            logger.warning(
                "%d of %d rollouts reached max_completion_length=%d without an end: their answers may be missing; "
                "allow more tokens",
                self.cut_off,
                rollouts,
                sampling.max_completion_length,
            )
        if summary["success_rate"] in (0.0, 1.0):
            logger.warning(
                "%s of %d rollouts succeeded by the rule %r: check the reward and the prompts' format, with "
                "log_completions in another recording",
                "none" if summary["success_rate"] == 0 else "all",
                summary["rollouts"],
                self.history.success,
            )
        if ungraded := self.prompts - len(self.history):
            logger.warning("%d of %d prompts have no grade and no row in the history", ungraded, self.prompts)


def record(settings: RecordSettings, progress: Progress | None = None) -> Recording:
    """Roll out prompts into a history, and go on where an earlier call with the same settings was cut off.

    Every batch of rollouts is logged in HISTORY.rollouts.jsonl as soon as it is graded. The history is written at the
    end, and also if the recording is stopped by Ctrl-C or SIGTERM. The rewards of the log do not depend on the rule of
    success: to count by another one, call this again with another `success`.

    Args:
        settings: settings of the recording.
        progress: function that is called after each batch; default none.

    Returns:
        The recording. Its rows have `trained` false, and the history's `pool_size` is the dataset's.

    Raises:
        InputError: a setting is out of range; the model, the dataset, a reward function or the engine cannot be used;
            the log was begun with other settings; or no rollout has a grade.
    """
    job = _Job(settings)
    with RolloutLog.locked(job.log_path):
        log = RolloutLog.open(job.log_path, job.facts, job.prompt_ids)
        started = len(log.groups)
        seconds = job.roll_out_rest(log, progress)
        history = job.count(log)
        if history is None:
            raise InputError(
                f"{job.log_path}: the reward functions {', '.join(log.functions)} gave None for all of "
                f"{len(log.groups)} prompts, so nothing can be counted: check that they know the dataset's columns"
            )
        history.to_parquet(settings.out)
    recording = Recording(
        history, job.log_path, len(log.groups), log.total("tokens"), log.total("cut_off"), seconds, started
    )
    recording.tell_doubts(job.sampling)
    return recording


class _Job:
    """A recording with its data at hand, before the model is loaded.

    Attributes:
        log_path: file of the log.
        facts: what its rollouts depend on.
        prompt_ids: (prompt,) ids to roll out, in order.
        sampling: how completions are sampled.
        seed: random seed of the prompts' order and of the rollouts.
    """

    def __init__(self, settings: RecordSettings) -> None:
        check_target(settings.out)
        run = settings.as_run()
        self.settings, self.grpo = settings, grpo_settings(run)
        self.sampling = settings.check(self.grpo)
        self.engine = ROLLOUT_ENGINES.resolve(settings.engine)
        self.inputs = load_inputs(run, self.grpo)
        self.rewards = [reward for reward in self.inputs.rewards if callable(reward)]
        if len(self.rewards) < len(self.inputs.rewards):
            raise InputError("reward_model_name_or_path: a recording has no reward models: name functions (reward)")
        for column in PICTURES:
            if column in self.inputs.dataset.column_names:
                raise InputError(f"dataset {self.inputs.name!r}: column {column!r}: a recording shows no pictures")
        self.weights = self.grpo.get("reward_weights") or [1.0] * len(self.rewards)
        if len(self.weights) != len(self.rewards):
            raise InputError(f"reward_weights={self.weights} for {len(self.rewards)} reward functions: give one each")
        Grader(settings.success).check(function_names(self.rewards))
        self.dataset, self.pool, _ = distinct(self.inputs.dataset, settings.id_column)
        self.seed = int(self.grpo["seed"])
        self.rows = _chosen(settings, self.pool, self.sampling.num_generations, self.seed)
        self.prompt_ids = [self.pool.ids[row] for row in self.rows]
        self.model = str(policy.EMBEDDED.get(settings.model, settings.model))
        self.step = (steps_done(Path(self.model)) or 0) if settings.step is None else settings.step
        self.log_path = settings.out.with_suffix(".rollouts.jsonl")
        self.facts = {
            **{"model": settings.model, "dataset": self.inputs.name, "reward": settings.reward},
            **asdict(self.sampling),
            **{name: self.grpo.get(name) for name in ("seed", "chat_template_kwargs")},
            "step": self.step,
        }

    def roll_out_rest(self, log: RolloutLog, progress: Progress | None) -> float:
        """Roll out the prompts that the log lacks; returns the seconds that this took."""
        started = len(log.groups)
        rest = self.rows[started:]
        if not rest:
            return 0.0
        if started:
            logger.warning("%s: %d of %d prompts are rolled out: goes on", log.path, started, len(self.rows))
        generator = self.engine.load(self.model, self.inputs.revision, bool(self.grpo.get("trust_remote_code")))
        self.inputs.check_prompts(generator.tokenizer)
        batch_size = max(self.engine.batch_size // self.sampling.num_generations, 1)
        start_time = time.perf_counter()
        seconds, tokens = 0.0, 0
        with terminable():
            try:
                for first in range(0, len(rest), batch_size):
                    lines = self._roll_out(generator, rest[first : first + batch_size], len(log.groups))
                    log.add(lines)
                    seconds = time.perf_counter() - start_time
                    tokens += sum(line["tokens"] for line in lines)
                    if progress is not None:
                        speed = {"prompts/s": (len(log.groups) - started) / seconds, "tokens/s": tokens / seconds}
                        progress(len(log.groups), len(self.rows), speed)
            except KeyboardInterrupt:
                self._stop(log)
                raise
        return seconds

    def _roll_out(self, generator: Generator, rows: list[int], number: int) -> list[dict[str, Any]]:
        """Return the log's lines of some prompts, of which the first is the recording's prompt `number`."""
        examples = fetch(self.dataset, rows)
        # Hashed, since torch's generator on the CPU uses 32 bits of a seed only: no two batches share a stream.
        seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
        prompts = [example["prompt"] for example in examples]
        rollouts = roll_out(generator, prompts, self.sampling, seed, self.grpo.get("chat_template_kwargs"))
        graded = grade(rollouts, examples, self.rewards, step=self.step)
        lines = []
        for i, row in enumerate(rows):
            group = slice(i * self.sampling.num_generations, (i + 1) * self.sampling.num_generations)
            line = {
                "prompt_id": self.pool.ids[row],
                "rewards": {name: _plain(graded.column(name)[group]) for name in graded.functions},
                "tokens": sum(map(len, rollouts.completion_ids[group])),
                "cut_off": sum(rollouts.cut_off[group]),
            }
            if self.settings.log_completions:
                line["completions"] = rollouts.completions[group]
            lines.append(line)
        return lines

    def _stop(self, log: RolloutLog) -> None:
        """Write the history of a recording that is stopped, and tell how to go on."""
        known = self.count(log)
        if known is not None:
            known.to_parquet(self.settings.out)
        logger.warning(
            "stopped: %d of %d prompts are rolled out%s; the same command goes on",
            len(log.groups),
            len(self.rows),
            "" if known is None else f", and {self.settings.out} has those with a grade",
        )

    def count(self, log: RolloutLog) -> RewardHistory | None:
        """Count the successes of a log's rollouts; None if there is no grade."""
        if not log.groups:
            return None
        grader = Grader(self.settings.success)
        rewards = Rewards(log.functions, np.asarray(self.weights, np.float64), log.rewards())
        grader.see(rewards)
        grader.settle()
        if grader.notice:
            logger.warning("%s", grader.notice)
        ids = [group["prompt_id"] for group in log.groups]
        group_of = np.repeat(np.arange(len(ids)), self.sampling.num_generations)
        counts = Groups(self.step, ids, rewards, group_of, np.zeros(len(ids), bool)).count_by(grader)
        if not counts.prompt_ids:
            return None
        row_of = {prompt_id: row for row, prompt_id in enumerate(self.pool.ids)}
        rows = [row_of[prompt_id] for prompt_id in counts.prompt_ids]
        labels = {column: self.pool.labels(column) for column in self.pool.label_columns or ()}
        return RewardHistory.from_columns(
            np.full(len(rows), self.step),
            counts.prompt_ids,
            num_successes=counts.num_successes,
            num_rollouts=counts.num_rollouts,
            trained=counts.trained,
            columns={column: [values[row] for row in rows] for column, values in labels.items()},
            success=str(grader.rule),
            reward_mean=counts.reward_mean,
            reward_std=counts.reward_std,
            pool_size=len(self.pool),
        )


def _plain(rewards: NDArray[np.float64]) -> list[float | None]:
    return [None if np.isnan(reward) else float(reward) for reward in rewards]


def _chosen(settings: RecordSettings, pool: Prompts, num_rollouts: int, seed: int) -> list[int]:
    """Return the rows of the prompts to roll out, in the order in which that happens."""
    rows = np.arange(len(pool))
    if settings.where is not None:
        plan = selector_recipe(settings.selector, warm_start=settings.warm_start).plan(pool, num_rollouts, seed)
        if plan.reads_policy:
            raise InputError(
                f"selector {settings.selector!r} wants the policy to read the prompts, which a recording does not do: "
                "name another for the condition, such as rate:cluster=task or a fit (.npz)"
            )
        rows = np.flatnonzero(meets(settings.where, plan.selector(pool).online, num_rollouts))
        if not len(rows):
            raise InputError(f"where={settings.where!r}: none of {len(pool)} prompts is so: lower the bound")
        logger.warning("%d of %d prompts have %s", len(rows), len(pool), settings.where)
    # In random order: what a stopped recording has is a fair sample, and a larger `max_prompts` goes on from it.
    return np.random.default_rng(seed).permutation(rows)[: settings.max_prompts].tolist()
