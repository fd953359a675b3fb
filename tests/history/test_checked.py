"""The message for every bad column and value of a new history."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from promptdyn.errors import InputError
from promptdyn.history import RewardHistory

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


def test_text_that_no_file_can_hold_is_named():
    with pytest.raises(InputError, match=r"row 1 \(prompt 'b\\ud800', step 0\): prompt_id=.* is no valid text"):
        RewardHistory.from_columns([0, 0], ["a", "b\ud800"], num_successes=[0, 1], num_rollouts=[8, 8])
