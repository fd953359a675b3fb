"""Files of a log: compressed, in shards, and of a run that was begun again."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logs import groups, jsonl, rows, trl_log
from promptdyn.errors import InputError, PromptdynWarning
from promptdyn.history import RewardHistory
from promptdyn.readers import read_history
from promptdyn.readers.files import expand, superseded


def test_compressed_files(tmp_path):
    text = jsonl(tmp_path / "a.jsonl", groups()).read_bytes()
    expected = rows(read_history(tmp_path / "a.jsonl"))
    packed = {".gz": gzip.compress(text), ".zst": pa.compress(text, codec="zstd", asbytes=True)}
    for suffix, content in packed.items():
        path = tmp_path / f"b.jsonl{suffix}"
        path.write_bytes(content)
        assert rows(read_history(path)) == expected
        path.with_name("no_suffix").write_bytes(content)
        assert rows(read_history(path.with_name("no_suffix"))) == expected
        path.write_bytes(content[:-12])
        with pytest.raises(InputError, match=rf"b.jsonl{suffix}: cannot be read \(Truncated"):
            read_history(path)
    pd.DataFrame(groups()).to_csv(tmp_path / "c.csv.gz", index=False)
    assert rows(read_history(tmp_path / "c.csv.gz")) == expected
    pd.DataFrame(groups()).to_parquet(tmp_path / "d.parquet")
    (tmp_path / "d.parquet.gz").write_bytes(gzip.compress((tmp_path / "d.parquet").read_bytes()))
    with pytest.raises(InputError, match="unpack it: a Parquet file is compressed by itself"):
        read_history(tmp_path / "d.parquet.gz")


def test_shards_are_one_history(tmp_path):
    frame = pd.DataFrame(groups(range(12)))
    shards = tmp_path / "shards"
    shards.mkdir()
    frame[frame.step < 3].drop(columns="task").to_parquet(shards / "part-2.parquet")
    frame[(frame.step >= 3) & (frame.step < 8)].to_csv(shards / "part-9.csv", index=False)
    jsonl(shards / "part-10.jsonl", frame[frame.step >= 8].to_dict("records"))
    expected = rows(RewardHistory.from_table(frame))
    paths = [shards / f"part-{i}" for i in ("2.parquet", "9.csv", "10.jsonl")]
    assert expand(f"{shards}/part-*") == paths
    with pytest.warns(PromptdynWarning, match=r"left out 'task' .* from '\(none\)' to 'a'"):
        assert rows(read_history(shards)) == expected
    for path in (shards, f"{shards}/part-*", paths, [str(shards)]):
        history = read_history(path, label_columns=())
        assert rows(history) == expected
    assert rows(read_history(paths[1:])) == [row for row in expected if row[0] >= 3]

    jsonl(shards / "part-10.jsonl", [*groups([9]), {**groups([10])[0], "num_successes": 9}])
    with pytest.raises(InputError, match=r"shards/part-10.jsonl line 6 \(prompt 'q0', step 10\): num_successes=9"):
        read_history(shards, label_columns=())
    jsonl(shards / "part-10.jsonl", groups([7]))
    with pytest.raises(
        InputError, match=r"part-10.jsonl line 1 .* already, .*part-9.csv line 22, with the same counts"
    ):
        read_history(shards, label_columns=())
    for nothing, message in (([], "no path"), (f"{shards}/x*", "no file matches"), (["nowhere"], "nowhere: no such")):
        with pytest.raises(InputError, match=message):
            read_history(nothing)
    (tmp_path / "notes.txt").write_text("notes")
    with pytest.raises(InputError, match="2 paths, not all of one known format"):
        read_history([shards, tmp_path / "notes.txt"])


# Restarts


def written_at(path: Path, seconds: float) -> Path:
    os.utime(path, (seconds, seconds))
    return path


def test_files_of_a_run_before_are_told_by_their_times(tmp_path):
    for step in range(1, 7):
        written_at(trl_log(tmp_path, step, ["p", "p"], [1.0, 0.0]), 1000 + step)
    for step in (3, 4):  # begins again after step 2, and ends earlier
        written_at(trl_log(tmp_path, step, ["p", "p"], [1.0, 1.0]), 2000 + step)
    told = r"left out 2 of 6 files \(steps 5 to 6\), which are older than .* keep_superseded keeps them"
    with pytest.warns(PromptdynWarning, match=told):
        history = read_history(tmp_path)
    assert rows(history) == [(1, "p", 2, 1), (2, "p", 2, 1), (3, "p", 2, 2), (4, "p", 2, 2)]
    assert len(read_history(tmp_path, keep_superseded=True)) == 6


def test_dumps_of_a_run_before_are_told_by_their_times(tmp_path):
    def dump(step: int, score: float, time: float) -> None:
        records = [{"input": p, "output": "", "score": score, "step": step} for p in "ppqq"]
        written_at(jsonl(tmp_path / f"{step}.jsonl", records), time)

    for step in range(1, 11):
        dump(step, 0.0, step)
    for step in range(1, 10):
        dump(step, 1.0, 50 + step)
    with pytest.warns(PromptdynWarning, match=r"left out 1 of 10 files \(step 10\)"):
        history = read_history(tmp_path)
    assert (history.steps[-1], history.num_successes.min()) == (9, 2)


@given(st.data())
def test_superseded_files_are_those_that_no_later_run_wrote_over(data):
    files: dict[int, tuple[float, int]] = {}  # step -> time, run
    time, first = 0.0, 1
    runs = data.draw(st.lists(st.tuples(st.integers(1, 30), st.integers(20, 60)), min_size=1, max_size=3))
    for run, (begin, length) in enumerate(runs):
        begin = min(begin, first)  # begins at 1, or after a checkpoint of what is there
        for step in range(begin, begin + length):
            time += 1
            files[step] = (time, run)
        first = begin + length
        belongs = {step for step in files if step < first}

    steps = list(files)
    found = superseded(steps, [int(files[step][0] * 1e9) for step in steps])
    assert {step for step, gone in zip(steps, found, strict=True) if gone} == set(files) - belongs


def test_times_of_copies_tell_nothing():
    steps, second = np.arange(40), 10**9
    assert superseded(steps, (steps + 20) % 40 * second).sum() == 20
    assert not superseded(steps, np.random.default_rng(0).permutation(40) * second).any()
    assert not superseded(steps, (steps + 20) % 40 * 1000).any()  # within an instant
    assert not superseded(steps, np.zeros(40, int)).any()


def test_only_what_was_written_over_is_superseded(tmp_path):
    def dump(file: Path, step: int | None, time: float) -> None:
        file.parent.mkdir(exist_ok=True)
        written_at(
            jsonl(file, [{"input": p, "score": float(s and p == "a"), "step": step} for p in "ab" for s in (0, 1)]),
            time,
        )

    for step in range(1, 6):
        dump(tmp_path / "one" / f"{step}.jsonl", step, 100 + step)
        dump(tmp_path / "other" / f"{step}.jsonl", step, 200 + step)
    folders = [tmp_path / "one", tmp_path / "other"]
    assert read_history(folders).num_rollouts.tolist() == [4] * 10  # each folder is its own
    dump(tmp_path / "one" / "late.jsonl", None, 900)  # of no step, so none that was done again
    with pytest.warns(PromptdynWarning, match="skipped 4 bad of 24 rows"):
        assert read_history(tmp_path / "one", skip_bad=True).steps.tolist() == [1, 2, 3, 4, 5]
    for step in range(1, 11):  # two ranks, of which one is late once
        dump(tmp_path / "ranks" / f"a{step}.jsonl", step, step)
        dump(tmp_path / "ranks" / f"b{step}.jsonl", step, step + (1.5 if step == 5 else 0.2))
    assert read_history(tmp_path / "ranks").num_rollouts.tolist() == [4] * 20
