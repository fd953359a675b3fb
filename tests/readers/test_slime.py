"""slime's files of rollouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from logs import rows
from promptdyn.errors import InputError
from promptdyn.readers import read_history


def save(folder: Path, rollout_id: int, *samples: dict[str, Any]) -> Path:
    """Save samples as slime does."""
    folder.mkdir(exist_ok=True)
    usual = {"prompt": "x", "label": "2", "reward": 1.0, "status": "completed", "metadata": {}, "remove_sample": False}
    path = folder / f"{rollout_id}.pt"
    torch.save({"rollout_id": rollout_id, "samples": [usual | sample for sample in samples]}, path)
    return path


def test_samples_that_count_and_groups_that_were_trained_on(tmp_path: Path) -> None:
    save(
        tmp_path / "rollout_data",
        3,
        {"status": "truncated", "reward": 0.0},
        {},
        {"status": "aborted", "reward": 0.0},
        {"prompt": "y", "remove_sample": True},
        {"metadata": {"prompt_id": "p7", "task": "sums"}, "label": None},
    )
    save(tmp_path / "rollout_data", 12, {"prompt": "y"})
    (tmp_path / "rollout_data" / "eval_3.pt").write_bytes(b"PK")
    history = read_history(tmp_path, label_columns="task")
    assert rows(history) == [(3, "x", 2, 1), (3, "y", 1, 1), (3, "p7", 1, 1), (12, "y", 1, 1)]
    assert history.trained.tolist() == [True, False, True, True]
    assert history.prompts.labels("task").tolist() == ["(none)", "(none)", "sums"]


def test_parts_of_a_reward(tmp_path: Path) -> None:
    save(tmp_path, 1, {"reward": {"acc": 1.0, "length": 0.3}}, {"reward": {"acc": 0.0, "length": 0.9}})
    assert rows(read_history(tmp_path, reward="acc")) == [(1, "x", 2, 1)]
    assert rows(read_history(tmp_path, success="length>=0.2")) == [(1, "x", 2, 2)]


def test_files_that_are_none_of_slime(tmp_path: Path) -> None:
    (tmp_path / "1.pt").write_bytes(b"PK damaged")
    with pytest.raises(InputError, match=r"1\.pt: no rollouts of slime, or damaged: leave the file out"):
        read_history(tmp_path)
    torch.save({"weights": torch.zeros(1)}, tmp_path / "1.pt")
    with pytest.raises(InputError, match=r"1\.pt: no rollouts of slime"):
        read_history(tmp_path)
    with pytest.raises(InputError, match=r"step_1\.pt: its name is no rollout id: give files"):
        read_history(save(tmp_path, 1, {}).rename(tmp_path / "step_1.pt"), "slime")
