"""Reward histories: every constructor, parts, labels and the summary."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings

import promptdyn
from histories import assert_same, tables
from promptdyn.errors import InputError
from promptdyn.history import RewardHistory


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


def test_import_loads_numpy_only():
    heavy = "pyarrow", "pandas", "jax", "torch", "scipy"
    code = f"import sys, promptdyn.history; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
