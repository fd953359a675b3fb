"""Histories of any content, for tests of properties, and what makes two histories the same."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from promptdyn.history import RewardHistory

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
