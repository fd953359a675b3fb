"""Marks of steps, which know their rows again."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from promptdyn.history import RewardHistory


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
