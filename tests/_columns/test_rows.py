"""Bad rows of a log, each named by its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from logs import groups, jsonl, rows
from promptdyn.errors import InputError, PromptdynWarning
from promptdyn.history import RewardHistory
from promptdyn.readers import read_history


def bad_log(folder: Path) -> Path:
    records = groups()
    records[3]["num_successes"] = 99
    records[7]["num_rollouts"], records[8]["num_rollouts"] = "x", "y"
    records[9]["step"] = None
    records[11]["prompt_id"] = ""
    path = jsonl(folder / "bad.jsonl", [*records, records[0]])
    with path.open("a") as file:
        file.write('{"step": 3\n[1]\n')
    return path


def test_one_import_tells_all_kinds_of_bad_rows(tmp_path):
    path = bad_log(tmp_path)
    with pytest.raises(InputError) as error:
        read_history(path)
    assert str(error.value) == (
        f"{path}: 8 of 23 rows are bad: line 22: '{{\"step\": 3' is no JSON object (2 rows); "
        "line 4: num_successes=99 exceeds num_rollouts=8; line 8: num_rollouts='x' is not an integer (2 rows); "
        "line 10: step is missing; line 12: prompt_id='' is empty; "
        f"line 21: the prompt has a row of this step already, {path} line 1, with the same counts: "
        "mend them, or leave them out (skip_bad)"
    )
    with pytest.warns(PromptdynWarning, match=r"skipped 8 bad of 23 rows: line 22: .*; line 4: num_successes=99"):
        history = read_history(path, skip_bad=True)
    kept = [row for i, row in enumerate(groups()) if i not in (3, 7, 8, 9, 11)]
    assert rows(history) == rows(RewardHistory.from_records(kept))
    assert list(history.columns) == ["task"]


def test_skipping_leaves_nothing_where_all_is_bad(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", [{**row, "num_rollouts": -1} for row in groups()])
    with pytest.raises(InputError, match=r"num_rollouts=-1 is out of range \(20 such rows\)"):
        read_history(path, skip_bad=True)
    path.write_text("[1]\n[2]\n")
    with pytest.raises(InputError, match=r"line 1: '\[1\]' is no JSON object \(2 such rows\)"):
        read_history(path, skip_bad=True)


def test_bad_rows_of_csv_files_keep_their_lines(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('step,prompt_id,num_rollouts,num_successes\n0,"a\nb",8\n\n0,c,8,1,5\n1,c,8,9\n2,c,8,1\n')
    with pytest.raises(InputError) as error:
        read_history(path)
    assert str(error.value) == (
        f"{path}: 3 of 4 rows are bad: line 2: 3 values for 4 columns (2 rows); line 6: num_successes=9 exceeds "
        "num_rollouts=8: mend them, or leave them out (skip_bad)"
    )
    with pytest.warns(PromptdynWarning, match="skipped 3 bad of 4 rows"):
        assert rows(read_history(path, skip_bad=True)) == [(2, "c", 8, 1)]


def test_labels_that_were_asked_for_make_rows_bad(tmp_path):
    records = groups()
    records[6]["task"] = "c"
    path = jsonl(tmp_path / "a.jsonl", records)
    with pytest.warns(PromptdynWarning, match="skipped 1 bad of 20 rows: line 7: label column 'task' changes from 'b'"):
        history = read_history(path, label_columns=["task"], skip_bad=True)
    assert (len(history), sorted(set(history.prompts.labels("task")))) == (19, ["a", "b"])
