"""Histories in Parquet files: round trips, files of others, and damaged files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings

from histories import assert_same, tables
from known import known
from promptdyn.errors import InputError
from promptdyn.history import RewardHistory


@settings(deadline=None)
@given(tables())
def test_parquet_round_trip(table):
    history = RewardHistory.from_table(table)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "history.parquet"
        history.to_parquet(path)
        assert_same(RewardHistory.from_parquet(path), history)
        assert [file.name for file in Path(folder).iterdir()] == [path.name]


def test_foreign_parquet_is_read_if_its_columns_fit(tmp_path):
    path = tmp_path / "foreign.parquet"
    frame = pd.DataFrame(
        {
            "step": np.array([0, 0, 1], np.int16),
            "prompt_id": pd.Categorical(["b", "a", "a"]),
            "num_rollouts": np.array([8, 8, 8], np.uint8),
            "num_successes": [1.0, 2.0, 3.0],
            "level": np.array([1, 2, 2], np.int8),
            "hard": [True, False, False],
        }
    )
    frame[frame.step >= 0].sort_values("num_successes").iloc[[0, 1, 2]].to_parquet(path, row_group_size=1)
    history = RewardHistory.from_parquet(path)
    assert history.prompt_ids.tolist() == ["b", "a"]
    assert history.num_successes.tolist() == [1, 2, 3]
    assert {name: labels.tolist() for name, labels in history.columns.items()} == {
        "level": ["1", "2"],
        "hard": ["True", "False"],
    }


def test_rewards_of_groups_are_kept_as_far_as_they_are_known(tmp_path):
    columns = {"step": [1, 0, 1], "prompt_id": ["a", "a", "b"], "num_rollouts": [4, 2, 4], "num_successes": [0, 1, 4]}
    history = RewardHistory.from_table(
        {**columns, "reward_mean": [0.25, None, 1.5], "reward_std": np.array([0.5, 0.0, 0.1], np.float16)}
    )
    np.testing.assert_array_equal(known(history.reward_mean), np.array([np.nan, 0.25, 1.5], np.float32))
    np.testing.assert_array_equal(known(history.reward_std), np.array([0, 0.5, np.float16(0.1)], np.float32))
    assert history.summary()["reward_mean"] == pytest.approx((4 * 0.25 + 4 * 1.5) / 8)
    np.testing.assert_array_equal(history.before(1).reward_mean, [np.float32(np.nan)])
    assert history.before(1).summary()["reward_mean"] is None
    history.to_parquet(tmp_path / "history.parquet")
    assert_same(RewardHistory.from_parquet(tmp_path / "history.parquet"), history)
    assert pd.read_parquet(tmp_path / "history.parquet").reward_mean.isna().tolist() == [True, False, False]

    unknown = RewardHistory.from_table({**columns, "reward_mean": [None, None, None]})
    assert (unknown.reward_mean, unknown.reward_std) == (None, None)
    with pytest.raises(InputError, match="'reward_std' has the name of a history's own column"):
        replace(unknown, columns={"reward_std": np.array(["x", "y"], object)}).to_parquet(tmp_path / "x.parquet")


def test_written_files_are_plain_to_others(history, tmp_path):
    path = tmp_path / "new folder" / "history.parquet"
    history.to_parquet(path)
    schema = pq.read_schema(path)
    assert [str(kind) for kind in schema.types] == ["int32", "string", "int32", "int32", "bool", "string", "string"]
    assert pq.read_metadata(path).metadata == {b"promptdyn.history.version": b"2"}
    assert pd.read_parquet(path).prompt_id.tolist() == ["a", "b", "a", "b", "c"]


def write(path: Path, **columns: pa.Array) -> Path:
    base = {"step": [0, 1], "prompt_id": ["a", "b"], "num_rollouts": [8, 8], "num_successes": [0, 1]}
    pq.write_table(pa.table(base | columns), path)
    return path


@pytest.mark.parametrize(("columns", "message"), [
    ({"prompt_id": pa.array(["a", None]).dictionary_encode()},
     " row 1 (prompt None, step 1): prompt_id is missing: give every row its prompt_id, or drop the row"),
    ({"prompt_id": pa.array(["a", None])},
     " row 1 (prompt None, step 1): prompt_id is missing: give every row its prompt_id, or drop the row"),
    ({"num_rollouts": pa.array([None, 8])},
     " row 0 (prompt 'a', step 0): num_rollouts is missing: give an integer >= 1"),
    ({"num_rollouts": pa.nulls(2)},
     " row 0 (prompt 'a', step 0): num_rollouts is missing (2 such rows): give an integer >= 1, or leave bad rows out "
     "(skip_bad)"),
    ({"trained": pa.array([True, None])}, " row 1 (prompt 'b', step 1): trained is missing: give true or false"),
])  # fmt: skip
def test_bad_parquet(tmp_path, columns, message):
    path = write(tmp_path / "bad.parquet", **columns)
    with pytest.raises(InputError) as error:
        RewardHistory.from_parquet(path)
    assert str(error.value) == f"{path}{message}"


def test_unreadable_parquet(history, tmp_path, monkeypatch):
    path = tmp_path / "history.parquet"
    with monkeypatch.context() as later:
        later.setattr("promptdyn.history.parquet.VERSION", 3)
        history.to_parquet(path)
        assert_same(RewardHistory.from_parquet(path), history)
    with pytest.raises(InputError, match=r"history format 3 is newer than the 2 that this promptdyn reads: upgrade"):
        RewardHistory.from_parquet(path)
    table = pq.read_table(path)
    pq.write_table(table.append_column("step", table["step"]).replace_schema_metadata(), path)
    with pytest.raises(InputError, match=r"history.parquet: 2 columns 'step': keep one"):
        RewardHistory.from_parquet(path)
    path.write_bytes(b"PAR1 and then nothing that fits")
    with pytest.raises(InputError, match=r"history.parquet: not a Parquet file, or damaged \(.*\): write it again$"):
        RewardHistory.from_parquet(path)


def test_failed_write_leaves_the_old_file(history, tmp_path, monkeypatch):
    path = tmp_path / "history.parquet"
    history.to_parquet(path)

    def fail(writer, table):
        raise OSError("disk full")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", fail)
    with pytest.raises(InputError, match=r"history\.parquet: cannot be written: disk full"):
        history.before(5).to_parquet(path)
    assert_same(RewardHistory.from_parquet(path), history)
    assert list(tmp_path.iterdir()) == [path]


def test_own_column_names_are_no_label_columns(tmp_path):
    history = RewardHistory.from_columns([0], ["a"], num_successes=[0], num_rollouts=[8], columns={"step": ["x"]})
    with pytest.raises(InputError, match="label column 'step' has the name of a history's own column: rename it"):
        history.to_parquet(tmp_path / "x.parquet")
