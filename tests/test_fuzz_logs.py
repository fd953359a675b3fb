"""Anything at all, to whatever reads logs: a right answer or one line of InputError, and nothing else.

A few dozen inputs each by default; `make test-long` (the profile "long") draws many more.
"""

import copy
import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import promptdyn
from anything import GOOD, OPTIONAL, arrays, check, inputs, integers, odd, spoil, taken
from promptdyn.history import RewardHistory


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@st.composite
def records(draw, values=odd):
    """Rows of a history, of which a few are spoilt."""
    rows = draw(st.lists(st.fixed_dictionaries(GOOD), max_size=5))
    for _ in range(draw(st.integers(0, 2)) if rows else 0):
        row = draw(st.sampled_from(rows))
        name = draw(st.sampled_from([*GOOD, "other"]))
        if draw(st.booleans()):
            row[name] = draw(values)
        else:
            row.pop(name, None)
    return rows


@inputs(12_000)
@given(records())
def test_records(folder, rows):
    check(taken(RewardHistory.from_records, rows), folder / "records.parquet")


@st.composite
def columns(draw):
    """Columns of a history, of which one or two may be anything."""
    size = draw(st.integers(0, 5))
    table = {name: draw(st.lists(values, min_size=size, max_size=size)) for name, values in GOOD.items()}
    table = {name: draw(arrays(st.just(values))) for name, values in table.items()}
    for _ in range(draw(st.integers(0, 2))):
        spoilt = st.lists(odd, min_size=draw(st.sampled_from([0, size])), max_size=size)
        table[draw(st.sampled_from([*GOOD, "other"]))] = draw(arrays(spoilt))
    return table


@inputs(10_000)
@given(columns())
def test_tables(folder, table):
    check(taken(RewardHistory.from_table, table), folder / "table.parquet")


@inputs(10_000)
@given(columns(), st.data())
def test_columns(folder, table, data):
    given = {name: table[name] for name in ("step", "prompt_id", "num_rollouts", "num_successes")}
    clusters = {name: values for name, values in table.items() if name not in (*given, *OPTIONAL)}
    given |= {name: data.draw(st.sampled_from([None, table.get(name)])) for name in OPTIONAL}
    check(taken(RewardHistory.from_columns, **given, columns=clusters), folder / "columns.parquet")


HEADER = "step,prompt_id,num_rollouts,num_successes,trained,task,reward_mean\n"
CSV = (HEADER + '0,a,8,3,true,x,0.5\n0,"b,b",8,8,false,,\n1,a,4,0,true,x,-1\n').encode()
LINES = b"".join(
    json.dumps({"step": i, "prompt_id": "a", "num_rollouts": 8, "num_successes": i, "task": "x"}).encode() + b"\n"
    for i in range(3)
)


@inputs(12_000)
@given(spoil(CSV), st.sampled_from(["csv", "tsv", "txt"]))
def test_csv_files(folder, content, suffix):
    path = folder / f"h.{suffix}"
    path.write_bytes(content)
    check(taken(promptdyn.read_history, path))


@inputs(10_000)
@given(
    st.one_of(spoil(LINES), spoil(b"[" + LINES.replace(b"}\n", b"},")[:-1] + b"]")), st.sampled_from(["jsonl", "json"])
)
def test_json_files(folder, content, suffix):
    path = folder / f"h.{suffix}"
    path.write_bytes(content)
    check(taken(promptdyn.read_history, path))


ROLLOUTS = b"".join(
    json.dumps({"input": "a", "score": i / 2, "step": i, "uid": f"pad_{i}", "task": "x"}).encode() + b"\n"
    for i in range(3)
)
TRACE = {"task": {"key": "a", "data": {}}, "rewards": {"exact": {"score": 1.0, "weight": 1.0}}, "ok": True, "info": {}}
# Format -> the name of a file, and the lines of a good log.
LOGS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "verl": (
        "7.jsonl",
        [{"input": "a", "output": "b", "gts": "c", "score": 1.0, "step": i, "uid": f"u_{i}_0"} for i in "12"],
    ),
    "prime-rl": (
        "step_3/train/all/traces.jsonl",
        [
            TRACE,
            {"env": {"name": "sum"}, "group": {"id": "g"}, "traces": [TRACE]},
            {"example_id": 1, "reward": 0.0, "metrics": {"exact": 0.0}},
        ],
    ),
    "areal": ("rollout/3/7.jsonl", [{"task_id": 7, "tail_version": 3, "reward": i, "prompt": "a"} for i in (0.0, 1.0)]),
    "nemo-rl": (
        "train_data_step3.jsonl",
        [{"token_ids": [[1, 2, i]], "token_loss_mask": [[0, 0, 1]], "rewards": [1.0]} for i in (0, 1)],
    ),
}


@inputs(5_000)
@given(st.data(), st.booleans())
@pytest.mark.parametrize("reader", LOGS)
def test_logs_of_trainers(folder, reader, data, skip_bad):
    name, lines = LOGS[reader]
    path = folder / reader / name
    path.parent.mkdir(parents=True, exist_ok=True)
    good = "".join(json.dumps(line) + "\n" for line in lines).encode()
    path.write_bytes(data.draw(st.one_of(spoil(good), st.sampled_from(lines).flatmap(spoilt))))
    check(taken(promptdyn.read_history, path, reader, skip_bad=skip_bad, label_columns=data.draw(NAMES)))
    if path.parent.name == "all":  # which groups were trained on
        effective = path.parent.with_name("effective") / path.name
        effective.parent.mkdir(exist_ok=True)
        path.replace(effective)
        path.write_bytes(good)
        check(taken(promptdyn.read_history, path, reader))
        effective.unlink()


NAMES = st.sampled_from([(), "input", "exact", "environment", "rewards", "prompt"])
JSON = st.recursive(st.one_of(st.none(), st.booleans(), integers, st.text(max_size=3)), st.lists, max_leaves=3)


@st.composite
def spoilt(draw, record):
    """A line of JSON in which one value, however deep, is another."""
    record = copy.deepcopy(record)
    part = record
    while True:
        key = draw(st.sampled_from(list(part) if isinstance(part, dict) else list(range(len(part)))))
        if not isinstance(part[key], dict | list) or not part[key] or draw(st.booleans()):
            break
        part = part[key]
    part[key] = draw(JSON)
    return (json.dumps(record) + "\n").encode()


PACKED = [gzip.compress(content) for content in (LINES, ROLLOUTS, CSV)] + [
    pa.compress(content, codec="zstd", asbytes=True) for content in (LINES, ROLLOUTS, CSV)
]


@inputs(5_000)
@given(
    spoil(ROLLOUTS),
    st.sampled_from([None, "score", "input", "uid", "lost"]),
    st.sampled_from([None, "input", "task"]),
    st.sampled_from([(), ("task",), ("score",), ("lost",)]),
    st.booleans(),
)
def test_files_of_rollouts(folder, content, reward, prompt_key, labels, skip_bad):
    path = folder / "7.jsonl"
    path.write_bytes(content)
    named = {"reward": reward, "prompt_key": prompt_key} if reward else {}
    check(taken(promptdyn.read_history, path, label_columns=labels, skip_bad=skip_bad, **named))


@inputs(5_000)
@given(st.sampled_from(PACKED).flatmap(spoil), st.sampled_from(["gz", "jsonl.gz", "csv.zst"]))
def test_compressed_files(folder, content, suffix):
    path = folder / f"h.{suffix}"
    path.write_bytes(content)
    check(taken(promptdyn.read_history, path))


@inputs(5_000)
@given(
    records(st.one_of(integers, st.none(), st.sampled_from(["a", "b", 1, 2]))),
    st.sampled_from(["error", "merge", "last", "apart"]),
    st.booleans(),
)
def test_bad_and_repeated_records(folder, rows, repeated, skip_bad):
    check(taken(RewardHistory.from_records, rows, repeated=repeated, skip_bad=skip_bad), folder / "settled.parquet")


@inputs(5_000)
@given(records(st.recursive(st.one_of(st.none(), st.booleans(), integers, st.text()), st.lists, max_leaves=4)))
def test_json_of_any_values(folder, rows):
    path = folder / "values.json"
    path.write_text(json.dumps(rows))
    check(taken(promptdyn.read_history, path))


def parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


TABLE = parquet(
    pa.table(
        {"step": [0, 1], "prompt_id": ["a", "a"], "num_rollouts": [8, 8], "num_successes": [1, 2], "task": ["x"] * 2}
    )
)
COMPLETIONS = pa.table(
    {
        "step": [1, 1, 1, 1],
        "prompt": ["p", "p", "q", "q"],
        "completion": ["w", "x", "y", "z"],
        "graded": [0.0, 1.0, 1.0, 1.0],
        "advantage": [-1.0, 1.0, 0.0, 0.0],
        "task": ["a", "a", "b", None],
    }
)


@inputs(6_000)
@given(st.one_of(spoil(TABLE), spoil(parquet(COMPLETIONS))))
def test_parquet_files_with_damage(folder, content):
    path = folder / "damaged.parquet"
    path.write_bytes(content)
    check(taken(promptdyn.read_history, path))


@inputs(5_000)
@given(columns())
def test_parquet_files_of_any_types(folder, table):
    path = folder / "types.parquet"
    try:
        pq.write_table(pa.table({name: list(values) for name, values in table.items()}), path)
    except Exception:  # what Arrow will not hold is in no file
        return
    check(taken(promptdyn.read_history, path), folder / "again.parquet")


@inputs(6_000)
@given(st.data())
def test_completions_of_any_types(folder, data):
    path = folder / "completions.parquet"
    table = COMPLETIONS
    for _ in range(data.draw(st.integers(0, 2))):
        name = data.draw(st.sampled_from(table.column_names))
        size = table.num_rows
        kind = data.draw(st.sampled_from([integers, odd, st.floats()]))
        values = data.draw(st.lists(kind, min_size=size, max_size=size))
        try:
            column = pa.array(values)
        except Exception:  # Arrow holds one type a column
            continue
        table = table.set_column(table.column_names.index(name), name, column)
    try:
        pq.write_table(table, path)
    except pa.ArrowException:
        return
    names = [None, *table.column_names]
    check(
        taken(
            promptdyn.read_history,
            path,
            reward=data.draw(st.sampled_from(names)),
            prompt_key=data.draw(st.sampled_from(names)),
            success=data.draw(st.sampled_from(["auto", 0.5, -1.0, np.inf, "graded", "graded<=0 or reward"])),
            label_columns=data.draw(st.sampled_from([(), ("task",), ("graded",), ("step",), ("missing",)])),
        )
    )
