"""What a success is: rules against a naive reading of them, how "auto" finds them, and the same rule everywhere."""

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import grpo_run
from known import known
from promptdyn.errors import InputError, PromptdynWarning
from promptdyn.history import RewardHistory
from promptdyn.models import DPS
from promptdyn.readers import read_history
from promptdyn.selection import Selector
from promptdyn.success import Grader, Rewards, moments, spread
from promptdyn.training.recipes import Recipe
from promptdyn.training.trl import SelectionGRPOTrainer
from test_cli import promptdyn_here

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

NAN = math.nan
RNG = np.random.default_rng(0)
CORRECT = (RNG.random(300) < 0.3).astype(float)
FORM = (RNG.random(300) < 0.8).astype(float)
HIDDEN = np.where(np.arange(300) % 7 == 0, NAN, CORRECT)
EVEN = np.arange(300) % 2 == 0


def rewards(weights=None, **columns) -> Rewards:
    values = np.stack([np.asarray(column, float) for column in columns.values()], axis=1)
    return Rewards(tuple(columns), np.ones(len(columns)) if weights is None else np.asarray(weights, float), values)


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


@pytest.mark.parametrize(("bound", "reward", "success"), [
    (1.0, 0.9999999, True), (1.0, float(np.sum(np.full(10, 0.1, np.float32))), True), (1.0, sum([0.1] * 10), True),
    (0.3, 0.1 * 3, True), (0.3, float(np.float32(0.3)), True), (1.0, 0.999, False), (0.0, -1e-7, True),
    (0.0, -0.01, False), (100.0, 99.99999, True), (1e-3, 0.0009, False),
])  # fmt: skip
def test_the_boundary_is_met_within_rounding(bound: float, reward: float, success: bool) -> None:
    assert Grader(bound).grades(rewards(a=[reward])).tolist() == [success]
    assert Grader(f"a>={bound}").grades(rewards(a=[reward])).tolist() == [success]
    assert Grader(f"a<={-bound}").grades(rewards(a=[-reward])).tolist() == [success]


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


def test_spread_is_of_what_is_there_and_above_rounding() -> None:
    groups = np.array(
        [[1.0, 1.0, NAN], [1.0, 0.0, NAN], [NAN, NAN, NAN], [1.0, 0.9999999, 1.0], [1e4, 1e4 + 0.01, 1e4]]
    )
    assert spread(groups).tolist() == [0.0, 1.0, 0.0, 0.0, 0.0]
    assert spread(np.zeros((0, 4))).tolist() == []


# The selector

IDS = [f"p{i}" for i in range(40)]
ABLE = np.linspace(0.0, 1.0, 40)


def play(selector: Selector, told, steps: range, k: int = 4) -> list[list[str]]:
    """Steps of a run whose true rewards depend on step and prompt alone, told as `told` shapes them."""
    chosen = []
    for step in steps:
        ids = selector.select(k)
        true = [
            (np.random.default_rng([step, IDS.index(prompt_id)]).random(8) < ABLE[IDS.index(prompt_id)]).astype(float)
            for prompt_id in ids
        ]
        given, weights = told(np.array(true), np.random.default_rng(step))
        selector.observe(ids, given, weights=weights)
        chosen.append(ids)
    return chosen


def hidden(true: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rewards that are missing now and then."""
    return np.where(rng.random(true.shape) < 0.2, NAN, true)


ALIKE = {
    "10 x reward": lambda true, rng: (10 * true, None),
    "reward - 1": lambda true, rng: (true - 1, None),
    "noise below rounding": lambda true, rng: (true + 1e-7 * rng.random(true.shape), None),
    "accuracy + format": lambda true, rng: ({"a": true, "b": 0 * true + 1}, None),
    "weights 0.1 and 0.3": lambda true, rng: ({"a": true, "b": 0 * true + 1}, [0.1, 0.3]),
    "weights 0.5 and 0.5": lambda true, rng: ({"a": true, "b": 0 * true + 1}, [0.5, 0.5]),
    "three functions": lambda true, rng: ({"a": true, "b": 0 * true + 1, "c": 0 * true + 0.5 * (true > 0)}, None),
}


@pytest.mark.parametrize("case", ALIKE)
def test_choices_are_those_of_the_plain_reward(case: str) -> None:
    plain, other = (Selector(DPS(decay=0.7).online(IDS), seed=1) for _ in range(2))
    expected = play(plain, lambda true, rng: (true, None), range(30))
    assert play(other, ALIKE[case], range(30)) == expected
    assert other.metrics()["coverage"] == plain.metrics()["coverage"]
    np.testing.assert_array_equal(other.online.belief, plain.online.belief)


def test_none_from_the_function_that_decides_is_no_grade_whatever_the_others_gave() -> None:
    plain, other = (Selector(DPS(decay=0.7).online(IDS), seed=1) for _ in range(2))
    expected = play(plain, lambda true, rng: (hidden(true, rng), None), range(30))
    told = play(other, lambda true, rng: ({"a": hidden(true, rng), "b": 0 * true + 1}, None), range(30))
    assert told == expected
    np.testing.assert_array_equal(other.online.belief, plain.online.belief)


def many_values(true: np.ndarray, rng: np.random.Generator):
    return {"a": true, "length": -0.3 * rng.random(true.shape)}, None


def test_until_the_rule_is_known_all_are_taken_in_turn_and_nothing_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    selector = Selector(DPS(decay=0.7).online(IDS), seed=1)
    first = selector.select(4)
    np.testing.assert_array_equal(selector.observe(first, np.full((4, 8), 0.3)).num_rollouts, [])
    with pytest.raises(InputError, match="rewards by other, before by reward"):
        selector.observe(first, {"other": np.zeros((4, 8))})

    selector = Selector(DPS(decay=0.7).online(IDS), seed=1)
    assert selector.success == "0.5"
    chosen = play(selector, many_values, range(6))  # 192 rollouts
    assert (selector.success, selector.online.steps) == (None, 0)
    assert len({prompt_id for ids in chosen[1:] for prompt_id in ids} - set(chosen[0])) == 20  # as "uniform" does
    assert math.isnan(selector.metrics()["informative"])
    chosen += play(selector, many_values, range(6, 7))
    assert f"a success is '{selector.success}', found from the first 224 rollouts" in caplog.text

    informed = Selector(DPS(decay=0.7).online(IDS), success=selector.success)
    informed.select = lambda k, *_: chosen[informed.online.steps]  # type: ignore[method-assign]
    play(informed, many_values, range(7))
    np.testing.assert_array_equal(selector.online.belief, informed.online.belief)
    assert selector.online.steps == 7


def test_a_rule_that_changes_counts_the_steps_before_anew() -> None:
    """The first step shows -1 and 0, which pass for all there is; the others show 1 too."""
    selector = Selector(DPS().online(IDS))
    first = selector.observe(["p0", "p1"], [[-1, -1, 0, 0], [0, 0, 0, 0]])
    assert (selector.success, first.num_successes.tolist()) == ("reward>=0", [2, 4])
    for _ in range(24):
        seen = selector.observe(["p2", "p3"], [[-1, 0, 1, 1], [1, 1, 1, 1]])
    assert selector.success == "0.5"
    assert [len(earlier.prompt_ids) for earlier in seen.earlier] == [2] * 24
    assert seen.earlier[0].num_successes.tolist() == [0, 0]
    assert [earlier.step for earlier in seen.earlier[:3]] == [0, 1, 2]
    informed = Selector(DPS().online(IDS), success=0.5)
    informed.observe(["p0", "p1"], [[-1, -1, 0, 0], [0, 0, 0, 0]])
    for _ in range(24):
        informed.observe(["p2", "p3"], [[-1, 0, 1, 1], [1, 1, 1, 1]])
    np.testing.assert_array_equal(selector.online.belief, informed.online.belief)


@pytest.mark.parametrize("stop", [1, 3, 6, 7, 9])
def test_a_saved_selector_goes_on_looking(stop: int, tmp_path: Path) -> None:
    whole = Selector(DPS(decay=0.7).online(IDS), seed=1)
    expected = play(whole, many_values, range(15))
    stopped = Selector(DPS(decay=0.7).online(IDS), seed=1)
    play(stopped, many_values, range(stop))
    stopped.save(tmp_path / "selector.npz")
    resumed = Selector(DPS(decay=0.7).online(IDS), seed=9)
    resumed.load(tmp_path / "selector.npz")
    assert play(resumed, many_values, range(stop, 15)) == expected[stop:]
    assert resumed.success == whole.success
    np.testing.assert_array_equal(resumed.online.belief, whole.online.belief)
    with pytest.raises(InputError, match="saved with success auto, this one has a>=1"):
        Selector(DPS(decay=0.7).online(IDS), success="a>=1").load(tmp_path / "selector.npz")


def test_a_run_that_ends_early_has_the_best_rule_there_is() -> None:
    selector = Selector(DPS().online(IDS))
    selector.observe(["p0"], [[0.1, 0.2, 0.9, 0.8]])
    (seen,) = selector.settle()
    assert (selector.success, seen.num_successes.tolist()) == ("0.5", [2])
    assert selector.settle() == ()
    assert selector.online.steps == 1


# The watch


def watched(selector: Selector, given, steps: int = 25) -> list[str]:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for step in range(steps):
            selector.observe(selector.select(2), given(np.random.default_rng(step)))
    return [str(warning.message) for warning in told if warning.category is PromptdynWarning]


def test_the_watch_tells_once_where_selection_sees_nothing() -> None:
    def correct(rng):
        return (rng.random((2, 8)) < 0.5).astype(float)

    def both(rng):
        return {"correct": correct(rng), "form": np.ones((2, 8))}

    (line,) = watched(Selector(DPS().online(IDS), success=0.5), both, 60)
    assert "of 40 groups vary, and by success='0.5' 0 of these are informative" in line
    assert line.startswith("step 19: in the last 20 generations")
    assert "success=..." in line
    assert watched(Selector(DPS().online(IDS)), both) == []
    assert watched(Selector(DPS().online(IDS), success="correct"), both) == []
    assert watched(Selector(DPS().online(IDS)), correct) == []

    # Noise in every group, parted in the middle; and no grade for most.
    (line,) = watched(Selector(DPS().online(IDS), success=0.5), lambda rng: np.linspace(0.4, 0.6, 16).reshape(8, 2).T)
    assert "all 40 groups are informative by success='0.5', which tells nothing apart" in line
    (line,) = watched(
        Selector(DPS().online(IDS), success="correct"),
        lambda rng: {"correct": [[None] * 8, [0.0, 1.0] * 4], "form": np.ones((2, 8))},
    )
    assert "20 of 40 groups have rewards and no grade by success='correct>=1'" in line
    (line,) = watched(Selector(DPS().online(IDS)), lambda rng: [[None] * 8] * 2)
    assert "the reward functions gave None for all rollouts of all 40 groups: nothing is learned" in line


# Live


def letters(prompt_id: list[str], completions: list[str], **_: object) -> list[float | None]:
    graded = zip(prompt_id, completions, strict=True)
    return [None if completion.startswith("0") else grpo_run.Grader.reward(i, completion) for i, completion in graded]


def length(completions: list[str], **_: object) -> list[float]:
    return [0.1 * len(completion) for completion in completions]


def sometimes(completions: list[str], **_: object) -> list[float | None]:
    return [None if "1" in completion else float("a" in completion) for completion in completions]


def well_formed(completions: list[str], **_: object) -> list[float]:
    return [1.0] * len(completions)


def logged(prompt_id: list[str], log_extra, **_: object) -> list[float]:
    log_extra("prompt_id", prompt_id)
    return [0.0] * len(prompt_id)


def live(folder: Path, functions: list, weights: list[float], *, steps: int, **named) -> SelectionGRPOTrainer:
    arguments = grpo_run.config(
        folder,
        max_steps=steps,
        per_device_train_batch_size=16,
        reward_weights=weights,
        log_completions=True,
        save_strategy="no",
        learning_rate=1e-3,
    )
    run = SelectionGRPOTrainer(
        grpo_run.model(), functions, arguments, grpo_run.POOL, processing_class=grpo_run.tokenizer(), **named
    )
    run.train()
    return run


@pytest.mark.parametrize(("functions", "weights", "success", "rule", "steps"), [
    ([letters, well_formed, logged], [0.2, 0.7, 0.0], None, "letters>=1 and well_formed>=1", 4),
    ([letters, length, logged], [1.0, 0.5, 0.0], None, None, 15),
    ([letters, length, logged], [1.0, 0.5, 0.0], "length>=0.3", "length>=0.3", 3),
])  # fmt: skip
def test_live_and_imported_histories_of_a_run_are_equal(
    tmp_path: Path, functions: list, weights: list[float], success: str | None, rule: str | None, steps: int
) -> None:
    run = live(tmp_path, functions, weights, steps=steps, success=success)
    lived = RewardHistory.from_parquet(tmp_path / "history.parquet")
    assert lived.success == run.selector.success
    assert rule is None or lived.success == rule
    names = [function.__name__ for function in functions]
    imported = read_history(tmp_path, reward=names, reward_weights=weights, success=success or "auto", label_columns=())
    assert imported.success == lived.success

    def rows(history: RewardHistory, first: int) -> list[tuple]:
        ids = history.prompt_ids[history.prompt]
        counts = zip(history.step - first, ids, history.num_rollouts, history.num_successes, strict=True)
        return sorted((int(step), prompt_id, int(n), int(k)) for step, prompt_id, n, k in counts)

    assert rows(imported, 1) == rows(lived, 0)  # TRL's log counts the steps done, so from 1
    for name in ("reward_mean", "reward_std"):
        logged = {(step - 1, i): value for step, i, value in by_group(imported, name)}
        assert {(step, i): value for step, i, value in by_group(lived, name)} == pytest.approx(logged, abs=1e-6)
    assert 0 < lived.num_successes.sum() < lived.num_rollouts.sum()
    assert len({step for step, *_ in rows(lived, 0)}) == steps  # those before the rule was known, too


def by_group(history: RewardHistory, column: str) -> list[tuple[int, str, float]]:
    ids = history.prompt_ids[history.prompt]
    return list(zip(history.step.tolist(), ids, getattr(history, column).tolist(), strict=True))


def test_mean_and_deviation_of_a_group_are_those_that_trl_logs(tmp_path: Path) -> None:
    """One group a step, three functions of which one skips rollouts."""
    functions: list[Any] = [letters, length, sometimes]
    weights = [1.0, 0.2, 0.5]
    run = SelectionGRPOTrainer(
        grpo_run.model(),
        functions,
        grpo_run.config(
            tmp_path, max_steps=6, per_device_train_batch_size=4, reward_weights=weights, save_strategy="no"
        ),
        grpo_run.POOL,
        processing_class=grpo_run.tokenizer(),
    )
    run.train()
    history = RewardHistory.from_parquet(tmp_path / "history.parquet")
    log = [entry for entry in run.state.log_history if "reward" in entry]
    assert history.step.tolist() == list(range(6))
    np.testing.assert_allclose(known(history.reward_mean), [entry["reward"] for entry in log], rtol=1e-5)
    np.testing.assert_allclose(known(history.reward_std), [entry["reward_std"] for entry in log], rtol=1e-4, atol=1e-6)


def test_moments_of_groups() -> None:
    folded, group = np.array([0.5, 1.5, np.nan, 3.0, np.nan]), np.array([0, 0, 0, 1, 2])
    mean, std = moments(folded, group, 4)
    np.testing.assert_array_equal(mean, np.array([1.0, 3.0, np.nan, np.nan], np.float32))
    np.testing.assert_allclose(std, np.array([np.std([0.5, 1.5], ddof=1), 0.0, np.nan, np.nan], np.float32))
    for huge in (1e39, 1e160):
        np.testing.assert_array_equal(moments(np.array([huge, 0, 0.5]), np.array([0, 0, 1]), 2)[0], [np.nan, 0.5])
    many = 1e6 + np.array([0.25, 0.5, 1.0])  # far from 0
    assert moments(many, np.zeros(3, int), 1)[1][0] == pytest.approx(np.std(many, ddof=1))


def test_a_rule_found_live_stays_in_the_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def trainer() -> SelectionGRPOTrainer:
        return SelectionGRPOTrainer(
            grpo_run.model(),
            [letters, length],
            grpo_run.config(tmp_path, max_steps=15, save_steps=7, per_device_train_batch_size=16),
            grpo_run.POOL,
            processing_class=grpo_run.tokenizer(),
        )

    whole = trainer()
    whole.train()
    history = RewardHistory.from_parquet(tmp_path / "history.parquet")
    for checkpoint in (7, 14):  # the rule is found by the 13th step, of 16 rollouts each
        resumed = trainer()
        resumed.train(str(tmp_path / f"checkpoint-{checkpoint}"))
        assert resumed.selector.success == whole.selector.success
        again = RewardHistory.from_parquet(tmp_path / "history.parquet")
        assert again.success == history.success
        np.testing.assert_array_equal(again.num_successes, history.num_successes)
        np.testing.assert_array_equal(again.prompt_ids[again.prompt], history.prompt_ids[history.prompt])
    assert caplog.text.count("found from the first 208 rollouts") == 2


def test_a_rule_whose_function_went_is_named() -> None:
    selector = Selector(DPS().online(["a", "b"]), success="correct>=0.5")
    with pytest.raises(InputError, match=r"success='correct>=0\.5': no reward function is called 'correct': did you"):
        selector.observe(["a"], {"corect": [[0, 1]]})
    assert selector.online.steps == 0


def test_success_is_said_to_trainer_recipe_and_command(tmp_path: Path) -> None:
    arguments = grpo_run.config(tmp_path / "run", max_steps=1, save_strategy="no")
    pool, tokenizer = grpo_run.POOL, grpo_run.tokenizer()

    def trainer(**named) -> SelectionGRPOTrainer:
        return SelectionGRPOTrainer(
            grpo_run.model(), [letters, length], arguments, pool, processing_class=tokenizer, **named
        )

    assert trainer(success="length>=0.3").selector.success == "length>=0.3"
    assert trainer(selector=Recipe("dps", success="length>=0.2")).selector.success == "length>=0.2"
    assert trainer(selector=Recipe("dps", success=1.5), success=0.7).selector.success == "0.7"
    with pytest.raises(InputError, match="no reward function is called 'lenght': did you mean 'length'"):
        trainer(success="lenght")
    with pytest.raises(InputError, match="give success to the Selector, not to the trainer"):
        trainer(selector=grpo_run.selector(), success=0.5)

    (tmp_path / "rewards.py").write_text(
        "def form(completions, **_):\n    return [1.0] * len(completions)\n"
        "def solved(rewards):\n    return rewards['exact_answer'] >= 1\n"
    )
    config = tmp_path / "run.yaml"
    config.write_text(f"success: {tmp_path}/rewards.py:solved\nnum_prompts: 40\nprompts_per_step: 4\nmax_steps: 2\n")
    common = ("train", "--output-dir", tmp_path / "cli", "--config", config)
    functions = ("--reward", f"exact_answer,{tmp_path}/rewards.py:form")
    done = promptdyn_here(*common, *functions)
    assert done.returncode == 0, done.stderr
    assert RewardHistory.from_parquet(tmp_path / "cli" / "history.parquet").success == f"{tmp_path}/rewards.py:solved"
    done = promptdyn_here(*common, *functions, "--success", "exact_anser>=1")
    assert done.returncode == 2
    assert "no reward function is called 'exact_anser': did you mean 'exact_answer'" in done.stderr
