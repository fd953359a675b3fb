"""AReaL's dumps of trajectories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from logs import LOGS, jsonl, rows
from promptdyn.readers import ARealRollouts, read_history


def line(task: int, prompt: str, reward: float, version: int) -> dict[str, Any]:
    return {"task_id": task, "sample_idx": 0, "head_version": -1, "tail_version": version, "reward": reward,
            "prompt": prompt, "completion": "y"}  # fmt: skip


def test_two_groups_in_one_file_and_an_evaluation(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # Task ids start at 0 again where a run starts again, and files are appended to.
    versions = [{(7, 0): ["a", "a", "b", "b"]}, {(10, 0): ["c"], (10, 11): ["a"]}]
    for folder in ("rollout", "eval-rollout"):
        for (version, task), prompts in {**versions[0], **versions[1]}.items():
            (tmp_path / folder / str(version)).mkdir(parents=True, exist_ok=True)
            lines = [line(task, prompt, float(i % 2), version) for i, prompt in enumerate(prompts)]
            jsonl(tmp_path / folder / str(version) / f"{task}.jsonl", lines)
    (tmp_path / "rollout" / "notes").mkdir()
    (tmp_path / "rollout" / "notes" / "1.jsonl").write_text("not of any version\n")
    counted = [(7, "a", 2, 1), (7, "b", 2, 1), (10, "c", 1, 0), (10, "a", 1, 0)]
    history = read_history(tmp_path)
    assert rows(history) == rows(read_history(tmp_path / "rollout")) == counted
    assert rows(read_history(tmp_path / "rollout" / "10")) == counted[2:]
    assert history.trained.all()
    assert "AReaL does not mark the groups that a run rejected: all count as trained" in caplog.text
    caplog.clear()
    assert not read_history(tmp_path / "eval-rollout").trained.any()
    assert not caplog.text


def test_a_run_and_its_parts_are_recognized() -> None:
    run = LOGS / "areal" / "logs" / "root" / "exp" / "trial"
    for part in (run, run / "rollout", run / "rollout" / "4", run / "rollout" / "4" / "17.jsonl"):
        assert ARealRollouts().recognizes(part)
    assert not ARealRollouts().recognizes(run.parent)
