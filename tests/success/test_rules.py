"""Rules of success, against a naive reading of them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptdyn.errors import InputError
from promptdyn.success import Grader
from rewards import rewards


@pytest.mark.parametrize(("bound", "reward", "success"), [
    (1.0, 0.9999999, True), (1.0, float(np.sum(np.full(10, 0.1, np.float32))), True), (1.0, sum([0.1] * 10), True),
    (0.3, 0.1 * 3, True), (0.3, float(np.float32(0.3)), True), (1.0, 0.999, False), (0.0, -1e-7, True),
    (0.0, -0.01, False), (100.0, 99.99999, True), (1e-3, 0.0009, False),
])  # fmt: skip
def test_the_boundary_is_met_within_rounding(bound: float, reward: float, success: bool) -> None:
    assert Grader(bound).grades(rewards(a=[reward])).tolist() == [success]
    assert Grader(f"a>={bound}").grades(rewards(a=[reward])).tolist() == [success]
    assert Grader(f"a<={-bound}").grades(rewards(a=[-reward])).tolist() == [success]


NAN = math.nan
values = st.sampled_from([0.0, 0.25, 0.5, 1.0, -1.0, NAN])
conditions = st.tuples(st.sampled_from("abc"), st.sampled_from([">=", "<="]), st.sampled_from([0.0, 0.5, -1.0]))
rules = st.lists(st.lists(conditions, min_size=1, max_size=3), min_size=1, max_size=3)


@given(st.lists(st.tuples(values, values, values), min_size=1, max_size=8), rules)
@settings(deadline=None, max_examples=100)
def test_rules_grade_as_they_read(table: list, rule: list) -> None:
    text = " or ".join(" and ".join(f"{name}{sign}{bound:g}" for name, sign, bound in part) for part in rule)
    expected = []
    for a, b, c in table:
        row = {"a": a, "b": b, "c": c}
        grade = NAN
        for part in rule:
            if any(math.isnan(row[name]) for name, _, _ in part):
                continue
            holds = all(row[name] >= bound if sign == ">=" else row[name] <= bound for name, sign, bound in part)
            grade = 1.0 if holds or grade == 1.0 else 0.0
        expected.append(grade)
    a, b, c = zip(*table, strict=True)
    grader = Grader(text)
    assert str(grader) == text
    np.testing.assert_array_equal(grader.grades(rewards(a=a, b=b, c=c)), expected)


def test_a_function_of_the_rewards_grades_where_one_that_it_reads_is_there() -> None:
    given = rewards(math=[1, 0, NAN, NAN], code=[NAN, NAN, 1, NAN], form=[1, 1, 1, 1])
    grader = Grader(lambda by: (by["math"] >= 1) | (by["code"] >= 1))
    np.testing.assert_array_equal(grader.grades(given), [1, 0, 1, NAN])
    np.testing.assert_array_equal(Grader(lambda by: np.array([1.0, 0.0, NAN, 1.0])).grades(given), [1, 0, NAN, 1])
    with pytest.raises(InputError, match=r"as \(a >= 1\) & \(b >= 1\)"):
        Grader(lambda by: by["math"] >= 1 and by["form"] >= 1).grades(given)
    with pytest.raises(InputError, match=r"returns \(rollout,\) booleans"):
        Grader(lambda by: True).grades(given)
    with pytest.raises(InputError, match="'maths'"):
        Grader(lambda by: by["maths"] >= 1).grades(given)


@pytest.mark.parametrize(("success", "message"), [
    ("a>1", "'a>1' is no condition: write FUNCTION>=NUMBER"), ("a>=x", "'x' is no number"), ("", "success='': give"),
    ("a and b==2", "'b==2' is no condition"), (math.inf, "success=inf is not finite"), (True, "success=True: give"),
    ("nan", "success=nan is not finite"), (None, "success=None: give"), ("gone.py:f", "gone.py: no such file"),
])  # fmt: skip
def test_what_is_no_rule_is_named(success: object, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        Grader(success)  # type: ignore[arg-type]
