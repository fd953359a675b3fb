"""Values, texts and damage of any kind, and what may be said of them: a right answer, or one line of InputError."""

import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from promptdyn.errors import InputError, PromptdynWarning
from promptdyn.history import RewardHistory

LONG = settings.get_current_profile_name() == "long"


def inputs(long: int):
    """So many inputs in a long run, and few otherwise."""
    return settings(
        max_examples=long if LONG else 40,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )


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
