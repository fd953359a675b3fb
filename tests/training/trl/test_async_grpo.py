"""Selection in TRL's asynchronous trainer, on the CPU: see `async_run`."""

from __future__ import annotations

import queue
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate.state import PartialState
from datasets import Dataset
from trl.experimental.async_grpo import async_rollout_worker

import async_run
from async_run import POOL, loop, policy, trainer
from grpo_run import history_of, rows
from promptdyn.errors import InputError
from promptdyn.selection.files import load_selector
from promptdyn.training.driver import Settings
from promptdyn.training.trl.async_grpo import Selection, SelectionRolloutWorker

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def _on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    async_run.on_cpu(monkeypatch)
    PartialState()


def selection(folder: Path, state: Any = None, **given: Any) -> Selection:
    settings = Settings.read(
        {"selector": "rate:cluster=difficulty", **given},
        process="TRL's rollout process",
        place="selector",
        history_path=folder / "history.parquet",
        filter_off="",
    )
    return Selection(settings, 4, 0, state, threading.Event(), queue.Queue())


def groups(made: async_run.LocalLoop) -> dict[int, list[Any]]:
    """The samples that the loop has sent to the trainer, by group."""
    sent: dict[int, list[Any]] = {}
    while not made.rollout_buffer.empty():
        sample = made.rollout_buffer.get()
        sent.setdefault(sample.group_id, []).append(sample)
    return sent


def test_groups_that_end_one_by_one_teach_the_selector(tmp_path: Path) -> None:
    made = loop(selection=selection(tmp_path), model_name=str(policy(tmp_path)), steps=12)
    made.run()
    sent = groups(made)
    recorded = rows(history_of(tmp_path))
    whole = [group for group in sent.values() if len(group) == 4]
    assert len(recorded) >= 48
    texts = {
        prompt_id: messages[0]["content"] for prompt_id, messages in zip(POOL["prompt_id"], POOL["prompt"], strict=True)
    }
    graded = sorted(
        (group[0].prompt[0]["content"], round(sum(each.metrics["reward"] for each in group))) for group in whole
    )
    assert graded == sorted((texts[row[1]], row[3]) for row in recorded)
    assert all(count == 4 for count in np.bincount([row[0] for row in recorded])[:12])
    kinds = [int(row[1][1:]) % 3 for row in recorded if row[0] >= 6]
    assert np.mean(np.array(kinds) == 1) > 0.5  # a third without a choice
    pushed = [made._metrics_queue.get() for _ in range(made._metrics_queue.qsize())]
    assert sum("selection/in_flight" in each for each in pushed) >= 12


def test_it_sends_its_state_when_asked_and_another_goes_on_from_it(tmp_path: Path) -> None:
    chosen = selection(tmp_path)
    made = loop(selection=chosen, model_name=str(policy(tmp_path)), steps=3)
    chosen.asked.set()
    made.run()
    state = chosen.states.get_nowait()
    assert not chosen.asked.is_set()
    assert state["session"]["in_flight"] == []  # the first answer, before the first group
    state = made.selection.state_dict()
    again = loop(selection=selection(tmp_path, state), model_name=str(tmp_path), steps=5)
    assert again.selection.num_steps == state["session"]["steps"]
    assert again.selection.in_flight == []
    again.run()
    steps = [row[0] for row in rows(history_of(tmp_path))]
    assert set(range(5)) <= set(steps)
    assert len({row[:2] for row in rows(history_of(tmp_path))}) == len(steps)


def worker(folder: Path, dataset: Any = POOL, own: Any = None, **options: Any) -> SelectionRolloutWorker:
    settings = selection(folder, **(own or {})).settings
    common = {"num_generations": 4, "max_inflight_tasks": 32}
    return SelectionRolloutWorker(
        settings=settings, groups_per_step=4, seed=0, dataset=dataset, **{**common, **options}
    )


def test_a_pool_smaller_than_what_may_be_in_flight_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"has 20 different prompts, and TRL's rollout process may have 28 in flight \(max"
    ):
        worker(tmp_path, POOL.select(range(20)))


def test_a_rule_that_cannot_be_sent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be sent to TRL's rollout process: .* success='FILE.py:FUNCTION'"):
        worker(tmp_path, own={"success": lambda rewards: rewards["letters"] > 0})


def test_a_state_of_another_model_is_refused(tmp_path: Path) -> None:
    state = loop(selection=selection(tmp_path, selector="dps"), model_name=str(policy(tmp_path))).selection.state_dict()
    with pytest.raises(InputError, match=r"the saved state: .*; remove the file to start anew"):
        worker(tmp_path).resume(state)


@pytest.mark.parametrize(
    ("dataset", "own", "message"),
    [
        (POOL, {"selector": "greso"}, "samples dynamically, which TRL's asynchronous trainer cannot: choose another"),
        (POOL, {"selector": "features"}, "and TRL's rollout process has no policy: add"),
        (POOL, {"rollout_worker": object()}, "rollout_worker is given, and selection needs its own"),
        (Dataset.from_dict({"text": ["1"] * 60}), {}, "has no column 'prompt'"),
    ],
)
def test_it_is_refused_in_one_line(tmp_path: Path, dataset: Any, own: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        trainer(tmp_path, dataset, own)


def test_a_version_of_trl_that_lacks_something_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(async_rollout_worker._AsyncRolloutLoop, "_repeat_iterator")
    with pytest.raises(
        InputError, match=r"relies on _repeat_iterator of TRL's rollout worker, which TRL 1\.\d+\.\d+ lacks"
    ):
        worker(tmp_path)


@pytest.mark.long
def test_a_run_trains_saves_and_goes_on(tmp_path: Path) -> None:
    first = trainer(tmp_path, max_steps=8)
    first.train()
    recorded = rows(history_of(tmp_path))
    assert len(recorded) >= 8 * 4
    assert any("selection/in_flight" in entry for entry in first.state.log_history)
    states: list[Any] = []
    load_selector(tmp_path / "checkpoint-4" / "selector.npz", states.append)
    (state,) = states
    saved = state["session"]["steps"]
    assert 0 < saved <= max(row[0] for row in recorded)
    before = [row for row in recorded if row[0] < saved]

    second = trainer(tmp_path, max_steps=12)
    second.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    after = rows(history_of(tmp_path))
    assert [row for row in after if row[0] < saved] == before
    assert max(row[0] for row in after) > saved
    assert len({row[:2] for row in after}) == len(after)
    assert second.state.global_step == 12
