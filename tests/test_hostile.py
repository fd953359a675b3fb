"""Hostile and odd input: one clear line that names the place, or a right answer."""

import decimal
import json
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import promptdyn
from promptdyn.errors import InputError
from promptdyn.history import RewardHistory
from promptdyn.models import DPS, BetaBernoulli
from promptdyn.storage import read_state, write_state

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
    with pytest.raises(
        InputError, match=r"completions_00000.parquet row 0 .*: step=.* is (not an integer|out of range)"
    ):
        promptdyn.read_history(tmp_path)


def test_half_precision_is_read(tmp_path):
    half = {name: np.array([value], np.float16) for name, value in NUMBERS.items()}
    pq.write_table(pa.table({"step": [0], "prompt_id": ["a"], **half}), tmp_path / "h.parquet")
    assert promptdyn.read_history(tmp_path / "h.parquet").num_successes.tolist() == [3]


@pytest.mark.parametrize("prompt_id", [np.array(3), [1], {}, decimal.Decimal("sNaN")])
def test_ids_that_cannot_be_told_apart(prompt_id):
    with pytest.raises(InputError, match=r"row 0 .*is no label"):
        RewardHistory.from_columns([0], [prompt_id], num_successes=[3], num_rollouts=[8])
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
    most = 1_000_000
    history = RewardHistory.from_columns(
        [0, 1, 2, 3], ["a", "b", "a", "b"], num_successes=[3, most, 5, 0], num_rollouts=[most] * 4
    )
    scores = promptdyn.compare({"mopps": BetaBernoulli(), "dps": DPS()}, history, 2).scores
    assert all(np.isfinite(score.log_loss) for score in scores)


def test_of_what_is_endless_the_ends_are_quoted():
    selector = promptdyn.Selector(DPS().online(["a", "b"]))
    with pytest.raises(InputError, match="add it first") as refused:
        selector.observe(["x" * 1_000_000], [[1.0]])
    assert len(str(refused.value)) < 1000
    assert str(refused.value).startswith("prompt 'xxx")


def saved(path, **changes):
    """A selector's file in which parts of the state are others."""
    selector = promptdyn.Selector(DPS().online(["a", "b", "c"]))
    selector.observe(["a", "b"], [[1, 0, 1, 0], [1, 1, 1, 1]])
    selector.save(path)
    values, arrays = read_state(path, "selector")
    for name, change in changes.items():
        if name in arrays:
            arrays[name] = change(arrays[name])
        elif name in values["online"]:
            values["online"][name] = change
        else:
            values[name] = change
    write_state(path, "selector", values, arrays)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"online": None}, "online=None"),
        ({"online": [1]}, r"online=\[1\]"),
        ({"steps": float("inf")}, "steps=inf, which is no whole number"),
        ({"steps": "3"}, "steps='3'"),
        ({"steps": -1}, "steps=-1"),
        ({"prompt_ids": None}, "is not whole"),
        ({"prompt_ids": ["a", 3, "c"]}, "prompt_ids are not all texts"),
        ({"online/belief": lambda belief: belief * np.nan}, "'belief' holds numbers that are not finite"),
        ({"online/belief": lambda belief: belief - 0.46}, "forecasts that are no probabilities"),
        ({"online/belief": lambda belief: belief * 2}, "forecasts that are no probabilities"),
        ({"online/cluster": lambda cluster: cluster + 7}, "clusters and its labels differ"),
        ({"rng": {"bit_generator": "PCG64", "state": 3}}, "is not whole"),
        ({"metrics": 3}, "is not whole"),
    ],
)
def test_states_whose_values_cannot_be(tmp_path, change, message):
    path = saved(tmp_path / "selector.npz", **change)
    selector = promptdyn.Selector(DPS().online(["a", "b", "c"]))
    with pytest.raises(InputError, match=rf"selector\.npz: .*{message}"):
        selector.load(path)
    assert selector.online.steps == 0
    assert len(selector.select(2)) == 2


@pytest.mark.parametrize(("version", "values"), [("new", {}), (None, {}), (1, []), (1, None)])
def test_state_files_of_odd_versions_and_values(tmp_path, version, values):
    path = tmp_path / "s.npz"
    header = json.dumps({"promptdyn": "thing", "version": version, "values": values}).encode()
    np.savez(path, header=np.frombuffer(header, np.uint8))
    with pytest.raises(InputError, match=r"s\.npz: not a promptdyn thing file, or damaged"):
        read_state(path, "thing")


def test_arrays_larger_than_their_file_are_not_made(tmp_path):
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, header=np.zeros(100_000_000, np.uint8))
    with pytest.raises(InputError, match=r"bomb\.npz: .*'header.npy' is compressed"):
        read_state(path, "thing")
    with zipfile.ZipFile(path, "w") as archive, archive.open("header.npy", "w") as member:
        np.lib.format.write_array_header_1_0(
            member,
            {"shape": (72 * 2**40,), "fortran_order": False, "descr": np.lib.format.dtype_to_descr(np.dtype("u1"))},
        )
    with pytest.raises(InputError, match=r"bomb\.npz: .*is said to be \(79164837199872,\), and is smaller"):
        read_state(path, "thing")


@pytest.mark.parametrize("change", [lambda rows: rows * np.nan, lambda rows: -rows, lambda rows: rows * 0.5])
def test_fits_whose_rows_are_no_probabilities(tmp_path, change):
    history = RewardHistory.from_columns([0, 1, 2], ["a", "b", "a"], num_successes=[0, 3, 4], num_rollouts=[4] * 3)
    path = tmp_path / "fit.npz"
    promptdyn.fit(promptdyn.models.DiscreteHMM(num_states=2), history, max_iterations=1).save(path)
    values, arrays = read_state(path, "fit")
    write_state(path, "fit", values, {**arrays, "params/transition": change(arrays["params/transition"])})
    with pytest.raises(InputError, match=r"fit\.npz: not a whole fit .*a row must hold probabilities"):
        promptdyn.Fit.load(path)
