"""Paths that no reader takes: the error says why, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from logs import bad


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (
            "dumped_data/global_step_3_training_input.pkl",
            "SkyRL's dump of training input holds advantages, but no rewards and no ids of prompts, in a pickle, which "
            "may run code when it is read: train with promptdyn.training.skyrl",
        ),
        ("rollouts.pkl", "a pickle may run code when it is read: write the rollouts as JSON lines or Parquet"),
        (
            "events.out.tfevents.1700.host",
            "TensorBoard's events hold averages, no rollouts (OpenRLHF writes no others)",
        ),
        ("run-20260101-abc.wandb", "a run of Weights & Biases without tables of completions (OpenRLHF logs one sample"),
    ],
)
def test_logs_that_hold_no_rewards_of_rollouts(tmp_path: Path, name: str, reason: str) -> None:
    file = tmp_path / "log" / name
    file.parent.mkdir(parents=True)
    file.write_bytes(b"\x80\x04.")
    assert bad(tmp_path / "log").startswith(f"log/{name}: {reason}")
    assert bad(file).startswith(f"{file.name}: {reason}")


def test_a_folder_of_runs_names_one(tmp_path: Path) -> None:
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "history.parquet").touch()
    (tmp_path / "runs" / "a" / "events.out.tfevents.1700.host").touch()
    assert bad(tmp_path / "runs") == "runs: no run, but a folder of runs: name one, as runs/a"
