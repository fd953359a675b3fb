"""Files of columns, whatever their kind: what is recognized, and the message for every bad file."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logs import COLUMNS, HEADER, bad, groups, jsonl, rows
from promptdyn.errors import PromptdynWarning
from promptdyn.history import RewardHistory
from promptdyn.readers import read_history


def test_a_line_cut_off_by_a_crash_is_left_out_with_a_word(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", groups())
    path.write_text(path.read_text()[:-20])
    with pytest.warns(PromptdynWarning, match="line 20: left out, since it was cut off"):
        assert len(read_history(path)) == 19


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl", ""])
@pytest.mark.parametrize("kind", ["parquet", "csv", "semicolons", "tabs", "jsonl", "json"])
def test_tables_are_recognized_by_content(frame, tmp_path, kind, suffix):
    path = tmp_path / f"history{suffix}"
    if kind == "parquet":
        frame.to_parquet(path)
    elif kind == "csv":
        frame.to_csv(path, index=False)
    elif kind in ("semicolons", "tabs"):
        frame.to_csv(path, index=False, sep=";" if kind == "semicolons" else "\t")
    else:
        frame.to_json(path, orient="records", lines=kind == "jsonl")
    history = read_history(str(path))
    assert rows(history) == [(0, "007", 8, 1), (0, "b", 8, 8), (1, "007", 4, 0)]
    assert history.trained.tolist() == [True, False, True]
    assert history.prompts.labels("level").tolist() == ["01", "two, or\nmore"]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 9), st.text("ab\n\",'; ü", min_size=1), st.integers(0, 8)), min_size=1))
def test_csv_and_jsonl_round_trip(tmp_path_factory, cells):
    cells = list({(step, prompt_id): k for step, prompt_id, k in cells}.items())
    records = [
        {"step": step, "prompt_id": prompt_id, "num_rollouts": 8, "num_successes": k} for (step, prompt_id), k in cells
    ]
    expected = rows(RewardHistory.from_records(records))
    folder = tmp_path_factory.mktemp("tables")
    pd.DataFrame(records).to_csv(folder / "a.csv", index=False)
    assert rows(read_history(folder / "a.csv")) == expected
    pd.DataFrame(records).to_csv(folder / "a.tsv", index=False, sep="\t")
    assert rows(read_history(folder / "a.tsv")) == expected
    (folder / "a.jsonl").write_text("\n\n".join(json.dumps(record) for record in records))
    assert rows(read_history(folder / "a.jsonl")) == expected
    (folder / "a.json").write_text(json.dumps(records, indent=1))
    assert rows(read_history(folder / "a.json")) == expected


@pytest.mark.parametrize(("text", "message"), [
    ("[1, 2]", "a.json item 0: '1' is no JSON object (2 such rows): give one an item, or leave bad rows out"),
    ("[]", "a.json: records: the history has no rows"),
    ('[{"step": 0}', "a.json: no JSON ("),
    ("[" * 100_000, "a.json: no JSON ("),
    ('[{"step": 0, "prompt_id": "a", "num_rollouts": 8, "num_successes": 9}]',
     "a.json item 0 (prompt 'a', step 0): num_successes=9 exceeds num_rollouts=8"),
])  # fmt: skip
def test_bad_json_names_its_item(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    assert bad(tmp_path / "a.json").startswith(message.replace("records: ", ""))


CSV = [
    ("0,a,8,1\n\n1,a,8,9\n", "line 4 (prompt 'a', step 1): num_successes=9 exceeds num_rollouts=8: "
     "count the successes among the rollouts"),
    ('0,"a\nb",8,1\n1,a,8,\n', "line 4 (prompt 'a', step 1): num_successes is missing: give an integer >= 0"),
    ("0,a,8,1\n1,a,eight,2\n", "line 3 (prompt 'a', step 1): num_rollouts='eight' is not an integer: "
     "give an integer >= 1"),
    ("0,a,x,1\n", "line 2 (prompt 'a', step 0): num_rollouts='x' is not an integer: give an integer >= 1"),
    ("0,a,8,1.5\n", "line 2 (prompt 'a', step 0): num_successes=1.5 is not an integer: give an integer >= 0"),
    ("0,,8,1\n", "line 2 (prompt '', step 0): prompt_id='' is empty: give every row its prompt_id, or drop the row"),
    ("0,a,8,1\n0,a,8,2\n", "line 3 (prompt 'a', step 0): the prompt has a row of this step already, a.csv line 2, "
     "with other counts: keep the last (repeated='last') if it was logged twice or done again after a restart, add "
     "them up (repeated='merge') or make them steps of their own (repeated='apart') if it was rolled out anew"),
    ("0,a,8,1\n\n1,a,8\n", "line 4: 3 values for 4 columns: give one a column"),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "message"), CSV)
def test_bad_csv_names_its_line(tmp_path, lines, message):
    path = tmp_path / "a.csv"
    path.write_text(f"{HEADER}\n{lines}")
    assert bad(path).replace(str(path), "a.csv") == f"a.csv {message}"


@pytest.mark.parametrize(("content", "message"), [
    (b"", "a.csv: the file is empty: give at least one rolled-out prompt"),
    (b"\n\n", "a.csv: not a CSV file (CSV parse error: Empty CSV file"),
    (f"{HEADER}\n".encode(), "a.csv: the history has no rows: give at least one rolled-out prompt"),
    (b"step,prompt_id,n\n0,a,8\n", "a.csv: no column 'num_successes', 'num_rollouts' among step, prompt_id, n: "
     "name the columns step, prompt_id, num_successes, num_rollouts"),
    (f"{HEADER},step\n0,a,8,1,0\n".encode(), "a.csv line 1: 2 columns 'step': keep one"),
    (f"{HEADER}\n0,\xff,8,1\n".encode("latin-1"), "is not UTF-8: save the file in that encoding"),
])  # fmt: skip
def test_bad_csv_files(tmp_path, content, message):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    assert message in bad(path)


def test_csv_of_other_programs(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(f"\ufeff{HEADER},trained\r\n 0,a,8,1,True\r\n1,a,8,2,False\r\n".encode())
    history = read_history(path)
    assert rows(history) == [(0, "a", 8, 1), (1, "a", 8, 2)]
    assert history.trained.tolist() == [True, False]


GOOD_LINE = json.dumps(dict(zip(COLUMNS, (0, "a", 8, 1), strict=True)))


@pytest.mark.parametrize(("line", "message"), [
    ('{"step": 1', " line 3: '{\"step\": 1' is no JSON object: give one object a line"),
    ("[1, 2]", " line 3: '[1, 2]' is no JSON object: give one object a line"),
    ('{"step": 1, "prompt_id": "a", "num_rollouts": 8}',
     " line 3 (prompt 'a', step 1): num_successes is missing: give an integer >= 0"),
    ('{"step": 1, "prompt_id": "a", "num_rollouts": 8, "num_successes": "2"}',
     " line 3 (prompt 'a', step 1): num_successes='2' is not an integer: give an integer >= 0"),
])  # fmt: skip
def test_bad_jsonl_names_its_line(tmp_path, line, message):
    path = tmp_path / "a.jsonl"
    path.write_text(f"{GOOD_LINE}\n\n{line}\n")
    assert bad(path) == f"a.jsonl{message}"


def test_damaged_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"nothing of the kind")
    assert bad(path).startswith("a.parquet: not a Parquet file, or damaged (")
    path.write_bytes(b"PAR1 nothing of the kind")
    assert bad(path).startswith("a.parquet: not a Parquet file, or damaged (")
