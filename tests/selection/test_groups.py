"""Rewards of every kind that a selector is told: the same choices, whenever the rule of success is found."""

import math
from pathlib import Path

import numpy as np
import pytest

from promptdyn.errors import InputError
from promptdyn.models import DPS
from promptdyn.selection import Selector

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
    return np.where(rng.random(true.shape) < 0.2, math.nan, true)


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


def test_a_rule_whose_function_went_is_named() -> None:
    selector = Selector(DPS().online(["a", "b"]), success="correct>=0.5")
    with pytest.raises(InputError, match=r"success='correct>=0\.5': no reward function is called 'correct': did you"):
        selector.observe(["a"], {"corect": [[0, 1]]})
    assert selector.online.steps == 0
