"""Hostile and odd input: one clear line that names the place, or a right answer."""

import decimal
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import promptdyn
from promptdyn.errors import InputError
from promptdyn.history import RewardHistory
from promptdyn.models import DPS, BetaBernoulli

NUMBERS = {"num_rollouts": 8, "num_successes": 3}


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('{"step":0,"prompt_id":"a","num_rollouts":8,"num_successes":' + "9" * 5000 + "}", "is no JSON object"),
        ('{"step":' + "[" * 100_000 + "]" * 100_000 + "}", "is no JSON object"),
        ('{"step":1e400,"prompt_id":"a","num_rollouts":8,"num_successes":3}', "step=inf is not an integer"),
    ],
    ids=["digits", "nested", "beyond a float"],
)
def test_lines_of_json_that_no_reader_should_take(tmp_path, line, found):
    path = tmp_path / "h.jsonl"
    path.write_text(json.dumps({"step": 0, "prompt_id": "a", **NUMBERS}) + f"\n{line}\n")
    with pytest.raises(InputError, match=rf"h\.jsonl line 2.*{found}"):
        promptdyn.read_history(path)


@pytest.mark.parametrize("step", [np.inf, -np.inf, 2.0**62, 0.5, -1.0, 2**62])
def test_steps_of_completions_that_are_no_steps(tmp_path, step):
    columns = {"prompt": ["a"] * 2, "completion": ["x", "y"], "graded": [1.0, 0.0], "advantage": [1.0, -1.0]}
    pq.write_table(pa.table({"step": pa.array([step] * 2), **columns}), tmp_path / "completions_00000.parquet")
    with pytest.raises(InputError, match=r"completions_00000.parquet row 0: step=.* is no whole number from 0 to"):
        promptdyn.read_history(tmp_path)


def test_half_precision_is_read(tmp_path):
    half = {name: np.array([value], np.float16) for name, value in NUMBERS.items()}
    pq.write_table(pa.table({"step": [0], "prompt_id": ["a"], **half}), tmp_path / "h.parquet")
    assert promptdyn.read_history(tmp_path / "h.parquet").num_successes.tolist() == [3]


@pytest.mark.parametrize("prompt_id", [np.array(3), [1], {}, decimal.Decimal("sNaN")])
def test_ids_that_cannot_be_told_apart(prompt_id):
    with pytest.raises(InputError, match=r"row 0 .*is no label"):
        RewardHistory.from_columns([0], [prompt_id], [8], [3])
    with pytest.raises(InputError, match=r"row 0 .*is no label"):
        RewardHistory.from_records([{"step": 0, "prompt_id": prompt_id, **NUMBERS}])


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        (None, "rewards are a NoneType"),
        (1.0, "rewards are a float"),
        (np.array(1.0), "rewards are a ndarray"),
        (np.array([[1j]]), "rewards of prompt 'a' are not numbers"),
        ([[1j]], "rewards of prompt 'a' are not numbers"),
        ([["1"]], "rewards of prompt 'a' are not numbers"),
        ([{}], "rewards of prompt 'a' are not numbers"),
        ([[[1.0]]], "rewards of prompt 'a' have shape"),
    ],
)
def test_rewards_that_are_none(rewards, message):
    selector = promptdyn.Selector(DPS().online(["a", "b"]))
    with pytest.raises(InputError, match=message):
        selector.observe(["a"], rewards)
    assert selector.online.steps == 0


def test_groups_as_large_as_can_be_declared():
    most = 2**31 - 1
    history = RewardHistory.from_columns([0, 1, 2, 3], ["a", "b", "a", "b"], [most] * 4, [3, most, 5, 0])
    scores = promptdyn.compare({"mopps": BetaBernoulli(), "dps": DPS()}, history, 2).scores
    assert all(np.isfinite(score.log_loss) for score in scores)


def test_of_what_is_endless_the_ends_are_quoted():
    selector = promptdyn.Selector(DPS().online(["a", "b"]))
    with pytest.raises(InputError, match="add it first") as refused:
        selector.observe(["x" * 1_000_000], [[1.0]])
    assert len(str(refused.value)) < 1000
    assert str(refused.value).startswith("prompt 'xxx")
