"""Anything at all, to selectors, to files of their state, and to names with settings: a right answer or one line of
InputError, and nothing else.
"""

import string
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import promptdyn
from anything import arrays, check, inputs, odd, spoil, taken
from promptdyn.inference import METHODS
from promptdyn.models import DPS, MODELS
from promptdyn.readers import READERS
from promptdyn.selection import SCORES, STRATEGIES
from promptdyn.storage import read_state, write_state
from promptdyn.training.recipes import selector_recipe


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


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
