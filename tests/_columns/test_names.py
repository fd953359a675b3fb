"""Which columns of a table are labels."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from logs import groups, jsonl
from promptdyn.errors import InputError, PromptdynWarning
from promptdyn.readers import read_history


def test_columns_that_are_no_labels_are_left_out_with_a_word(tmp_path):
    odd = groups(mean_length=lambda step, p: step + 0.5, meta=lambda step, p: {"rank": p})
    for path in (jsonl(tmp_path / "a.jsonl", odd), tmp_path / "a.parquet"):
        if path.suffix == ".parquet":
            pq.write_table(pa.Table.from_pylist(odd), path)
        with pytest.warns(PromptdynWarning) as told:
            history = read_history(path)
        words = " ".join(str(warning.message) for warning in told)
        assert "left out 'mean_length' (" in words
        assert "row 5: label column" in words or "line 6: label column" in words
        assert "'meta'" in words
        assert list(history.columns) == ["task"]
        assert list(read_history(path, drop=["mean_length", "meta"]).columns) == ["task"]
        assert list(read_history(path, label_columns=["task"]).columns) == ["task"]
        assert list(read_history(path, label_columns=[]).columns) == []
        with pytest.raises(InputError, match=r"'mean_length' changes from '0.5' to '1.5' \(15 such rows\)"):
            read_history(path, label_columns=["mean_length"])
        with pytest.raises(InputError, match=r"meta={'rank': 0} is no label \(20 such rows\)"):
            read_history(path, label_columns=["meta"])
        with pytest.raises(InputError, match="no column 'length', to be dropped, among step, prompt_id"):
            read_history(path, drop=["length"])
        with pytest.raises(InputError, match=r"no column 'trained' of labels \(label_columns\) among step"):
            read_history(path, label_columns=["trained"])


def test_row_numbers_of_pandas_are_no_labels(tmp_path):
    frame = pd.DataFrame(groups([0]))  # one row a prompt, in which any column would be a label
    frame.to_csv(tmp_path / "a.csv")
    assert list(read_history(tmp_path / "a.csv").columns) == ["task"]
    pd.read_csv(tmp_path / "a.csv").to_csv(tmp_path / "b.csv", index=False)
    assert list(read_history(tmp_path / "b.csv").columns) == ["task"]
