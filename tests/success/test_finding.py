"""What "auto" finds, and when."""

import math

import numpy as np
import pytest

from promptdyn.success import Grader
from rewards import rewards

NAN = math.nan
RNG = np.random.default_rng(0)
CORRECT = (RNG.random(300) < 0.3).astype(float)
FORM = (RNG.random(300) < 0.8).astype(float)
HIDDEN = np.where(np.arange(300) % 7 == 0, NAN, CORRECT)
EVEN = np.arange(300) % 2 == 0


# What "auto" finds. Each: the rewards, the rule, and the rollouts that succeed (NaN: not graded).
FOUND = {
    "0 and 1": (rewards(a=CORRECT), "0.5", CORRECT),
    "never 1": (rewards(a=0 * CORRECT), "0.5", 0 * CORRECT),
    "reward - 1": (rewards(a=CORRECT - 1), "a>=0", CORRECT),
    "10 x reward": (rewards(a=10 * CORRECT), "a>=10", CORRECT),
    "0 and 1 within rounding": (rewards(a=CORRECT - 1e-7 * EVEN), "0.5", CORRECT),
    "one function at weight 0.3": (rewards([0.3], a=CORRECT), "a>=1", CORRECT),
    "accuracy and format": (rewards(a=CORRECT, b=FORM), "a>=1 and b>=1", CORRECT * FORM),
    "format that is learned": (rewards(a=CORRECT, b=0 * FORM + 1), "a>=1 and b>=1", CORRECT),
    "at other weights": (rewards([0.1, 0.3], a=CORRECT, b=FORM), "a>=1 and b>=1", CORRECT * FORM),
    "a penalty": (rewards([1, -0.5], a=CORRECT, b=FORM), "a>=1 and b<=0", CORRECT * (1 - FORM)),
    "a function that is only logged": (rewards([1, 0], a=CORRECT, b=RNG.random(300)), "a>=1", CORRECT),
    "three": (rewards(a=CORRECT, b=2 * FORM, c=FORM - 1), "a>=1 and b>=2 and c>=0", CORRECT * FORM),
    "None from the one that decides": (rewards(a=HIDDEN, b=0 * FORM + 1), "a>=1 and b>=1", HIDDEN),
    "a function for each kind of task": (
        rewards(a=np.where(EVEN, CORRECT, NAN), b=np.where(EVEN, NAN, CORRECT), c=FORM),
        "a>=1 and c>=1 or b>=1 and c>=1",
        CORRECT * FORM,
    ),
    "many values": (rewards(a=CORRECT + 0.2 * RNG.random(300)), "0.5", CORRECT),
    "many values, folded": (
        rewards([2, 1], a=CORRECT, b=0.9 + 0.1 * RNG.random(300)),
        "a>=-inf and b>=-inf and reward>=1.95",
        CORRECT,
    ),
    "many values and None": (
        rewards([2, 1], a=HIDDEN, b=0.9 + 0.1 * RNG.random(300)),
        "a>=-inf and b>=-inf and reward>=1.95",
        HIDDEN,
    ),
    "no reward from one": (rewards(a=CORRECT, b=np.full(300, NAN)), None, np.full(300, NAN)),
    "one value, not 0 or 1": (rewards(a=np.full(300, -1.0)), None, np.full(300, NAN)),
}
PLAIN = ("0 and 1", "never 1", "0 and 1 within rounding")


@pytest.mark.parametrize("case", FOUND)
def test_auto_finds(case: str) -> None:
    given, rule, grades = FOUND[case]
    grader = Grader()
    grader.see(given)
    assert (None if grader.rule is None else str(grader.rule)) == rule
    assert grader.settled == (rule is not None)
    np.testing.assert_array_equal(grader.grades(given), grades)
    if rule is not None:  # the text says all of it
        again = Grader(rule)
        assert again.settled
        np.testing.assert_array_equal(again.grades(given), grades)
        assert (f"a success is {rule!r}" in grader.notice) == (case not in PLAIN)


def test_auto_waits_no_longer_than_it_must() -> None:
    grader = Grader()
    assert str(grader.rule) == "0.5"  # nothing was seen that is not 0 or 1
    grader.see(rewards(a=[0.0, 1.0]))
    assert str(grader.rule) == "0.5"
    grader.see(rewards(a=[0.3, 0.7]))
    assert grader.rule is None
    grader.see(rewards(a=RNG.random(195)))
    assert grader.rule is None
    grader.see(rewards(a=[0.9]))  # the 200th
    assert grader.settled
    rule = grader.rule
    grader.see(rewards(a=np.full(500, 100.0)))
    assert grader.rule is rule

    grader = Grader()
    for _ in range(10):
        assert grader.rule is None or grader.num_seen == 0
        grader.see(rewards(a=np.full(200, -1.0), b=CORRECT[:200]))
    assert str(grader.rule) == "b>=1"  # `a` was waited for, and has told nothing
    grader = Grader()
    for _ in range(10):
        grader.see(rewards(a=np.full(200, -1.0)))
    assert grader.grades(rewards(a=[-1.0, 0.0])).tolist() == [0.0, 1.0]  # better than ever


def test_none_is_no_failure_where_none_was_met_only_after_the_rule_was_found() -> None:
    grader = Grader()
    grader.see(rewards([2, 1], a=CORRECT, b=0.9 + 0.1 * RNG.random(300)))
    later = rewards([2, 1], a=[1, NAN, 0, NAN], b=[0.9, 0.9, NAN, NAN])
    np.testing.assert_array_equal(grader.grades(later), [1, NAN, NAN, NAN])


def test_a_name_alone_goes_by_the_sign_of_its_weight() -> None:
    many = RNG.random(300)
    for column, rule in {"two": "two<=0", "minus": "minus<=-2"}.items():
        given = rewards([1, -1], a=CORRECT, **{column: {"two": FORM, "minus": FORM - 2}[column]})
        grader = Grader(column)
        grader.see(given)
        assert str(grader.rule) == rule
    grader = Grader("many")
    grader.see(rewards([1, -1], a=CORRECT, many=many))
    name, _, bound = str(grader.rule).partition("<=")
    assert name == "many"
    assert grader.grades(rewards([1, -1], a=[0, 0], many=[float(bound) - 0.1, float(bound) + 0.1])).tolist() == [1, 0]


def test_a_name_alone_has_its_bound_found() -> None:
    given = rewards(a=CORRECT, b=RNG.random(300))
    for success, rule in {"a": "a>=1", "b": "0.5", "a and b>=0.9": "a>=1 and b>=0.9", "reward": None}.items():
        grader = Grader(success)
        assert grader.rule is None
        grader.see(given)
        assert grader.settled
        if success == "b":
            assert 0.4 < float(str(grader.rule).partition(">=")[2]) < 0.6
        elif rule is not None:
            assert str(grader.rule) == rule
