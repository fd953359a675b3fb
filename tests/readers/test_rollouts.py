"""Tables with one row per rollout."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from known import known
from logs import jsonl, rows
from promptdyn.errors import InputError, PromptdynWarning
from promptdyn.readers import read_history


def test_rows_of_single_rollouts(tmp_path):
    for step in (1, 2, 11):
        records = [
            {"input": f"What is {p}+{p}?", "output": "", "gts": str(2 * p), "score": float(i < p), "step": step}
            for p in range(3)
            for i in range(4)
        ]
        jsonl(tmp_path / f"{step}.jsonl", records)
    history = read_history(tmp_path)
    assert rows(history) == [(step, f"What is {p}+{p}?", 4, p) for step in (1, 2, 11) for p in range(3)]
    assert history.success == "0.5"
    np.testing.assert_allclose(known(history.reward_mean), [0, 0.25, 0.5] * 3)
    assert rows(read_history(tmp_path / "2.jsonl", prompt_key="gts", reward="score")) == [
        (2, "0", 4, 0), (2, "2", 4, 1), (2, "4", 4, 2)
    ]  # fmt: skip
    assert rows(read_history([tmp_path / "1.jsonl", tmp_path / "2.jsonl"])) == rows(history)[:6]


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl", ".json"])
def test_rollouts_in_every_kind_of_file(tmp_path, suffix, caplog):
    frame = pd.DataFrame({
        "question": ["x", "x", "y", "y"], "correct": [1.0, 0.0, 0.5, None], "form": [1, 1, 0, 1], "t": [3, 3, 3, 3],
        "task": ["a", "a", None, None],
    })  # fmt: skip
    path = tmp_path / f"log{suffix}"
    if suffix in (".csv", ".parquet"):
        frame.to_csv(path, index=False) if suffix == ".csv" else frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=suffix == ".jsonl")
    options: dict[str, Any] = {
        "prompt_key": "question",
        "reward": ["correct", "form"],
        "step_key": "t",
        "label_columns": ["task"],
    }
    history = read_history(path, success="correct", reward_weights=[1, 0.5], **options)
    assert rows(history) == [(3, "x", 2, 1), (3, "y", 1, 1)]
    assert known(history.reward_mean).tolist() == [1.0, 0.5]
    assert history.prompts.labels("task").tolist() == ["a", "(none)"]
    with pytest.raises(InputError, match="success='corect': no reward function is called 'corect'"):
        read_history(path, success="corect", **options)
    with pytest.raises(InputError, match=r"no column of rewards among question, .*: say which \(as reward\)"):
        read_history(path, **{**options, "reward": ["correct", "shape"]})
    with pytest.raises(InputError, match="no column 'u' of steps among question, correct"):
        read_history(path, **{**options, "step_key": "u"})


def test_steps_in_the_names_of_files_are_told(tmp_path, caplog):
    for step in (4, 12):
        jsonl(
            tmp_path / f"run2_rollouts_{step}.jsonl", [{"prompt": [{"role": "user", "content": "x"}], "reward": True}]
        )
    history = read_history(tmp_path)
    assert rows(history) == [(step, '[{"content": "x", "role": "user"}]', 1, 1) for step in (4, 12)]
    assert "steps are the numbers in the names of its files, 4 to 12: step_key names a column" in caplog.text
    pq.write_table(pa.table({"loss": [0.5]}), tmp_path / "run2_rollouts_13.parquet")
    with pytest.raises(InputError, match=r"13.parquet: no column of prompts, rewards or steps among loss: leave the"):
        read_history(tmp_path)
    path = jsonl(tmp_path / "log.jsonl", [{"prompt": "x", "reward": 1}])
    with pytest.raises(
        InputError, match=r"no column 'step' of steps among prompt, reward, and no number in the file's"
    ):
        read_history(path)


def test_bad_rollouts(tmp_path):
    records = [{"prompt": p, "reward": 1.0, "step": 1, "task": "a"} for p in "xxyy"]
    records[1]["reward"] = "high"
    records[2]["prompt"] = None
    records[3]["step"] = 1.5
    path = jsonl(tmp_path / "log.jsonl", records)
    with path.open("a") as file:
        file.write("nothing\n")
    with pytest.raises(InputError) as error:
        read_history(path)
    assert str(error.value) == (
        f"{path}: 4 of 5 rows are bad: line 5: 'nothing' is no JSON object; line 2: reward='high' is not a number; "
        "line 3: prompt is missing; line 4: step=1.5 is not an integer: mend them, or leave them out (skip_bad)"
    )
    with pytest.warns(PromptdynWarning, match="skipped 4 bad of 5 rows"):
        assert rows(read_history(path, skip_bad=True)) == [(1, "x", 1, 1)]
