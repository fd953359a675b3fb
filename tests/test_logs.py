"""Logs as people have them: repeated rows, odd columns, shards, compressed files, restarts, rows of single rollouts."""

from __future__ import annotations

import gzip
import json
import os
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import promptdyn
from known import known
from promptdyn._columns import Repeated
from promptdyn.errors import InputError, PromptdynWarning
from promptdyn.history import RewardHistory
from promptdyn.readers import read_history
from promptdyn.readers.files import expand, superseded
from test_readers import rows, trl_log


def groups(steps=range(4), prompts=5, **extra) -> list[dict]:
    """Rows of a table of groups; an `extra` column is a function of step and prompt."""
    return [
        {"step": step, "prompt_id": f"q{p}", "num_rollouts": 8, "num_successes": (step * p) % 9, "task": "ab"[p % 2]}
        | {name: value(step, p) for name, value in extra.items()}
        for step in steps
        for p in range(prompts)
    ]


def jsonl(path: Path, records: list[dict]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


# Rows that repeat


def test_repeated_rows_are_told_for_what_they_may_be():
    twice = groups() + groups()
    with pytest.raises(
        InputError, match=r"with the same counts \(20 such rows\): keep the last \(repeated='last'\) if "
    ):
        RewardHistory.from_records(twice)
    again = [{**row, "num_successes": 5} for row in groups([3])]
    with pytest.raises(
        InputError, match=r"row 20 .*row 15, with other counts \(5 such rows\): keep .* after a restart"
    ):
        RewardHistory.from_records(groups() + again)
    with pytest.raises(InputError, match="with in 5 of 10 cases the same counts"):
        RewardHistory.from_records(groups() + groups([2]) + again)
    with pytest.raises(InputError, match="repeated='first' is none of error, merge, last, apart"):
        RewardHistory.from_records(groups(), repeated="first")  # type: ignore[arg-type]


def test_repeated_rows_are_merged_replaced_or_set_apart():
    names = ("step", "prompt_id", "num_rollouts", "num_successes", "trained", "reward_mean", "reward_std")
    first, second, *others = (
        dict(zip(names, row, strict=True))
        for row in [
            (3, "a", 4, 1, False, 0.25, 0.5),
            (3, "a", 4, 3, True, 0.75, 0.5),
            (4, "a", 8, 2, True, None, None),
            (9, "b", 8, 2, True, None, None),
        ]
    )

    def read(repeated: Repeated, told: str) -> RewardHistory:
        with pytest.warns(PromptdynWarning, match=f"log: 1 of 4 rows repeat the prompt and step .*: {told}"):
            return RewardHistory.from_records([first, *others, second], "log", repeated=repeated)

    later = [(4, "a", 8, 2), (9, "b", 8, 2)]
    merged = read("merge", "added their rollouts")
    assert rows(merged) == [(3, "a", 8, 4), *later]
    assert merged.trained.all()
    rewards = [1, 0, 0, 0, 1, 1, 1, 0]
    assert (known(merged.reward_mean)[0], known(merged.reward_std)[0]) == pytest.approx(
        (np.mean(rewards), np.std(rewards, ddof=1))
    )
    assert rows(read("last", "kept the last")) == [(3, "a", 4, 3), *later]
    assert rows(read("apart", r"made steps of their own for them \(1 more\)")) == [
        (3, "a", 4, 1), (4, "a", 4, 3), (5, "a", 8, 2), (9, "b", 8, 2)
    ]  # fmt: skip


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from("abc"), st.integers(1, 5)), min_size=1, max_size=12))
def test_repeated_rows_as_a_naive_loop_settles_them(cells):
    records = [{"step": step, "prompt_id": p, "num_rollouts": n, "num_successes": n // 2} for step, p, n in cells]

    def read(repeated: Repeated) -> RewardHistory:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PromptdynWarning)
            return RewardHistory.from_records(records, repeated=repeated)

    total: Counter[tuple[int, str]] = Counter()
    solved: Counter[tuple[int, str]] = Counter()
    last = {}
    for step, prompt, n in cells:
        total[step, prompt] += n
        solved[step, prompt] += n // 2
        last[step, prompt] = (n, n // 2)
    assert sorted(rows(read("merge"))) == sorted((*cell, n, solved[cell]) for cell, n in total.items())
    assert sorted(rows(read("last"))) == sorted((*cell, *counts) for cell, counts in last.items())
    apart = read("apart")
    assert sorted(apart.num_rollouts) == sorted(n for _, _, n in cells)
    assert len(set(zip(apart.step, apart.prompt, strict=True))) == len(cells)
    for prompt in "abc":  # each prompt's groups stay in their order
        of = [(step, n) for step, p, n in cells if p == prompt]
        found = [n for _, name, n, _ in rows(apart) if name == prompt]
        assert found == [n for _, n in sorted(of, key=lambda group: group[0])]
    if len(total) == len(cells):
        assert rows(apart) == rows(RewardHistory.from_records(records))


# Columns


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


class Exported:
    """A table of another library, which hands itself over as Arrow."""

    def __init__(self, table: pa.Table) -> None:
        self.__arrow_c_stream__ = table.__arrow_c_stream__


def test_tables_of_every_usual_kind():
    columns = {name: [row[name] for row in groups()] for name in groups()[0]}
    expected = RewardHistory.from_table(columns)
    chosen = (
        datasets.Dataset.from_dict({**columns, "note": [[1]] * 20}).select(range(19, -1, -1)).remove_columns("note")
    )
    for table in (
        pd.DataFrame(columns),
        pd.DataFrame(columns).set_index("prompt_id"),
        pd.DataFrame(columns).astype({"task": "category", "step": "Int64"}),
        pa.table(columns),
        pa.table(columns).set_column(4, "task", pa.array(columns["task"]).dictionary_encode()),
        Exported(pa.table(columns)),
        datasets.Dataset.from_dict(columns),
        datasets.Dataset.from_dict(columns).with_format("numpy"),
        chosen,
    ):
        history = RewardHistory.from_table(table)
        assert sorted(rows(history)) == sorted(rows(expected))
        assert dict(zip(history.prompt_ids, history.prompts.labels("task"), strict=True)) == dict(
            zip(expected.prompt_ids, expected.prompts.labels("task"), strict=True)
        )
    for thing in (groups(), 3, "log.csv", datasets.DatasetDict(train=chosen), np.zeros(3)):
        with pytest.raises(InputError, match="history: "):
            RewardHistory.from_table(thing)
    with pytest.raises(InputError, match=r"a list is no table: give a dict of columns, .* rows as dicts go to from_"):
        RewardHistory.from_table(groups())


# Bad rows


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


def test_a_line_cut_off_by_a_crash_is_left_out_with_a_word(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", groups())
    path.write_text(path.read_text()[:-20])
    with pytest.warns(PromptdynWarning, match="line 20: left out, since it was cut off"):
        assert len(read_history(path)) == 19


# Files


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


def test_histories_that_are_joined_keep_what_they_share(tmp_path):
    for step in (0, 1):
        history = RewardHistory.from_columns(
            [step], ["a"], num_successes=[1], num_rollouts=[8], success="0.5", pool_size=9
        )
        history.to_parquet(tmp_path / f"{step}.parquet")
    assert (read_history(tmp_path).success, read_history(tmp_path).pool_size) == ("0.5", 9)
    RewardHistory.from_columns([2], ["a"], num_successes=[1], num_rollouts=[8], success="1").to_parquet(
        tmp_path / "2.parquet"
    )
    with pytest.warns(PromptdynWarning, match="its files count successes by different rules: '0.5', '1'"):
        history = read_history(tmp_path)
    assert (history.success, history.pool_size) == (None, None)


def test_the_folder_of_a_run_is_its_history(tmp_path):
    run = tmp_path / "runs" / "mine"
    trl_log(run / "completions", 1, ["p", "p"], [1.0, 0.0])
    (run / "metrics.jsonl").write_text('{"loss": 1}\n')
    history = RewardHistory.from_records(groups()).with_pool_size(7)
    history.to_parquet(run / "history.parquet")
    assert rows(promptdyn.read_history(run)) == rows(history)
    assert promptdyn.read_history(run).pool_size == 7
    assert list(promptdyn.read_history(run, drop=["task"]).columns) == []
    assert rows(promptdyn.read_history(run, success="correct")) == [(1, "p", 2, 1)]  # only completions can tell
    with pytest.raises(InputError, match=f"runs: no run, but a folder of runs: name one, as {run}"):
        promptdyn.read_history(tmp_path / "runs")


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


# Rollouts


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


def test_what_verl_adds_to_a_batch_is_no_rollout(tmp_path):
    group = "1110b867-778e-493f-b7ee-c5435517860a"
    uids = [f"{group}_0_0", f"{group}_1_0", f"{group}_1_1", "pad_0_0", f"{group}_2_0"]
    records = [
        {"input": "x", "output": "", "score": score, "step": 1, "uid": uid}
        for uid, score in zip(uids, [1.0, 0.0, 1.0, 0.0, 0.0], strict=True)
    ]
    assert rows(read_history(jsonl(tmp_path / "1.jsonl", records))) == [(1, "x", 3, 2)]
    for record in records:  # a name of the prompt, and no verl's
        record["uid"] = "math_1_2"
    assert rows(read_history(jsonl(tmp_path / "1.jsonl", records))) == [(1, "x", 5, 2)]


def test_bad_completions_are_skipped(tmp_path):
    trl_log(tmp_path, 1, ["p", "p", "q"], [1.0, 0.0, 1.0], prompt_id=["p", None, "q"])
    path = trl_log(tmp_path, 2, ["p", "q"], [1.0, 0.0], prompt_id=["p", "q"])
    pd.read_parquet(path).assign(step=[2.0, np.nan]).to_parquet(path)
    with pytest.raises(
        InputError, match=r"2 of 5 rows are bad: completions_00001.parquet row 1: prompt_id is missing; "
    ):
        read_history(tmp_path)
    with pytest.warns(PromptdynWarning, match="skipped 2 bad of 5 rows: completions_00001.parquet row 1: prompt_id is"):
        assert rows(read_history(tmp_path, skip_bad=True)) == [(1, "p", 1, 1), (1, "q", 1, 1), (2, "p", 1, 1)]
