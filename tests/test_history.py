"""Reward histories: round trips, the dense view against a naive loop, and the message for every bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import promptdyn
from known import known
from promptdyn.clusters import cross, uncross
from promptdyn.errors import InputError
from promptdyn.history import Exposure, Outcome, RewardHistory, outcome_of
from promptdyn.history.events import exposure_names, exposure_of

COLUMNS = ("step", "prompt_id", "num_rollouts", "num_successes")
# NumPy's own strings end at a NUL.
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=6)


@st.composite
def tables(draw) -> dict[str, list]:
    """Valid columns in any row order, with ids and labels of any text."""
    ids = draw(st.lists(texts, min_size=1, max_size=6, unique=True))
    cells = draw(st.lists(st.tuples(st.integers(0, 8), st.sampled_from(ids)), min_size=1, max_size=30, unique=True))
    label = {prompt_id: draw(texts) for prompt_id in ids}
    n = [draw(st.integers(1, 20)) for _ in cells]
    return {
        "step": [step for step, _ in cells],
        "prompt_id": [prompt_id for _, prompt_id in cells],
        "num_rollouts": n,
        "num_successes": [draw(st.integers(0, most)) for most in n],
        "trained": [draw(st.booleans()) for _ in cells],
        "family": [label[prompt_id] for _, prompt_id in cells],
        "length": [len(prompt_id) for _, prompt_id in cells],
    }


def assert_same(one: RewardHistory, other: RewardHistory) -> None:
    for name in ("prompt_ids", "prompt", "step", "num_successes", "num_rollouts", "trained"):
        mine, its = getattr(one, name), getattr(other, name)
        assert mine.dtype == its.dtype
        np.testing.assert_array_equal(mine, its)
    for name in ("reward_mean", "reward_std"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert list(one.columns) == list(other.columns)
    for name, labels in one.columns.items():
        np.testing.assert_array_equal(labels, other.columns[name])


@pytest.fixture
def history() -> RewardHistory:
    return RewardHistory.from_columns(
        step=[5, 0, 0, 2, 5],
        prompt_id=["b", "a", "b", "a", "c"],
        num_rollouts=[8, 4, 8, 4, 8],
        num_successes=[8, 0, 1, 2, 3],
        trained=[True, False, True, True, False],
        columns={"task": ["mul", "add", "mul", "add", "mul"], "level": [1, 2, 1, 2, 10]},
    )


@settings(deadline=None)
@given(tables())
def test_parquet_round_trip(table):
    history = RewardHistory.from_table(table)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "history.parquet"
        history.to_parquet(path)
        assert_same(RewardHistory.from_parquet(path), history)
        assert [file.name for file in Path(folder).iterdir()] == [path.name]


@settings(deadline=None)
@given(tables())
def test_every_constructor_builds_the_same_history(table):
    history = RewardHistory.from_table(table)
    records = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    assert_same(RewardHistory.from_records(records), history)
    assert_same(RewardHistory.from_table(pd.DataFrame(table)), history)
    clusters = {name: np.array(table.pop(name)) for name in ("family", "length")}
    columns: dict[str, Any] = {name: np.array(values) for name, values in table.items()}
    assert_same(RewardHistory.from_columns(**columns, columns=clusters), history)


@settings(deadline=None)
@given(tables(), st.sampled_from([None, "family", ("family", "length")]))
def test_dense_view_equals_a_naive_loop(table, cluster):
    history = RewardHistory.from_table(table)
    dense = history.dense(cluster)
    steps = sorted(set(table["step"]))
    assert dense.steps.tolist() == steps
    counts = list(zip(*dense.counts, strict=True))
    assert counts[0] == (0, 0)
    assert len(set(counts)) == len(counts)

    row_of = {cell: row for row, cell in enumerate(zip(table["step"], table["prompt_id"], strict=True))}
    for t, step in enumerate(steps):
        for i, prompt_id in enumerate(dense.prompt_ids):
            row = row_of.get((step, prompt_id))
            expected = (0, 0) if row is None else (table["num_successes"][row], table["num_rollouts"][row])
            assert counts[dense.symbols[t, i]] == expected
            level = 0
            if row is not None and table["trained"][row]:
                level = 1 if 0 < expected[0] < expected[1] else 2
            assert dense.exposure[t, i] == level
    for i, prompt_id in enumerate(dense.prompt_ids):
        row = table["prompt_id"].index(prompt_id)
        labels = {None: "all", "family": table["family"][row]}
        quoted = "".join("\\" * (character in "\\|") + character for character in table["family"][row])
        label = labels.get(cluster, f"{quoted}|{table['length'][row]}")
        assert dense.cluster_names[dense.cluster[i]] == label
    assert list(dense.cluster_names) == sorted(set(dense.cluster_names))


@pytest.mark.parametrize(("n", "dtype"), [(254, np.uint8), (255, np.uint16)])
def test_dense_symbols_are_as_small_as_they_can_be(n, dtype):
    ids = [str(k) for k in range(n + 1)]
    dense = RewardHistory.from_columns(
        [0] * len(ids), ids, num_successes=range(n + 1), num_rollouts=[n] * len(ids)
    ).dense()
    assert dense.symbols.dtype == dtype
    assert dense.counts.num_successes[dense.symbols[0]].tolist() == list(range(n + 1))


def test_groups_too_large_to_tabulate_are_named():
    history = RewardHistory.from_columns([0, 3], ["a", "b"], num_successes=[1, 2], num_rollouts=[900_000, 1_000_000])
    with pytest.raises(InputError, match="step 3, prompt 'b': num_rollouts=1000000 is too large"):
        history.dense()


def test_rows_are_sorted_by_step_and_prompts_by_first_row(history):
    assert history.step.tolist() == [0, 0, 2, 5, 5]
    assert history.prompt_ids.tolist() == ["a", "b", "c"]
    assert history.prompt.tolist() == [0, 1, 0, 1, 2]
    assert history.num_successes.tolist() == [0, 1, 2, 8, 3]
    assert history.trained.tolist() == [False, True, True, True, False]
    assert history.informative.tolist() == [False, True, True, False, True]
    assert history.steps.tolist() == [0, 2, 5]
    assert (len(history), history.num_prompts) == (5, 3)
    assert repr(history) == "RewardHistory(5 rows, 3 prompts, 3 steps, columns task, level)"


def test_absent_trained_column_means_all_trained():
    assert RewardHistory.from_columns(
        [0, 1], ["a", "a"], num_successes=[0, 1], num_rollouts=[2, 2]
    ).trained.tolist() == [True, True]


def test_ids_and_labels_become_strings():
    ids: list[Any] = [7, "8", "7"]
    history = RewardHistory.from_columns(
        [0, 0, 1], ids, num_successes=[0, 1, 2], num_rollouts=[2, 2, 2], columns={"level": [1.5, 2, 1.5]}
    )
    assert history.prompt_ids.tolist() == ["7", "8"]
    assert history.prompt.tolist() == [0, 1, 0]
    assert history.prompts.labels("level").tolist() == ["1.5", "2"]


def test_parts_keep_the_pool(history):
    early = history.before(5)
    assert early.step.tolist() == [0, 0, 2]
    assert early.prompt_ids.tolist() == ["a", "b", "c"]
    assert early.dense("task").cluster.tolist() == history.dense("task").cluster.tolist()
    assert early.dense().symbols.shape == (2, 3)
    assert history.observed().num_successes.tolist() == [1, 2, 8]
    assert history.observed_rows("trained").tolist() == history.trained.tolist()
    assert_same(history.observed("all"), history)
    nothing = history.before(0)
    assert (len(nothing), nothing.dense().symbols.shape) == (0, (0, 3))


def test_labels_cross_columns(history):
    assert history.prompts.labels("task").tolist() == ["add", "mul", "mul"]
    assert history.prompts.labels(("task", "level")).tolist() == ["add|2", "mul|1", "mul|10"]
    assert history.dense(["level", "task"]).cluster_names == ("10|mul", "1|mul", "2|add")
    piped = RewardHistory.from_columns(
        [0], ["a"], num_successes=[0], num_rollouts=[8], columns={"x": ["u|v"], "y": ["w"]}
    )
    assert piped.prompts.labels("x").tolist() == ["u|v"]
    assert piped.prompts.labels(("x", "y")).tolist() == [r"u\|v|w"]


@given(st.lists(st.tuples(texts | st.just(""), texts, texts), min_size=1, max_size=5))
def test_crossed_labels_are_told_apart_whatever_they_hold(rows):
    assert [tuple(uncross(label)) for label in cross(list(zip(*rows, strict=True)))] == rows


def test_summary(history):
    summary = history.summary()
    assert json.loads(json.dumps(summary)) == summary
    assert summary == {
        "rows": 5,
        "prompts": 3,
        "steps": 3,
        "first_step": 0,
        "last_step": 5,
        "rollouts": 32,
        "rollouts_per_row": [4, 8],
        "success_rate": 14 / 32,
        "reward_mean": None,
        "unsolved": 0.2,
        "partial": 0.6,
        "solved": 0.2,
        "trained_rows": 3,
        "trained": 0.6,
        "density": 5 / 9,
        "columns": {"task": 2, "level": 3},
        "success": None,
        "pool_size": None,
    }
    empty = history.before(0).summary()
    assert (empty["rows"], empty["first_step"], empty["success_rate"], empty["density"]) == (0, None, None, None)


def test_the_size_of_the_pool_is_kept(tmp_path):
    history = RewardHistory.from_columns([0, 1], ["a", "b"], num_successes=[1, 2], num_rollouts=[4, 4], pool_size=9)
    history.to_parquet(tmp_path / "h.parquet")
    assert RewardHistory.from_parquet(tmp_path / "h.parquet").pool_size == 9
    assert promptdyn.read_history(tmp_path / "h.parquet").summary()["pool_size"] == 9
    assert history.before(1).pool_size == 9
    sizes: list[Any] = [1, 0, -3, 2.5, "many"]
    for size in sizes:
        with pytest.raises(InputError, match=f"history: pool_size={size}, and 2 prompts are in the history"):
            history.with_pool_size(size)
    with pytest.raises(InputError, match="run: pool_size=1, and 2 prompts"):
        RewardHistory.from_columns(
            [0, 1], ["a", "b"], num_successes=[1, 2], num_rollouts=[4, 4], pool_size=1, source="run"
        )


@given(st.data())
def test_marks_know_a_steps_rows_again(data):
    row = st.tuples(st.integers(0, 3), st.text("ab|", min_size=1, max_size=2), st.integers(1, 3), st.booleans())
    rows = data.draw(st.lists(row, min_size=1, unique_by=lambda row: row[:2]))

    def marks(rows):
        step, prompt, n, solved = zip(*rows, strict=True)
        history = RewardHistory.from_columns(step, prompt, num_successes=np.where(solved, n, 0), num_rollouts=n)
        return dict(zip(history.steps.tolist(), history.marks().tolist(), strict=True))

    found = marks(rows)
    assert marks(data.draw(st.permutations(rows))) == found
    at = data.draw(st.integers(0, len(rows) - 1))
    step, prompt, n, solved = rows[at]
    for other in ((step, prompt, n, not solved), (step, prompt, n + 1, solved), (step, f"{prompt}xyz", n, solved)):
        changed = marks([*rows[:at], other, *rows[at + 1 :]])
        assert {step for step in found if changed[step] != found[step]} == {step}


BAD_VALUES = [
    ({"num_successes": 9}, "num_successes=9 exceeds num_rollouts=8: count the successes among the rollouts"),
    ({"num_successes": -1}, "num_successes=-1 is out of range: give an integer from 0 to 2147483647"),
    ({"num_rollouts": 0}, "num_rollouts=0 is out of range: give an integer from 1 to 1000000"),
    ({"num_rollouts": 2**40}, "num_rollouts=1099511627776 is out of range: give an integer from 1 to 1000000"),
    ({"num_rollouts": -2}, "num_rollouts=-2 is out of range: give an integer from 1 to 1000000"),
    ({"num_rollouts": 7.5}, "num_rollouts=7.5 is not an integer: give an integer >= 1"),
    ({"num_rollouts": "eight"}, "num_rollouts='eight' is not an integer: give an integer >= 1"),
    ({"num_successes": True}, "num_successes=True is not an integer: give an integer >= 0"),
    ({"num_successes": float("inf")}, "num_successes=inf is not an integer: give an integer >= 0"),
    ({"num_successes": float("nan")}, "num_successes is missing: give an integer >= 0"),
    ({"num_successes": None}, "num_successes is missing: give an integer >= 0"),
    ({"trained": None}, "trained is missing: give true or false"),
    ({"trained": "yes"}, "trained='yes' is not a boolean: give true or false"),
    ({"trained": 2}, "trained=2 is not a boolean: give true or false"),
    ({"reward_mean": "high"}, "reward_mean='high' is not a number: give a number, or leave it empty"),
    ({"reward_mean": float("inf")}, "reward_mean=inf is out of range: give a finite number"),
    ({"reward_mean": 1e60}, "reward_mean=1e+60 is out of range: give a finite number"),
    ({"reward_std": -0.1}, "reward_std=-0.1 is out of range: give a number >= 0"),
    ({"task": ["add"]}, "task=['add'] is no label: give a string or a number, or drop the column"),
    ({"task": None}, "label column 'task' changes from 'add' to '(none)': give all rows of a prompt one label, "
     "or drop the column"),
    ({"task": "div"}, "label column 'task' changes from 'add' to 'div': give all rows of a prompt one label, "
     "or drop the column"),
]  # fmt: skip


def columns_with(row: int, values: dict) -> dict[str, list]:
    table: dict[str, list] = {
        "step": [3, 4, 5],
        "prompt_id": ["a", "a", "a"],
        "num_rollouts": [8, 8, 8],
        "num_successes": [0, 1, 2],
        "trained": [True, False, True],
        "task": ["add", "add", "add"],
        "reward_mean": [0, 0.5, None],
        "reward_std": [0, 0.5, None],
    }
    for name, value in values.items():
        table[name][row] = value
    return table


@pytest.mark.parametrize(("values", "message"), BAD_VALUES)
def test_bad_value_names_its_row_prompt_and_step(values, message):
    with pytest.raises(InputError) as error:
        RewardHistory.from_table(columns_with(1, values), source="runs/a.parquet", label_columns=["task"])
    assert str(error.value) == f"runs/a.parquet row 1 (prompt 'a', step 4): {message}"


@pytest.mark.parametrize(("name", "values", "found"), [
    ("num_rollouts", np.array([8, np.nan, 8]), "num_rollouts is missing"),
    ("num_rollouts", np.array([8.0, 8.5, 8.0]), "num_rollouts=8.5 is not an integer"),
    ("num_successes", np.array([0, -3, 0], np.int8), "num_successes=-3 is out of range"),
    ("trained", np.array([0, 2, 1]), "trained=2 is not a boolean"),
    ("trained", np.array(["yes", "no", "no"]), "trained='yes' is not a boolean"),
    ("task", pd.array(["x", None, "x"], dtype="string"), r"label column 'task' changes from 'x' to '\(none\)'"),
    ("prompt_id", pd.array(["a", None, "a"], dtype="string"), "prompt_id is missing"),
    ("num_rollouts", pd.array([8, None, 8], dtype="Int64"), "num_rollouts is missing"),
])  # fmt: skip
def test_arrays_are_checked_as_lists_are(name, values, found):
    with pytest.raises(InputError, match=found):
        RewardHistory.from_table(columns_with(0, {}) | {name: values}, label_columns=["task"])


@pytest.mark.parametrize(("values", "message"), [
    ({"step": None}, "history row 1 (prompt 'a', step None): step is missing: give an integer >= 0"),
    ({"step": -1}, "history row 1 (prompt 'a', step -1): step=-1 is out of range: "
     "give an integer from 0 to 2147483647"),
    ({"prompt_id": None}, "history row 1 (prompt None, step 4): prompt_id is missing: give every row its prompt_id, "
     "or drop the row"),
    ({"prompt_id": ""}, "history row 1 (prompt '', step 4): prompt_id='' is empty: give every row its prompt_id, "
     "or drop the row"),
    ({"step": 3}, "history row 1 (prompt 'a', step 3): the prompt has a row of this step already, history row 0, "
     "with other counts: keep the last (repeated='last') if it was logged twice or done again after a restart, add "
     "them up (repeated='merge') or make them steps of their own (repeated='apart') if it was rolled out anew"),
])  # fmt: skip
def test_bad_step_or_prompt_names_its_row(values, message):
    with pytest.raises(InputError) as error:
        RewardHistory.from_table(columns_with(1, values))
    assert str(error.value) == message


def test_rows_are_named_by_their_place_in_the_source_not_in_the_sorted_history():
    with pytest.raises(
        InputError, match=r"line 4 \(prompt 'a', step 3\): the prompt has a row .* already, line 2, with the"
    ):
        RewardHistory.from_columns(
            [9, 3, 1, 3], ["a"] * 4, num_successes=[0] * 4, num_rollouts=[8] * 4, row_name=lambda row: f"line {row + 1}"
        )


def test_long_prompts_are_quoted_short_and_on_one_line():
    with pytest.raises(InputError) as error:
        RewardHistory.from_columns([0], ["first\nsecond " * 100], num_successes=[9], num_rollouts=[8])
    assert len(str(error.value)) < 200
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("build", "message"), [
    (lambda: RewardHistory.from_table({"step": [0], "prompt": ["a"], "num_rollouts": [8]}, "x.parquet"),
     "x.parquet: no column 'prompt_id', 'num_successes' among step, prompt, num_rollouts: "
     "name the columns step, prompt_id, num_successes, num_rollouts, or say which they are (columns, as in "
     "prompt_id=NAME)"),
    (lambda: RewardHistory.from_columns([0, 1], ["a", "a"], num_successes=[0, 0], num_rollouts=[8]),
     "history: column 'num_rollouts' has 1 values and 'step' has 2: give columns of equal length"),
    (lambda: RewardHistory.from_columns([0], ["a"], num_successes=[0], num_rollouts=np.array([[8]])),
     "history: column 'num_rollouts' has shape (1, 1): give one value a row"),
    (lambda: RewardHistory.from_columns([], [], num_successes=[], num_rollouts=[]),
     "history: the history has no rows: give at least one rolled-out prompt"),
    (lambda: RewardHistory.from_records([]),
     "records: the history has no rows: give at least one rolled-out prompt"),
    (lambda: RewardHistory.from_parquet("nowhere.parquet"),
     "nowhere.parquet: no such file: give a history's Parquet file"),
])  # fmt: skip
def test_bad_tables(build, message):
    with pytest.raises(InputError) as error:
        build()
    assert str(error.value) == message


def test_bad_requests(history):
    with pytest.raises(InputError, match="there is no column 'tasks': give one of task, level"):
        history.dense("tasks")
    with pytest.raises(InputError, match="there is no column 'task': the prompts have none"):
        RewardHistory.from_columns([0], ["a"], num_successes=[0], num_rollouts=[8]).prompts.labels("task")
    with pytest.raises(InputError, match="observed='some' is none of trained, all"):
        history.observed("some")
    with pytest.raises(InputError, match=r"mask of shape \(2,\) and type bool .* one boolean for each of 5 rows"):
        history.select([True, False])
    with pytest.raises(InputError, match=r"mask of shape \(5,\) and type int64"):
        history.select([0, 1, 2, 3, 4])


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


def test_what_a_step_does_to_a_prompt():
    k, n = np.array([0, 1, 0, 3, 8, 3]), np.array([1, 1, 8, 8, 8, 8])
    none, some, all_ = Outcome
    assert outcome_of(k, n).tolist() == [none, all_, none, some, all_, some]
    idle, trained, without_variance = Exposure
    expected = [without_variance, without_variance, without_variance, trained, without_variance, idle]
    assert exposure_of(k, n, np.array([True] * 5 + [False])).tolist() == expected
    assert exposure_names(3) == ("idle", "trained", "trained without variance")
    assert exposure_names(2) == ("idle", "trained")
    assert exposure_names(1) == ("any",)


def test_import_loads_numpy_only():
    heavy = "pyarrow", "pandas", "jax", "torch", "scipy"
    code = f"import sys, promptdyn.history; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_text_that_no_file_can_hold_is_named():
    with pytest.raises(InputError, match=r"row 1 \(prompt 'b\\ud800', step 0\): prompt_id=.* is no valid text"):
        RewardHistory.from_columns([0, 0], ["a", "b\ud800"], num_successes=[0, 1], num_rollouts=[8, 8])
