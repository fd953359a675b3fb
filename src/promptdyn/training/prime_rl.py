"""A task sampler for prime-rl that lets a selector choose.

prime-rl has no setting yet that names a sampler of one's own, see `docs/trainers/prime-rl.md`: this class is ready for
one. Written for prime-rl's main branch of October 2026 and verifiers 0.4.0.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from promptdyn.errors import InputError, install_hint
from promptdyn.selection import Session
from promptdyn.training.dataset import dataset_of
from promptdyn.training.driver import Driver, Settings, number

with install_hint():
    from prime_rl.orchestrator.curriculum.samplers import TaskSampler

__all__ = ["SelectionSampler"]

# prime-rl may have this many steps of groups under way; older ones are taken for stale.
STEPS_IN_FLIGHT = 8

logger = logging.getLogger(__name__)


class SelectionSampler(TaskSampler):
    """prime-rl's task sampler, but the tasks are those that a selector chooses.

    prime-rl asks for one task at a time and reports finished groups one by one, rejected ones too, but not those that
    it cancels as stale. The groups of a training step are learned from together. prime-rl does not tell a sampler which
    groups its gates admit, so all count as trained.

    Args:
        tasks: a finite taskset, with unique keys. The fields of a task's data are the columns.
        num_generations: rollouts per group, prime-rl's `group_size`.
        groups_per_step: groups of a training step, prime-rl's `batch_size` divided by `group_size`.
        max_in_flight: most prompts under way; when there are more, the oldest are taken for stale, and may be chosen
            again. Default: 8 steps of groups, or fewer if the taskset is small.
        seed: random seed of the selector. Default 0.
        **settings: `selector` (default "auto"), parts of its `Recipe` to replace (`dynamics`, `strategy`, `score`,
            `success`, `refit_every`), `id_column`, `label_columns` and `history_path` (default: no history). A rule of
            success may name "reward", and the traces' rewards and metrics.

    Raises:
        InputError: the taskset is a stream, or has fewer tasks than two steps take; a key is that of two tasks that
            differ; a setting is unknown, out of range, or does not fit the tasks.

    Example:
        sampler = SelectionSampler(tasks, num_generations=8, groups_per_step=64, selector="rate:cluster=difficulty")
    """

    def __init__(
        self,
        tasks: Sequence[Any] | Iterable[Any],
        *,
        num_generations: int,
        groups_per_step: int,
        max_in_flight: int | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        if not isinstance(tasks, Sequence):
            raise InputError("the taskset is a stream, which has no tasks to choose from: select a finite taskset")
        self._driver = Driver(
            Settings.read(
                {"id_column": "key", **settings},
                process="prime-rl's orchestrator",
                place="SelectionSampler",
                history_path=None,
                filter_off="which prime-rl does itself, by a gate: choose another",
            ),
            dataset_of([{"prompt": task.key, **_fields(task), "key": task.key} for task in tasks]),
            num_generations=num_generations,
            seed=seed,
            block=groups_per_step,
        )
        self._tasks = {prompt_id: tasks[row] for prompt_id, row in self._driver.rows.items()}
        if len(self._tasks) < 2 * groups_per_step:
            raise InputError(
                f"the taskset has {len(self._tasks)} tasks, and two steps of groups_per_step={groups_per_step} take "
                f"{2 * groups_per_step}: add tasks, or lower it"
            )
        most = len(self._tasks) - groups_per_step
        self._max_in_flight = min(STEPS_IN_FLIGHT * groups_per_step if max_in_flight is None else max_in_flight, most)
        self._groups_per_step = groups_per_step
        self._told = False

    @property
    def session(self) -> Session:
        """The session between prime-rl and the selector."""
        return self._driver.session

    def __next__(self) -> Any:
        """Return the next task, in flight from here on."""
        stale = self.session.in_flight[: max(len(self.session.in_flight) - self._max_in_flight + 1, 0)]
        if stale:
            self.session.lost(stale)
            if not self._told:
                logger.warning("more than %d groups are under way: the oldest count as stale", self._max_in_flight)
                self._told = True
        (prompt_id,) = self.session.take(1)
        return self._tasks[prompt_id]

    def observe(self, group: list[Any]) -> None:
        """Learn from a finished group, once a step of them is complete.

        Args:
            group: prime-rl's episodes of one task. Traces that failed, or whose agent is not trained, have no reward.

        Raises:
            InputError: the rule of success names a number that no trace has.
        """
        prompt_id = group[0].task.key
        if prompt_id not in self._tasks or prompt_id in self.session.ended:
            return  # of another taskset, or a second group of a prompt that was taken for stale
        traces = [
            trace
            for episode in group
            for trace in episode.traces
            if episode.ok and not trace.has_error and trace.agent.trainable and trace.num_turns > 0
        ]
        infos = [_numbers(trace) for trace in traces]
        self._driver.named.to_read(infos)
        self._driver.end(
            prompt_id, self._driver.named.group([number(trace.reward) for trace in traces], infos), trained=True
        )
        if len(self.session.ended) >= self._groups_per_step:
            self._driver.named.check("its rewards or metrics", self.session.num_steps)
            self.session.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the session's state, and bring the history up to date."""
        self.session.write()
        return self.session.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned. Groups that were under way are lost, as prime-rl loses them.

        Raises:
            InputError: the state is that of another taskset, model or selector, or is damaged.
        """
        self._driver.resume(state_dict, "the sampler's state in the checkpoint", "resume without it")
        self.session.lost(self.session.in_flight)

    def metrics(self) -> dict[str, float]:
        """Return the selection's metrics; prime-rl logs them under "curriculum/ENV/sampler/"."""
        return {name.removeprefix("selection/"): value for name, value in self.session.metrics().items()}


def _fields(task: Any) -> dict[str, Any]:
    """Return the fields of a task's data that are texts, numbers or lists of numbers, such as an embedding."""
    data: Mapping[str, Any] = task.data.model_dump(mode="json")
    return {
        name: value
        for name, value in data.items()
        if isinstance(value, str | int | float) or (isinstance(value, list) and value and number(value[0]) is not None)
    }


def _numbers(trace: Any) -> dict[str, Any]:
    """Return a trace's metrics and the scores of its rewards, by name."""
    scores = {name: reward.score for name, reward in trace.rewards.items() if reward is not None}
    return {**trace.metrics, **scores}
