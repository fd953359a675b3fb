"""The folder of a run."""

from __future__ import annotations

import pytest

import promptdyn
from logs import groups, rows, trl_log
from promptdyn.errors import InputError
from promptdyn.history import RewardHistory


def test_the_folder_of_a_run_is_its_history(tmp_path):
    run = tmp_path / "runs" / "mine"
    trl_log(run / "completions", 1, ["p", "p"], [1.0, 0.0])
    (run / "metrics.jsonl").write_text('{"loss": 1}\n')
    history = RewardHistory.from_records(groups()).with_pool_size(7)
    history.to_parquet(run / "history.parquet")
    assert rows(promptdyn.read_history(run)) == rows(history)
    assert promptdyn.read_history(run).pool_size == 7
    assert list(promptdyn.read_history(run, drop=["task"]).columns) == []
    assert rows(promptdyn.read_history(run, success="correct")) == [(1, "p", 2, 1)]  # only completions can tell
    with pytest.raises(InputError, match=f"runs: no run, but a folder of runs: name one, as {run}"):
        promptdyn.read_history(tmp_path / "runs")
