"""Rows of one prompt and step: told, merged, dropped or set apart."""

from __future__ import annotations

import warnings
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from known import known
from logs import groups, rows
from promptdyn._columns import Repeated
from promptdyn.errors import InputError, PromptdynWarning
from promptdyn.history import RewardHistory


def test_repeated_rows_are_told_for_what_they_may_be():
    twice = groups() + groups()
    with pytest.raises(
        InputError, match=r"with the same counts \(20 such rows\): keep the last \(repeated='last'\) if "
    ):
        RewardHistory.from_records(twice)
    again = [{**row, "num_successes": 5} for row in groups([3])]
    with pytest.raises(
        InputError, match=r"row 20 .*row 15, with other counts \(5 such rows\): keep .* after a restart"
    ):
        RewardHistory.from_records(groups() + again)
    with pytest.raises(InputError, match="with in 5 of 10 cases the same counts"):
        RewardHistory.from_records(groups() + groups([2]) + again)
    with pytest.raises(InputError, match="repeated='first' is none of error, merge, last, apart"):
        RewardHistory.from_records(groups(), repeated="first")  # type: ignore[arg-type]


def test_repeated_rows_are_merged_replaced_or_set_apart():
    names = ("step", "prompt_id", "num_rollouts", "num_successes", "trained", "reward_mean", "reward_std")
    first, second, *others = (
        dict(zip(names, row, strict=True))
        for row in [
            (3, "a", 4, 1, False, 0.25, 0.5),
            (3, "a", 4, 3, True, 0.75, 0.5),
            (4, "a", 8, 2, True, None, None),
            (9, "b", 8, 2, True, None, None),
        ]
    )

    def read(repeated: Repeated, told: str) -> RewardHistory:
        with pytest.warns(PromptdynWarning, match=f"log: 1 of 4 rows repeat the prompt and step .*: {told}"):
            return RewardHistory.from_records([first, *others, second], "log", repeated=repeated)

    later = [(4, "a", 8, 2), (9, "b", 8, 2)]
    merged = read("merge", "added their rollouts")
    assert rows(merged) == [(3, "a", 8, 4), *later]
    assert merged.trained.all()
    rewards = [1, 0, 0, 0, 1, 1, 1, 0]
    assert (known(merged.reward_mean)[0], known(merged.reward_std)[0]) == pytest.approx(
        (np.mean(rewards), np.std(rewards, ddof=1))
    )
    assert rows(read("last", "kept the last")) == [(3, "a", 4, 3), *later]
    assert rows(read("apart", r"made steps of their own for them \(1 more\)")) == [
        (3, "a", 4, 1), (4, "a", 4, 3), (5, "a", 8, 2), (9, "b", 8, 2)
    ]  # fmt: skip


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from("abc"), st.integers(1, 5)), min_size=1, max_size=12))
def test_repeated_rows_as_a_naive_loop_settles_them(cells):
    records = [{"step": step, "prompt_id": p, "num_rollouts": n, "num_successes": n // 2} for step, p, n in cells]

    def read(repeated: Repeated) -> RewardHistory:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PromptdynWarning)
            return RewardHistory.from_records(records, repeated=repeated)

    total: Counter[tuple[int, str]] = Counter()
    solved: Counter[tuple[int, str]] = Counter()
    last = {}
    for step, prompt, n in cells:
        total[step, prompt] += n
        solved[step, prompt] += n // 2
        last[step, prompt] = (n, n // 2)
    assert sorted(rows(read("merge"))) == sorted((*cell, n, solved[cell]) for cell, n in total.items())
    assert sorted(rows(read("last"))) == sorted((*cell, *counts) for cell, counts in last.items())
    apart = read("apart")
    assert sorted(apart.num_rollouts) == sorted(n for _, _, n in cells)
    assert len(set(zip(apart.step, apart.prompt, strict=True))) == len(cells)
    for prompt in "abc":  # each prompt's groups stay in their order
        of = [(step, n) for step, p, n in cells if p == prompt]
        found = [n for _, name, n, _ in rows(apart) if name == prompt]
        assert found == [n for _, n in sorted(of, key=lambda group: group[0])]
    if len(total) == len(cells):
        assert rows(apart) == rows(RewardHistory.from_records(records))
