"""Anything at all, to whatever takes data from outside: a right answer or one line of InputError, and nothing else.

A few dozen inputs each by default; `make test-long` (the profile "long") draws 119,000 in all.
"""

import gzip
import json
import string
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import promptdyn
from promptdyn.errors import InputError, PromptdynWarning
from promptdyn.history import RewardHistory
from promptdyn.inference import METHODS
from promptdyn.models import DPS, MODELS
from promptdyn.readers import READERS
from promptdyn.selection import SCORES, STRATEGIES
from promptdyn.storage import read_state, write_state
from promptdyn.training.recipes import selector_recipe

LONG = settings.get_current_profile_name() == "long"


def inputs(long: int):
    """So many inputs in a long run, and few otherwise."""
    return settings(
        max_examples=long if LONG else 40,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def taken(read, *arguments, **named):
    """What is read of the input; None where it is refused as it should be."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PromptdynWarning)
            return read(*arguments, **named)
    except InputError as error:
        text = str(error)
        assert text.strip()
        assert len(text) <= 1000
        assert "\n" not in text
        return None


def check(history: RewardHistory | None, path: Path | None = None) -> None:
    """A history is one, and is the same when it has been written and read."""
    if history is None:
        return
    assert len(history) > 0
    assert (history.num_successes >= 0).all()
    assert (history.num_successes <= history.num_rollouts).all()
    assert (history.num_rollouts >= 1).all()
    assert (np.diff(history.step) >= 0).all()
    assert len(set(history.prompt_ids)) == history.num_prompts == history.prompt.max() + 1
    assert len(set(zip(history.step.tolist(), history.prompt.tolist(), strict=True))) == len(history)
    assert all(isinstance(label, str) for labels in history.columns.values() for label in labels)
    history.summary()
    own = {"step", "prompt_id", "num_rollouts", "num_successes", *OPTIONAL}
    if path is not None and not own & set(history.columns):
        history.to_parquet(path)
        again = RewardHistory.from_parquet(path)
        for name in ("step", "prompt", "num_rollouts", "num_successes", *OPTIONAL, "prompt_ids"):
            np.testing.assert_array_equal(getattr(again, name), getattr(history, name))
        assert {name: list(labels) for name, labels in again.columns.items()} == {
            name: list(labels) for name, labels in history.columns.items()
        }


integers = st.one_of(
    st.integers(-2, 12), st.integers(), st.sampled_from([2**31, 2**31 - 1, 2**63, 10**30]), st.floats(width=16)
)
odd = st.one_of(
    integers,
    st.none(),
    st.booleans(),
    st.floats(),
    st.text(max_size=4),
    st.binary(max_size=3),
    st.complex_numbers(),
    st.decimals(),
    st.datetimes(),
    st.just(pd.NA),
    st.just(pd.NaT),
    st.lists(st.integers(), max_size=2),
    st.tuples(st.integers()),
    st.dictionaries(st.text(max_size=1), st.integers(), max_size=1),
    st.sampled_from(
        [np.float16(3), np.int8(-1), np.array(3), np.array([1, 2]), np.str_("x"), np.bool_(True), object()]
    ),
)
GOOD = {
    "step": st.integers(0, 3),
    "prompt_id": st.sampled_from("abc"),
    "num_rollouts": st.integers(4, 8),
    "num_successes": st.integers(0, 4),
    "trained": st.booleans(),
    "task": st.sampled_from(["x", "y", None]),
    "reward_mean": st.sampled_from([None, -1, 0.5, 2]),
    "reward_std": st.sampled_from([None, 0, 0.25, float("nan")]),
}
OPTIONAL = ("trained", "reward_mean", "reward_std")


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


def arrays(values):
    """A list, or what NumPy or pandas make of it."""

    def made(drawn, kind):
        if kind == "list":
            return drawn
        with suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.array(drawn) if kind == "numpy" else pd.array(drawn) if kind == "pandas" else pd.Series(drawn)
        return drawn

    return st.builds(made, values, st.sampled_from(["list", "numpy", "pandas", "series"]))


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


def spoil(text: bytes):
    """A file's content with a few bytes replaced, left out, put in, or cut off."""

    def done(edits):
        content = bytearray(text)
        for at, length, new in edits:
            content[at : at + length] = new
        return bytes(content)

    edit = st.tuples(st.integers(0, len(text)), st.integers(0, 6), st.one_of(st.binary(max_size=4), characters))
    return st.lists(edit, max_size=3).map(done)


characters = st.sampled_from(
    [b",", b";", b"\t", b'"', b"\n", b"\r", b"[", b"{", b"}", b"9" * 30, b"\xff", b"nan", b"-", b""]
)
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


nested = st.recursive(odd, lambda inner: st.lists(inner, max_size=3), max_leaves=6)
rewards = st.one_of(
    nested,
    st.lists(st.lists(st.one_of(st.floats(), st.none()), max_size=4), max_size=3),
    arrays(st.lists(odd, max_size=3)),
)


@inputs(10_000)
@given(st.lists(st.one_of(st.sampled_from("abc"), odd), max_size=3), rewards, st.one_of(st.booleans(), nested))
def test_what_a_selector_observes(ids, rewards, trained):
    selector = promptdyn.Selector(DPS().online(["a", "b", "c"]))
    seen = taken(selector.observe, ids, rewards, trained)
    assert selector.online.steps == (0 if seen is None or selector.success is None else 1)
    chances = selector.online.informative(8)
    assert ((chances >= 0) & (chances <= 1)).all()
    if seen is not None:
        assert (seen.num_successes <= seen.num_rollouts).all()
        assert set(seen.prompt_ids) <= set("abc")
    assert set(selector.select(2)) <= set("abc")


plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=2), inner, max_size=2)),
    max_leaves=4,
)


@pytest.fixture(scope="module")
def saved(folder):
    selector = promptdyn.Selector(DPS().online(["a", "b", "c"]), "greso")
    selector.observe(["a", "b"], [[1, 0, 1, 0], [1, 1, 1, 1]])
    selector.save(folder / "selector.npz")
    return folder / "selector.npz"


def loaded(path):
    """The selector goes on as a whole one, whether it could load the file or not."""
    selector = promptdyn.Selector(DPS().online(["a", "b", "c"]), "greso")
    taken(selector.load, path)
    chances = selector.online.informative(8)
    assert ((chances >= 0) & (chances <= 1)).all()
    selector.observe(["a"], [[1, 0]])
    assert set(selector.select(2)) <= set("abc")


@inputs(5_000)
@given(st.data())
def test_state_files_with_other_values(folder, saved, data):
    values, arrays = read_state(saved, "selector")
    parts = list(values["online"])
    for _ in range(data.draw(st.integers(1, 2))):
        where = data.draw(st.sampled_from([*values, *(("online", name) for name in parts), *arrays]))
        if where in arrays:
            shape = data.draw(st.sampled_from([arrays[where].shape, (3,), (0,), (2, 3), ()]))
            kind = data.draw(st.sampled_from(["f8", "i4", "u1", "U2", "c16", "?"]))
            arrays[where] = np.full(shape, data.draw(st.integers(0, 9))).astype(kind)
        elif isinstance(where, tuple):
            if isinstance(values.get("online"), dict):
                values["online"][where[1]] = data.draw(plain)
        else:
            values[where] = data.draw(plain)
    write_state(folder / "other.npz", "selector", values, arrays)
    loaded(folder / "other.npz")


@inputs(3_000)
@given(st.data())
def test_state_files_with_damage(folder, saved, data):
    (folder / "damaged.npz").write_bytes(data.draw(spoil(saved.read_bytes())))
    loaded(folder / "damaged.npz")


WORDS = [
    *MODELS,
    *STRATEGIES,
    *METHODS,
    *SCORES,
    *READERS,
    "cluster",
    "reward",
    "drop",
    "success",
    "skip_bad",
    "num_samples",
    "decay",
    "num_states",
    "task",
    "auto",
    "uniform",
    "none",
    "true",
    "nan",
    "1e400",
    "-3",
]
texts = st.one_of(
    st.text(max_size=12),
    st.lists(
        st.one_of(st.sampled_from([*WORDS, *":,=+@.()[]\"'"]), st.text(string.digits, max_size=3)), max_size=7
    ).map("".join),
)


@inputs(10_000)
@given(texts)
def test_names_with_settings(text):
    for registry in (MODELS, STRATEGIES, METHODS, SCORES, READERS):
        taken(registry.parse_one, text)
    for parse in (MODELS.parse, selector_recipe):
        taken(parse, text)


@inputs(2_000)
@given(
    st.sampled_from([*READERS]),
    st.dictionaries(
        st.sampled_from(["reward", "drop", "success", "skip_bad", "repeated", "step_key"]), texts, max_size=2
    ),
)
def test_readers_with_settings(folder, name, options):
    path = folder / "few.csv"
    path.write_text("step,prompt_id,num_rollouts,num_successes,reward\n0,a,8,1,0.5\n0,b,8,0,1\n")
    settings = ",".join(f"{option}={value}" for option, value in options.items())
    check(taken(promptdyn.read_history, path, f"{name}:{settings}"))
