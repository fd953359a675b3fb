"""What a run rolls out, as it is written to the history's file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from known import known
from promptdyn.errors import InputError
from promptdyn.history import RewardHistory
from promptdyn.selection import HistoryRecorder, Observation


def observation(step: int, ids: list[str], num_rollouts: list[int], num_successes: list[int]) -> Observation:
    n, k = np.array(num_rollouts), np.array(num_successes)
    rate = (k / n).astype(np.float32)
    return Observation(
        prompt_ids=ids,
        num_successes=k,
        num_rollouts=n,
        informative=(k > 0) & (k < n),
        trained=np.ones(len(ids), bool),
        reward_mean=rate,
        reward_std=0 * rate,
        step=step,
    )


def test_it_writes_every_so_many_steps_and_sets_old_files_aside(tmp_path: Path) -> None:
    path = tmp_path / "history.parquet"
    recorder = HistoryRecorder(path, write_every=3)
    for attempt in range(3):
        recorder.start(0)
        assert not path.exists()
        for step in range(4):
            recorder.record(observation(step, [f"{attempt}a", f"{attempt}b"], [4, 4], [step, 0]))
        assert RewardHistory.from_parquet(path).step.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    kept = [RewardHistory.from_parquet(tmp_path / f"history.parquet.{i}") for i in (1, 2)]
    assert [set(history.prompt_ids) for history in kept] == [{"0a", "0b"}, {"1a", "1b"}]


def test_it_goes_on_with_a_file_that_knows_no_rewards(tmp_path: Path) -> None:
    path = tmp_path / "history.parquet"
    RewardHistory.from_columns([0, 1], ["a", "a"], num_successes=[1, 1], num_rollouts=[4, 4]).to_parquet(path)
    recorder = HistoryRecorder(path)
    recorder.start(1)
    recorder.record(observation(1, ["b"], [4], [3]))
    recorder.pool_size = 1  # of a dataset that has lost a prompt
    recorder.write()
    assert RewardHistory.from_parquet(path).pool_size == 2
    np.testing.assert_array_equal(
        known(RewardHistory.from_parquet(path).reward_mean), np.array([np.nan, 0.75], np.float32)
    )


def test_it_refuses_a_prompt_without_label(tmp_path: Path) -> None:
    recorder = HistoryRecorder(tmp_path / "history.parquet", columns={"task": {"a": "sum"}})
    with pytest.raises(InputError, match=r"prompt 'b' has no label in label column 'task'"):
        recorder.record(observation(0, ["a", "b"], [4, 4], [1, 2]))
