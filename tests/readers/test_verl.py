"""verl's dumps of rollouts."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from logs import jsonl, rows
from promptdyn.readers import VerlRollouts, read_history

GROUP = "1110b867-778e-493f-b7ee-c5435517860a_0"


def test_padding_and_all_but_the_last_output_of_a_session_are_left_out(tmp_path: Path) -> None:
    padding = "pad" + "0f" * 16 + "_3_0"
    outputs = {
        f"{GROUP}_0": 1.0,
        f"{GROUP[:-1]}1_10": 1.0,
        f"{GROUP[:-1]}1_2": 0.0,
        padding: 0.0,
        f"{GROUP[:-1]}2_0": 0.0,
    }
    records = [
        {"input": "x", "output": "", "gts": "2", "score": score, "step": 1, "uid": uid}
        for uid, score in outputs.items()
    ]
    log = jsonl(tmp_path / "1.jsonl", records)
    assert VerlRollouts().recognizes(tmp_path)
    assert rows(read_history(log)) == [(1, "x", 3, 2)]
    for record in records:  # a name of the prompt, and no verl's
        record["uid"] = "math_1_2"
    assert rows(read_history(jsonl(log, records))) == [(1, "x", 5, 2)]


def test_steps_are_those_of_the_lines_and_files_may_be_compressed(tmp_path: Path) -> None:
    for step in (2, 10):
        line = json.dumps({"input": "x", "output": "", "score": step == 10, "step": step})
        (tmp_path / f"{step}.jsonl.gz").write_bytes(gzip.compress(f"{line}\n".encode()))
    assert rows(read_history(tmp_path)) == [(2, "x", 1, 0), (10, "x", 1, 1)]


def test_a_dump_that_is_read_as_a_table_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = jsonl(tmp_path / "1.jsonl", [{"input": "x", "output": "", "score": 1.0, "step": 1, "epoch": 3}])
    assert rows(read_history(log, step_key="epoch")) == [(3, "x", 1, 1)]
    assert "1.jsonl: read as 'rollouts': format 'verl' has no step_key" in caplog.text
