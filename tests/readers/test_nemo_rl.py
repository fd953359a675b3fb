"""NeMo-RL's training data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from logs import jsonl, rows
from promptdyn.errors import InputError
from promptdyn.readers import read_history


def line(prompt: list[int], answer: list[int], reward: float, **more: Any) -> dict[str, Any]:
    mask = [0] * len(prompt) + [1] * len(answer)
    return {
        "content": ["x"],
        "token_ids": [prompt + answer],
        "token_loss_mask": [mask],
        "rewards": [reward],
        **{name: [value] for name, value in more.items()},
        "idx": 0,
    }


def test_a_prompt_is_the_tokens_before_the_answer(tmp_path: Path) -> None:
    lines = [line([1, 2], [3], 1.0), line([1, 2], [4, 5], 0.0), line([1, 2], [], 0.0), line([1], [2], 1.0)]
    jsonl(tmp_path / "train_data_step2.jsonl", lines)
    jsonl(tmp_path / "train_data_step10.jsonl", [line([1], [7], 0.0)])
    jsonl(tmp_path / "val_data_step2.jsonl", [line([9], [7], 0.0)])
    counted = rows(read_history(tmp_path))
    assert [(step, n, k) for step, _, n, k in counted] == [(2, 3, 1), (2, 1, 1), (10, 1, 0)]
    assert counted[1][1] == counted[2][1] != counted[0][1]


def test_filtered_rewards_belong_to_the_line(tmp_path: Path) -> None:
    lines = [line([1, 2], [3], 1.0, filtered_rewards=0.0), line([1, 2], [4], 1.0, filtered_rewards=1.0)]
    log = jsonl(tmp_path / "train_data_step1.jsonl", lines)
    assert [k for *_, k in rows(read_history(log))] == [1]
    assert [k for *_, k in rows(read_history(log, reward="rewards"))] == [2]


def test_lines_and_names_of_files_that_tell_too_little(tmp_path: Path) -> None:
    record = line([1], [2], 1.0)
    record["token_loss_mask"] = None
    with pytest.raises(InputError, match=r"step1.jsonl line 1: .* is no record of NeMo-RL"):
        read_history(jsonl(tmp_path / "train_data_step1.jsonl", [record]), "nemo-rl")
    with pytest.raises(InputError, match=r"data.jsonl: its name tells no step: give files train_data_step\{N\}.jsonl"):
        read_history(jsonl(tmp_path / "data.jsonl", [line([1], [2], 1.0)]), "nemo-rl")
