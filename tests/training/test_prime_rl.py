"""The task sampler for prime-rl. prime-rl and verifiers are stood in for: their interface is small.

After prime-rl's main branch of October 2026 (`orchestrator/curriculum/samplers/base.py`) and verifiers 0.4.0
(`verifiers/v1/{task,episode,trace}.py`).
"""

from __future__ import annotations

import logging
import textwrap
import types
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pages import ROOT
from promptdyn.errors import InputError
from promptdyn.history import RewardHistory
from stand_ins import installed

STEP = 8


@dataclass
class Data:
    fields: dict[str, Any]

    def model_dump(self, mode: str) -> dict[str, Any]:
        return dict(self.fields)


@dataclass
class Task:
    key: str
    data: Data


@dataclass
class Reward:
    score: float
    weight: float = 1.0


@dataclass
class Trace:
    rewards: dict[str, Reward | None]
    metrics: dict[str, float | None] = field(default_factory=dict)
    ok: bool = True
    trainable: bool = True
    num_turns: int = 1

    @property
    def agent(self) -> Any:
        return types.SimpleNamespace(trainable=self.trainable)

    @property
    def has_error(self) -> bool:
        return not self.ok

    @property
    def reward(self) -> float:
        return sum(reward.score * reward.weight for reward in self.rewards.values() if reward is not None)


@dataclass
class Episode:
    task: Task
    traces: list[Trace]
    ok: bool = True


class TaskSampler(Iterator[Task], ABC):
    @abstractmethod
    def __next__(self) -> Task: ...


@pytest.fixture(autouse=True)
def _prime_rl() -> Iterator[None]:
    samplers = types.SimpleNamespace(TaskSampler=TaskSampler)
    modules = {
        "prime_rl": {},
        "prime_rl.orchestrator": {},
        "prime_rl.orchestrator.curriculum": {"samplers": samplers},
        "prime_rl.orchestrator.curriculum.samplers": vars(samplers),
    }
    with installed(modules, "promptdyn.training.prime_rl"):
        yield


def tasks(count: int = 60) -> list[Task]:
    return [
        Task(f"t{i}", Data({"difficulty": i % 3, "prompt": f"{i} + {i}?", "tools": [], "vector": [1.0, i]}))
        for i in range(count)
    ]


def sampler(taskset: Any = None, **settings: Any) -> Any:
    from promptdyn.training.prime_rl import SelectionSampler

    defaults = {"num_generations": 4, "groups_per_step": STEP, "selector": "rate:cluster=difficulty"}
    return SelectionSampler(tasks() if taskset is None else taskset, **{**defaults, **settings})


def traces(task: Task) -> list[Trace]:
    scores = {0: [1, 1, 1, 1], 1: [1, 0, 1, 0], 2: [0, 0, 0, 0]}[task.data.fields["difficulty"]]
    return [Trace({"exact": Reward(float(score))}) for score in scores]


def group(task: Task, rolled_out: Callable[[Task], list[Trace]] = traces) -> list[Episode]:
    return [Episode(task, [trace]) for trace in rolled_out(task)]


def rolls(it: Any, steps: int, **named: Any) -> list[Task]:
    chosen = []
    for _ in range(steps * STEP):
        task = next(it)
        chosen.append(task)
        it.observe(group(task, **named))
    return chosen


def test_tasks_are_chosen_and_teach_the_selector(tmp_path: Path) -> None:
    it = sampler(history_path=str(tmp_path / "history.parquet"))
    chosen = rolls(it, 20)
    assert sum(task.data.fields["difficulty"] == 1 for task in chosen[80:]) >= 60  # of 80; 27 without a choice
    assert it.metrics()["in_flight"] == 0
    assert it.session.num_steps == 20
    it.state_dict()
    history = RewardHistory.from_parquet(tmp_path / "history.parquet")
    assert len(history.step) == 160
    assert set(history.columns) == {"difficulty"}


def test_tasks_under_way_are_not_chosen_again() -> None:
    it = sampler()
    under_way = [next(it) for _ in range(40)]
    assert len({task.key for task in under_way}) == 40
    for task in reversed(under_way[:STEP]):
        it.observe(group(task))
    assert it.session.num_steps == 1
    assert next(it).key not in {task.key for task in under_way[STEP:]}


def test_groups_that_never_come_back_are_taken_for_stale(caplog: pytest.LogCaptureFixture) -> None:
    it = sampler(max_in_flight=16)
    first = next(it)
    for _ in range(16):
        next(it)
    assert len(it.session.in_flight) == 16
    assert first.key not in it.session.in_flight
    with caplog.at_level(logging.WARNING, "promptdyn"):
        for _ in range(100):
            next(it)
    it.observe(group(first))  # it came after all
    it.observe(group(first))
    assert it.session.ended == [first.key]


def test_traces_that_failed_or_are_not_trained_have_no_reward() -> None:
    def some(task: Task) -> list[Trace]:
        good = [Trace({"exact": Reward(float(i % 2))}) for i in range(3)]
        return [*good, Trace({}, ok=False), Trace({}, trainable=False), Trace({}, num_turns=0)]

    it = sampler()
    task = next(it)
    it.observe(group(task, some))
    assert len(it.session._ended[task.key].rewards["reward"]) == 3
    lost = next(it)
    it.observe([Episode(lost, traces(lost), ok=False)])
    assert it.session.ended == [task.key]
    assert it.session.in_flight == []


def test_a_rule_may_name_rewards_and_metrics(tmp_path: Path) -> None:
    def graded(task: Task) -> list[Trace]:
        return [Trace({"exact": Reward(float(i > 0)), "style": None}, {"words": i}) for i in range(4)]

    it = sampler(success="exact>=1 and words<=2", history_path=str(tmp_path / "history.parquet"))
    rolls(it, 1, rolled_out=graded)
    it.state_dict()
    assert set(RewardHistory.from_parquet(tmp_path / "history.parquet").num_successes) == {2}


def test_a_name_that_no_trace_has_is_refused() -> None:
    it = sampler(success="acc>=1")
    with pytest.raises(InputError, match=r"no rollout of step 0 has a number 'acc' in its rewards or metrics: .*exact"):
        rolls(it, 1)


def test_a_resumed_run_chooses_what_it_would_have_chosen() -> None:
    whole = sampler()
    expected = [task.key for task in rolls(whole, 6)]
    it = sampler()
    rolls(it, 3)
    state = it.state_dict()
    again = sampler()
    again.load_state_dict(state)
    assert [task.key for task in rolls(again, 3)] == expected[3 * STEP :]


def test_a_state_of_another_model_is_refused() -> None:
    state = sampler().state_dict()
    with pytest.raises(InputError, match=r"the sampler's state in the checkpoint: .*; resume without it"):
        sampler(selector="dps").load_state_dict(state)


def test_fields_of_the_tasks_are_columns() -> None:
    it = sampler(selector="features:features=vector")
    assert len(rolls(it, 2)) == 16


@pytest.mark.parametrize(
    ("taskset", "settings", "message"),
    [
        (iter(tasks()), {}, "the taskset is a stream, which has no tasks to choose from"),
        (tasks(12), {}, "has 12 tasks, and two steps of groups_per_step=8 take 16"),
        ([*tasks(), Task("t0", Data({"difficulty": 2}))], {}, "'t0' is that of rows 0 and 60, which differ"),
        (None, {"stategy": "top"}, "SelectionSampler: 'stategy' is no setting of selection: did you mean 'strategy'"),
        (None, {"selector": "greso"}, "samples dynamically, which prime-rl does itself, by a gate: choose"),
        (None, {"selector": "features"}, "prime-rl's orchestrator has no policy"),
    ],
)
def test_it_is_refused_in_one_line(taskset: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        sampler(taskset, **settings)
    assert "\n" not in str(refused.value)


def test_the_script_on_the_page_puts_the_sampler_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "trainers" / "prime-rl.md").read_text(encoding="utf-8")
    start = page.index("    from functools import partial")
    script: dict[str, Any] = {}
    monkeypatch.chdir(tmp_path)
    exec(textwrap.dedent(page[start : page.index("\n\nand", start)]), script)
    it = script["samplers"].DifficultyPoolSampler(types.SimpleNamespace(seed=0), tasks(200))
    it.observe(group(next(it)))
    assert len(it.session.ended) == 1
