"""Choices: the highest, ties, what is left out, and a choice that keeps to a few prompts."""

import numpy as np
import pytest
from scipy.stats import chisquare

from promptdyn.errors import PromptdynWarning
from promptdyn.models import DPS
from promptdyn.selection import Selector
from promptdyn.selection.chooser import highest


def test_highest_equals_a_full_sort_when_nothing_ties():
    rng = np.random.default_rng(0)
    for _ in range(50):
        priorities = rng.normal(size=30)
        excluded = rng.choice(30, 5, replace=False)
        k = int(rng.integers(1, 26))
        order = [i for i in np.argsort(-priorities) if i not in set(excluded)]
        assert highest(priorities, k, excluded, rng).tolist() == order[:k]


def test_what_is_excluded_is_never_taken_whatever_the_scores():
    rng = np.random.default_rng(0)
    assert highest(np.array([3, 2, 1, 0]), 2, np.array([0]), rng).tolist() == [1, 2]  # whole numbers
    lowest = np.full(4, -np.inf)
    assert set(highest(lowest, 2, np.array([0, 3]), rng)) == {1, 2}


def test_ties_are_broken_evenly_at_random():
    rng = np.random.default_rng(0)
    priorities = np.array([2.0] + [1.0] * 6 + [0.0])
    taken = np.zeros(8)
    for _ in range(3000):
        rows = highest(priorities, 3, np.array([], dtype=int), rng)
        assert rows[0] == 0
        taken[rows] += 1
    assert taken[0] == 3000
    assert taken[7] == 0
    assert chisquare(taken[1:7]).pvalue > 1e-3


IDS = [f"p{i}" for i in range(8)]
SUCCESSES, FAILURES, BOTH = [1.0] * 4, [0.0] * 4, [1.0, 0.0, 0.0, 1.0]


def choose_and_observe(strategy: str) -> None:
    """120 steps of 4 out of 60 prompts, all half solved."""
    draws = np.random.default_rng(0)
    selector = Selector(DPS().online([f"q{i}" for i in range(60)]), strategy=strategy, success=1.0, seed=1)
    for _ in range(120):
        selector.observe(selector.select(4), (draws.random((4, 8)) < 0.5).astype(float))


@pytest.mark.parametrize("strategy", ["top", "gumbel:temperature=0.001", "proportional:power=40,uniform=0,drawn=false"])
def test_a_choice_that_keeps_to_a_few_prompts_is_told_once(strategy):
    with pytest.warns(PromptdynWarning) as told:
        choose_and_observe(strategy)
    (warning,) = (str(warning.message) for warning in told)
    name = strategy.partition(":")[0]
    assert "no new prompt for 50 steps, " in warning
    assert f"strategy '{name}' takes the same prompts again and again; use 'proportional'" in warning


@pytest.mark.parametrize("strategy", ["proportional", "thompson", "uniform", "greso", "history_resampling"])
def test_nothing_is_told_of_a_choice_that_goes_on_to_others(strategy):
    choose_and_observe(strategy)


def test_steps_without_groups_are_no_sign_of_a_choice_that_is_stuck():
    selector = Selector(DPS().online(IDS), strategy="top", success=1.0)
    selector.observe(selector.select(2), [BOTH, BOTH])
    for _ in range(120):
        selector.observe([], [])
