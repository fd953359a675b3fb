"""Tables of groups: their columns, and those that have other names."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from known import known
from logs import COLUMNS, HEADER, bad, rows
from promptdyn.errors import InputError
from promptdyn.readers import GroupTable, read_history


def written(frame: pd.DataFrame, path: Path) -> Path:
    """A table in the format that the file's suffix says."""
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix in (".csv", ".tsv"):
        frame.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    else:
        frame.to_json(path, orient="records", lines=path.suffix == ".jsonl")
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".tsv", ".jsonl", ".json"])
def test_rewards_of_groups_are_read(frame, tmp_path, suffix):
    frame = frame.assign(score=[0.5, None, 1.25], reward_std=[0, 1, 2])
    path = written(frame, tmp_path / f"log{suffix}")
    history = read_history(path, columns={"reward_mean": "score"})
    by_prompt = dict(zip(rows(history), known(history.reward_mean).tolist(), strict=True))
    assert by_prompt == pytest.approx(
        {(0, "007", 8, 1): 0.5, (0, "b", 8, 8): float("nan"), (1, "007", 4, 0): 1.25}, nan_ok=True
    )
    assert sorted(known(history.reward_std).tolist()) == [0, 1, 2]
    assert list(history.columns) == ["level"]


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".tsv", ".jsonl", ".json"])
def test_columns_may_have_other_names(frame, tmp_path, suffix):
    names = {"step": "global_step", "prompt_id": "uid", "num_successes": "correct", "trained": "used"}
    frame = frame.rename(columns=names).assign(step=["x", "y", "z"])
    path = written(frame, tmp_path / f"log{suffix}")
    history = read_history(path, columns=names)
    assert rows(history) == [(0, "007", 8, 1), (0, "b", 8, 8), (1, "007", 4, 0)]
    assert history.trained.tolist() == [True, False, True]
    assert list(history.columns) == ["level"]  # what was called step is nobody's any more
    assert "no column 'id', to be read as 'prompt_id', among" in bad(path, columns={**names, "prompt_id": "id"})
    assert "name the columns step, prompt_id, num_successes, num_rollouts, or say which they are (columns, as in " in (
        bad(path)
    )


def test_a_missing_label_is_a_level_of_its_own(tmp_path):
    (tmp_path / "a.csv").write_text(f"{HEADER},task\n0,a,8,1,add\n0,b,8,1,\n1,b,8,2,\n")
    (tmp_path / "a.jsonl").write_text(
        "\n".join(
            json.dumps(dict(zip((*COLUMNS, "task"), row, strict=True)))
            for row in [(0, "a", 8, 1, "add"), (0, "b", 8, 1, None), (1, "b", 8, 2, None)]
        )
    )
    for name in ("a.csv", "a.jsonl"):
        history = read_history(tmp_path / name)
        assert history.prompts.labels("task").tolist() == ["add", "(none)"]
        history.to_parquet(tmp_path / "again.parquet")
        assert read_history(tmp_path / "again.parquet").prompts.labels("task").tolist() == ["add", "(none)"]


def test_table_reader_alone(tmp_path):
    (tmp_path / "a.txt").write_text("notes")
    with pytest.raises(InputError, match=r"a.txt: neither Parquet nor CSV nor JSONL"):
        GroupTable().read([tmp_path / "a.txt"], "a.txt")
