"""A session: prompts in flight, groups that end in any order, blocks, recording, and going on from a saved state."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from promptdyn import Selector, Session
from promptdyn.errors import InputError
from promptdyn.history import RewardHistory
from promptdyn.models import DPS
from promptdyn.prompts import Prompts
from promptdyn.selection import HistoryRecorder

IDS = [f"p{i}" for i in range(60)]
POOL = Prompts(IDS, {"task": ["even", "odd"] * 30})


def selector(**settings: Any) -> Selector:
    return Selector(DPS(cluster="task").online(POOL), num_generations=4, seed=1, **settings)


def rewards(prompt_id: str, step: int) -> NDArray[np.float64]:
    """(rollout,) of which prompts of a higher number have more."""
    rng = np.random.default_rng([int(prompt_id[1:]), step])
    return (rng.random(4) < int(prompt_id[1:]) / 60).astype(float)


def rows(history: RewardHistory) -> list[tuple]:
    columns = (history.step, history.prompt_ids[history.prompt], history.num_successes, history.trained)
    return sorted(zip(*(column.tolist() for column in columns), strict=True))


def assert_same(one: object, other: object) -> None:
    """Two states are the same, but for how long things took."""
    plain = json.loads(json.dumps([one, other], default=lambda value: value.tolist()))
    for state in plain:
        state["metrics"] = {name: value for name, value in state["metrics"].items() if not name.endswith("_time_s")}
    assert plain[0] == plain[1]


@pytest.mark.parametrize("functions", [None, ("a", "b")])
def test_groups_that_end_one_by_one_are_learned_of_as_if_told_at_once(functions: tuple[str, ...] | None) -> None:
    weights = None if functions is None else [1.0, 0.5]
    by_hand, session = selector(success="reward>=0.75"), Session(selector(success="reward>=0.75"), weights=weights)
    rng = np.random.default_rng(0)
    for step in range(6):
        chosen = by_hand.select(8)
        assert session.take(8) == chosen
        ended = rng.permutation(chosen).tolist()
        flags = rng.random(8) < 0.7
        told = [rewards(prompt_id, step) for prompt_id in ended]
        named = (
            None
            if functions is None
            else {name: [row * (j + 1) / 2 for row in told] for j, name in enumerate(functions)}
        )
        expected = by_hand.observe(ended, told if named is None else named, flags, weights=weights)
        for i, prompt_id in enumerate(ended):
            own = told[i] if named is None else {name: group[i] for name, group in named.items()}
            session.end(prompt_id, own, trained=flags[i])
        seen = session.step()
        for part, other in zip(seen, expected, strict=True):
            np.testing.assert_array_equal(part, other)
        assert_same(session.selector.state_dict(), by_hand.state_dict())
    assert session.in_flight == []


def test_a_prompt_is_in_flight_until_its_group_ends_or_is_lost() -> None:
    session = Session(selector(success=0.5))
    first = session.take(20)
    assert session.in_flight == first
    for prompt_id in first[:5]:
        session.end(prompt_id, [1, 0])
    session.step()
    second = session.take(40)
    assert not set(second) & set(first[5:])
    assert session.num_available == 60 - 15 - 40
    with pytest.raises(InputError, match=r"cannot take 6 of 60 prompts: 55 are in flight .* take from 1 to 5, or say "):
        session.take(6)
    session.lost([*first[5:8], "p99"])
    assert session.num_available == 8
    assert set(session.take(8)) >= set(first[5:8])
    session.end(first[9], [1, 0])  # ended, and not learned of: not to be taken twice in a step
    assert session.num_available == 0
    assert session.metrics()["selection/in_flight"] == 59
    session.lost([first[10]])
    session.end(first[10], [0, 0])  # which came after all
    assert session.step().prompt_ids == [first[9], first[10]]
    assert set(session.take(2)) == {first[9], first[10]}


def test_a_block_is_chosen_at_once_and_handed_out() -> None:
    whole, session = selector(success=0.5), Session(selector(success=0.5), block=8)
    block = whole.select(8)
    assert [session.take() for _ in range(3)] == [[prompt_id] for prompt_id in block[:3]]
    assert session.take(4) == block[3:7]
    assert session.in_flight == block[:7]
    # Two are wanted and one is left of the block: the next follows it.
    following = whole.select(7, exclude=block)
    assert session.take(2) == [block[7], following[0]]
    session.end(block[0], [1, 0])
    session.step()
    whole.observe(block[:1], [[1, 0]])
    # What was learned is chosen by, and the rest of the block is chosen anew.
    assert session.take() == whole.select(8, exclude=[*block[1:], following[0]])[:1]
    # Near the end of the pool there is no whole block.
    rest = [session.take()[0] for _ in range(session.num_available)]
    assert sorted([*session.in_flight]) == sorted(set(IDS))
    assert len(rest) == 51
    with pytest.raises(InputError, match=r"cannot take 1 of 60 prompts: 60 are in flight"):
        session.take()


def test_a_prompt_that_ends_before_it_is_taken_is_not_handed_out_in_that_step() -> None:
    session = Session(selector(success=0.5), block=8)
    session.take()
    second, third = selector(success=0.5).select(8)[1:3]
    session.end(second, [1, 0])
    assert session.take() == [third]


def test_a_choice_of_just_enough_is_made_for_itself() -> None:
    by_hand, session = selector(success=0.5), Session(selector(success=0.5), block=8)
    first = session.take(2)
    by_hand.select(8)
    assert session.take(12, enough=2, multiple_of=4) == by_hand.select(12, exclude=first, enough=2, multiple_of=4)


def test_a_training_step_takes_a_prompt_once_however_often_it_learns(tmp_path: Path) -> None:
    session = Session(selector(success=0.5), HistoryRecorder(tmp_path / "history.parquet"))
    for step in (7, 8):
        session.begin(step)
        parts = []
        for _ in range(3):
            parts.append(session.take(12))
            for prompt_id in parts[-1]:
                session.end(prompt_id, rewards(prompt_id, step))
            session.begin(step)  # the same step goes on
            assert session.step().step == step
        taken = [prompt_id for part in parts for prompt_id in part]
        with pytest.raises(InputError, match=f"prompt '{taken[0]}' has ended twice in one step"):
            session.end(taken[0], [1, 0])
        assert len(set(taken)) == 36 == 60 - session.num_available
    assert session.selector.online.steps == 6
    session.close()
    history = RewardHistory.from_parquet(tmp_path / "history.parquet")
    assert len(history) == 72
    assert set(history.step.tolist()) == {7, 8}


def test_everything_that_ends_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "history.parquet"
    labels = dict(zip(IDS, POOL.labels("task"), strict=True))
    session = Session(selector(success=0.5), HistoryRecorder(path, {"task": labels}))
    expected = []
    for step in range(4):
        chosen = session.take(6)
        for i, prompt_id in enumerate(chosen):
            session.end(prompt_id, rewards(prompt_id, step), trained=i < 4)
            trained = i < 4 if step % 2 else i == 5
            expected.append((step, prompt_id, int(rewards(prompt_id, step).sum()), trained))
        session.step(None if step % 2 else chosen[5:])
    session.write()
    assert rows(RewardHistory.from_parquet(path)) == sorted(expected)
    # A run that stops: what has ended counts as not trained on, what is in flight is lost.
    late = session.take(3)
    session.end(late[0], rewards(late[0], 4))
    session.close()
    assert session.in_flight == []
    history = RewardHistory.from_parquet(path)
    assert rows(history) == sorted([*expected, (4, late[0], int(rewards(late[0], 4).sum()), False)])
    assert (history.success, history.pool_size) == ("0.5", 60)
    assert {labels[i] for i in history.prompt_ids} == set(history.columns["task"])
    # What is taken afterwards belongs to the run; another run sets the file aside.
    session.end(session.take()[0], [1, 0, 0, 0])
    session.step()
    session.close()
    longer = RewardHistory.from_parquet(path)
    assert rows(longer.before(5)) == rows(history)
    assert len(longer) == len(history) + 1
    session.begin(0)
    assert not path.exists()
    assert rows(RewardHistory.from_parquet(f"{path}.1")) == rows(longer)


def test_a_record_that_cannot_be_gone_on_with_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "history.parquet"
    path.write_text("of somebody else")
    session = Session(selector(success=0.5), HistoryRecorder(path, write_every=1))
    for _ in range(2):
        with pytest.raises(InputError, match=r"history\.parquet"):
            session.begin(3)
    session.close()
    assert path.read_text() == "of somebody else"


def test_a_rule_that_is_found_late_recounts_the_record(tmp_path: Path) -> None:
    session = Session(selector(), HistoryRecorder(tmp_path / "history.parquet"))
    for step in range(3):
        for prompt_id in session.take(5):
            session.end(prompt_id, rewards(prompt_id, step) * 0.7 + 0.1 * (int(prompt_id[1:]) % 3))
        session.step()
    assert session.mixed() == {}
    assert session.selector.success is None
    in_flight = session.take(2)
    session.settle()
    history = RewardHistory.from_parquet(tmp_path / "history.parquet")
    assert len(history) == 15
    assert history.success == session.selector.success
    assert session.in_flight == in_flight  # the run may go on
    session.end(in_flight[0], [1, 0, 0, 0])
    session.step()
    session.close()
    longer = RewardHistory.from_parquet(tmp_path / "history.parquet")
    assert rows(longer)[:15] == rows(history)
    assert len(longer) == 16


def test_a_selector_counts_its_steps_while_the_rule_is_not_found() -> None:
    chooses = selector()
    assert [chooses.observe(["p1"], [[0.1, 0.4, 0.9]]).step for _ in range(3)] == [0, 1, 2]
    assert [seen.step for seen in chooses.settle()] == [0, 1, 2]
    assert chooses.observe(["p1"], [[0.1, 0.4, 0.9]]).step == 3


def test_mixed_outcomes_are_told_before_they_are_learned_of() -> None:
    session = Session(selector(success="x>=1"), weights=[1, 0])
    a, b, c = session.take(3)
    session.end(b, {"x": [0, 1], "y": [0, 0]})
    session.end(a, {"x": [1, 1], "y": [0, 1]})
    assert session.mixed() == {b: True, a: False}
    session.end(c, {"x": [1, None], "y": [0, 1]})
    assert session.mixed() == {b: True, a: False, c: False}
    assert session.selector.online.steps == 0
    unknown = Session(selector())
    unknown.end("p0", {"x": [0.1, 0.5, 0.7]})
    assert unknown.mixed() is None


@pytest.mark.parametrize("success", ["auto", "correct", "correct>=1"])
def test_a_step_in_which_nothing_ended_ages_all(success: str) -> None:
    session = Session(selector(success=success), weights=[1.0, 0.2])
    session.step()
    for step in range(3):
        for prompt_id in session.take(4):
            session.end(prompt_id, {"correct": rewards(prompt_id, step), "form": rewards(prompt_id, step + 9)})
        session.step()
        before = session.selector.online.belief
        assert session.step().prompt_ids == []
        assert (session.selector.online.belief != before).any()
    assert session.selector.online.steps == 7
    again = Session(selector(success=success), weights=[1.0, 0.2])
    again.load_state_dict(session.state_dict())
    assert_same(again.state_dict(), session.state_dict())


class Trainer:
    """An asynchronous loop: at a tick it asks for prompts, a group ends or is lost, or a step is over."""

    def __init__(self, path: Path, seed: int, success: Any) -> None:
        self.session = Session(selector(success=success), HistoryRecorder(path), block=6)
        self.seed = seed

    def tick(self, number: int) -> list[str]:
        rng = np.random.default_rng([self.seed, number])
        session, what = self.session, rng.integers(10)
        if what < 4 and session.num_available:
            return session.take(min(int(rng.integers(1, 4)), session.num_available))
        if what < 8 and session.in_flight:
            late = session.in_flight[int(rng.integers(len(session.in_flight)))]
            session.end(late, rewards(late, number), trained=bool(rng.integers(2)))
        elif what == 8:
            session.lost(session.in_flight[:1])
        else:
            session.step()
        return []


@pytest.mark.parametrize("success", [0.5, "auto"])
@pytest.mark.parametrize("seed", range(4))
def test_a_run_that_was_stopped_anywhere_goes_on_as_if_it_had_not(tmp_path: Path, seed: int, success: Any) -> None:
    full, resumed = (Trainer(tmp_path / f"{name}.parquet", seed, success) for name in ("full", "resumed"))
    for number in range(150):
        flying = set(full.session.in_flight)
        taken = full.tick(number)
        assert not flying & set(taken)
        if number % 11 == 10:  # killed and started again
            resumed.session.save(tmp_path / "selector.npz")
            resumed = Trainer(tmp_path / "resumed.parquet", seed, success)
            resumed.session.load(tmp_path / "selector.npz")
        assert resumed.tick(number) == taken
        assert_same(resumed.session.state_dict(), full.session.state_dict())
    for trainer in (full, resumed):
        trainer.session.close()
    histories = [RewardHistory.from_parquet(tmp_path / f"{name}.parquet") for name in ("full", "resumed")]
    assert rows(histories[0]) == rows(histories[1])
    assert len(histories[0]) > 40


def test_a_session_and_a_selector_read_each_others_files(tmp_path: Path) -> None:
    session = Session(selector(success=0.5))
    for prompt_id in session.take(5):
        session.end(prompt_id, rewards(prompt_id, 0))
    session.step()
    session.take(2)
    session.save(tmp_path / "session.npz")
    alone = selector(success=0.5)
    alone.load(tmp_path / "session.npz")
    assert_same(alone.state_dict(), session.selector.state_dict())
    alone.save(tmp_path / "selector.npz")
    again = Session(selector(success=0.5))
    again.load(tmp_path / "selector.npz")
    assert again.in_flight == []
    assert_same(again.selector.state_dict(), session.selector.state_dict())


def test_the_pool_is_the_runs_where_the_saved_one_is_another(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = Session(Selector(DPS().online(IDS), num_generations=4, success=0.5), block=10)
    before.take()
    before.save(tmp_path / "selector.npz")
    now = Session(Selector(DPS().online([*IDS[5:], "p60"]), num_generations=4, success=0.5), block=10)
    now.load(tmp_path / "selector.npz")
    told = "5 prompts of the saved run are not in the pool any more, such as 'p0'"
    assert told in caplog.text
    assert now.in_flight == before.in_flight
    available = now.num_available
    assert available == 56 - len(set(now.in_flight) - set(IDS[:5]))
    taken = [now.take()[0] for _ in range(available)]
    assert not set(taken) & set(IDS[:5])
    with pytest.raises(InputError, match=r"are in flight .*, and 5 are not in the pool any more: take"):
        now.take()
    # Those that come back may be taken again.
    back = Session(Selector(DPS().online([*IDS, "p60"]), num_generations=4, success=0.5))
    now.save(tmp_path / "selector.npz")
    back.load(tmp_path / "selector.npz")
    assert back.num_available == 61 - len(back.in_flight)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"in_flight": ["ghost"]}, "prompt 'ghost' is not in its pool"),
        ({"in_flight": 3}, "not whole"),
        ({"step": "seven"}, "step='seven'"),
        ({"ended": [{"prompt_id": "p0"}]}, "not whole"),
        ({"ended": [{"prompt_id": "p0", "rewards": {"x": ["one"]}, "trained": True}]}, "'p0' are not numbers"),
        ([], "not whole"),
    ],
)
def test_a_state_that_is_not_whole_changes_nothing(own: object, message: str) -> None:
    session = Session(selector(success=0.5))
    session.take(3)
    before = session.state_dict()
    with pytest.raises(InputError, match=message):
        session.load_state_dict({**Session(selector(success=0.5)).state_dict(), "session": own})
    assert_same(session.state_dict(), before)


def test_what_cannot_be_is_told_and_changes_nothing(tmp_path: Path) -> None:
    session, two = Session(selector(success="x>=1")), Session(selector())
    two.end("p0", {"a": [0], "b": [1]})
    session.take(3)
    session.end("p0", {"x": [0, 1]})
    before = session.state_dict()
    for call, message in [
        (lambda: session.end("ghost", {"x": [0, 1]}), "'ghost' is not among"),
        (lambda: session.end("p0", {"x": [0, 1]}), "prompt 'p0' has ended twice in one step"),
        (lambda: session.end("p1", {"y": [0, 1]}), "rewards of prompt 'p1' by y, of the groups before by x"),
        (lambda: session.end("p1", {"x": ["good"]}), "rewards of prompt 'p1' are not numbers"),  # type: ignore[list-item]
        (lambda: session.end("p1", 1.0), r"rewards of prompt 'p1' have shape \(\)"),  # type: ignore[arg-type]
        (lambda: session.end("p1", {"x": [1, 0], "y": [1]}), "rewards of prompt 'p1': 1 by 'y', 2 by 'x': give one of"),
        (lambda: two.end("p1", {"b": [1], "a": [0]}), "by b, a, of the groups before by a, b: .* in one order"),
        (lambda: session.end("p1", {}), "rewards of no function"),
        (lambda: session.step(trained=["p1"]), "trained names prompt 'p1', whose group has not ended"),
        (lambda: session.take(0), "cannot take 0 of 60"),
        (lambda: Session(session.selector, block=0), "block=0: choose at least 1"),
        (lambda: session.load(tmp_path / "none.npz"), "none.npz: no such file"),
    ]:
        with pytest.raises(InputError, match=message):
            call()
        assert_same(session.state_dict(), before)
    weighted = Session(selector(), weights=[1.0, 2.0])
    with pytest.raises(InputError, match=r"weights \[1.0, 2.0\] for the reward functions x: give a number for each"):
        weighted.end("p0", {"x": [0, 1]})
    other = Session(selector(success="x>=1"))
    other.end("p0", {"y": [0, 1]})
    with pytest.raises(InputError, match="no reward function is called 'x'"):
        other.step()
    assert other.selector.online.steps == 0
