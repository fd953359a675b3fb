"""prime-rl's traces, in the layouts of its versions, and verifiers' evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from known import known
from logs import LOGS, jsonl, rows
from promptdyn.errors import InputError
from promptdyn.readers import read_history


def trace(key: str | None, rewards: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A trace of verifiers."""
    return {"task": {"type": "Sum", "key": key, "data": {"idx": 7, "level": "easy"}}, "rewards": rewards, **more}


def exact(score: float | None, weight: float = 1.0) -> dict[str, Any]:
    return {"exact": None if score is None else {"score": score, "weight": weight}}


def episode(group: str, *traces: dict[str, Any], env: str = "sum") -> dict[str, Any]:
    """An episode of verifiers 0.4."""
    return {"id": "e", "env": {"name": env}, "group": {"id": group}, "traces": list(traces), "ok": True}


def write(folder: Path, records: list[dict[str, Any]], name: str = "traces.jsonl") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return jsonl(folder / name, records)


def test_only_rollouts_of_agents_that_learn_count(tmp_path: Path) -> None:
    step = tmp_path / "rollouts" / "step_12" / "train"
    judge = trace("a", exact(0.0), agent={"trainable": False}, ok=True)
    wins = [episode("g1", judge, trace("a", exact(score), agent={"trainable": True}, ok=True)) for score in (1.0, 0.0)]
    fails = [episode("g2", trace("b", exact(1.0), ok=False)), episode("g2", trace("b", exact(0.0), ok=True))]
    again = episode("g3", trace("a", exact(1.0), ok=True))  # another group of a prompt, which was dropped
    write(step / "all", [*wins, *fails, again])
    write(step / "effective", wins)
    history = read_history(tmp_path, label_columns=["environment", "level"])
    assert rows(history) == [(12, "sum/a", 3, 2), (12, "sum/b", 1, 0)]
    assert history.trained.tolist() == [True, False]
    assert history.prompts.labels("environment").tolist() == ["sum", "sum"]
    assert rows(read_history(step / "all" / "traces.jsonl")) == rows(history)
    assert rows(read_history(step / "effective" / "traces.jsonl")) == [(12, "sum/a", 2, 1)]
    assert read_history(step / "effective" / "traces.jsonl").trained.all()
    (step / "effective" / "traces.jsonl").write_text("damaged\n")
    with pytest.raises(InputError, match=r"effective/traces\.jsonl line 1: no record of a group: leave the line out"):
        read_history(tmp_path)


@pytest.mark.parametrize("name", ["train/all/traces.jsonl", "train_rollouts.jsonl"])
@pytest.mark.parametrize(
    "stamp", [{"group_id": 3, "env_name": "sum"}, {"prime_rl": {"group_id": 3, "env_name": "sum"}}]
)
def test_a_trace_a_line_with_weighted_rewards(tmp_path: Path, name: str, stamp: dict[str, Any]) -> None:
    records = [
        trace(None, {"exact": 1.0, "form": 0.5}, info=stamp, errors=[]),
        trace(None, {"exact": 0.0, "form": 0.5}, info=stamp, errors=[]),
        trace(None, {"exact": 0.0}, info=stamp, errors=[{"type": "Timeout"}]),
    ]
    path = tmp_path / "run_default" / "rollouts" / "step_4" / name
    write(path.parent, records, path.name)
    history = read_history(tmp_path)
    assert rows(history) == [(4, "sum/7", 2, 1)]
    assert history.trained.all()
    assert known(history.reward_mean).tolist() == [1.0]


def test_rows_of_old_versions(tmp_path: Path) -> None:
    records = [{"example_id": 5, "task": "sum", "reward": reward, "metrics": {"form": 1.0}} for reward in (0.0, 1.0)]
    write(tmp_path / "rollouts" / "step_2", records, "train_rollouts.jsonl")
    history = read_history(tmp_path)
    assert rows(history) == [(2, "sum/5", 2, 1)]
    assert history.trained.all()
    assert rows(read_history(tmp_path, reward="form")) == [(2, "sum/5", 2, 2)]


def test_evaluations_are_not_trained_on(tmp_path: Path) -> None:
    evaluation = {"run": {"type": "eval", "step": None}}
    records = [trace("a", exact(score), ok=True, info={}, **evaluation) for score in (1.0, 0.0)]
    history = read_history(write(tmp_path, records))
    assert (rows(history), history.trained.tolist()) == ([(0, "a", 2, 1)], [False])
    assert rows(read_history(tmp_path, step=40)) == [(40, "a", 2, 1)]
    records[0]["run"] = records[1]["run"] = {"type": "eval", "work": {"type": "eval", "step": 30}}
    assert rows(read_history(write(tmp_path, records))) == [(30, "a", 2, 1)]
    history = read_history(write(tmp_path / "step_5" / "eval" / "all", [episode("g", trace("a", exact(1.0), ok=True))]))
    assert (rows(history), history.trained.tolist()) == ([(5, "sum/a", 1, 1)], [False])


def test_weights_are_those_of_the_log(tmp_path: Path) -> None:
    rewards = {"exact": {"score": 1.0, "weight": 1.0}, "form": {"score": 1.0, "weight": 0.2}}
    log = write(tmp_path, [episode("g", trace("a", rewards, ok=True)), episode("g", trace("a", exact(0.0), ok=True))])
    history = read_history(log, success=1.1)
    assert rows(history) == [(0, "sum/a", 2, 1)]
    assert known(history.reward_mean).tolist() == pytest.approx([0.6])
    other = episode("g", trace("a", exact(1.0, weight=0.5), ok=True), env="product")
    write(tmp_path, [episode("g", trace("a", rewards, ok=True)), other])
    with pytest.raises(
        InputError,
        match=r"traces.jsonl line 2: reward 'exact' has weight 0.5, and 1 in .* line 1: say which, as reward",
    ):
        read_history(log)
    assert rows(read_history(log, reward_weights=[1, 0])) == [(0, "sum/a", 1, 1), (0, "product/a", 1, 1)]


def test_a_trace_that_stands_twice_counts_once(tmp_path: Path) -> None:
    tries = [episode("g", trace("a", exact(score), ok=True, id=f"t{score}")) for score in (1.0, 0.0, 1.0)]
    write(tmp_path / "eval" / "rollouts" / "step_1" / "train" / "all", tries)
    history = read_history(tmp_path / "eval")
    assert rows(history) == [(1, "sum/a", 2, 1)]
    assert history.trained.all()


def test_a_step_and_a_file_of_a_real_run() -> None:
    run = LOGS / "prime-rl" / "run"
    for part in (run / "rollouts", run / "rollouts" / "step_3", run / "rollouts/step_3/train/all/traces.jsonl"):
        assert rows(read_history(part)) == rows(read_history(run))
