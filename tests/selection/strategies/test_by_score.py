"""Strategies that use the prompts' scores, by their formulas."""

import numpy as np
import pytest
from scipy.stats import chisquare

from promptdyn.errors import InputError
from promptdyn.models import DPS, BetaBernoulli
from promptdyn.selection import Selector
from promptdyn.selection.scores import entropy
from taught import IDS, taught


def test_top_takes_the_prompts_most_likely_informative():
    selector = taught(strategy="top")
    assert set(selector.select(4)) == set(IDS[:4])
    assert set(selector.select(8)) == set(IDS[:4]) | set(IDS[8:])
    assert set(selector.select(4)) == set(IDS[:4])


def test_gumbel_first_choice_follows_the_softmax_of_the_score():
    selector = taught(strategy="gumbel:temperature=0.2")
    score = selector.online.informative(8)
    expected = np.exp(score / 0.2) / np.exp(score / 0.2).sum()
    first = np.zeros(12)
    for _ in range(4000):
        first[IDS.index(selector.select(3)[0])] += 1
    assert chisquare(first, 4000 * expected).pvalue > 1e-3


def test_proportional_first_choice_follows_the_power_of_the_score():
    for power, uniform in ((1.0, 0.0), (2.5, 0.0), (3.0, 0.0), (3.0, 0.25), (2.5, 1.0)):
        selector = taught(BetaBernoulli(), strategy=f"proportional:power={power},uniform={uniform}")
        score = selector.online.informative(8)
        first = np.zeros(12)
        for _ in range(1000):
            first[IDS.index(selector.select(3)[0])] += 1
        expected = (1 - uniform) * score**power / (score**power).sum() + uniform / 12
        assert chisquare(first, 1000 * expected).pvalue > 1e-3


def test_proportional_takes_prompts_that_score_nothing_last():
    def score(online, num_rollouts, rng):
        return (np.arange(online.num_prompts) < 4) * 1.0

    selector = Selector(DPS().online(IDS), strategy="proportional:uniform=0", score=score)
    for _ in range(20):
        assert set(selector.select(6)[:4]) == set(IDS[:4])

    def negative(online, num_rollouts, rng):
        return -np.ones(online.num_prompts)

    selector = Selector(DPS().online(IDS), strategy="proportional", score=negative)
    with pytest.raises(InputError, match=r"'proportional' needs scores of at least 0, and score negative gave -1"):
        selector.select(1)


def test_top_entropy_adds_the_weighted_entropy_of_the_forecast():
    selector = taught(strategy="top_entropy:weight=5.0")
    online = selector.online
    expected = online.informative(8) + 5.0 * entropy(online.outcome(8))
    chosen = [IDS.index(i) for i in selector.select(12)]
    assert np.all(np.diff(expected[chosen]) <= 1e-12)
    assert set(chosen[:4]) == set(range(8, 12))  # the never seen are the least certain


@pytest.mark.parametrize("num_generations", [8, 64])
def test_published_mopps_is_thompson_on_half_solved(num_generations):
    """The score "informative" would tie at 1 with large groups; the distance to one half does not."""
    rng = np.random.default_rng(0)
    online = BetaBernoulli().online([f"p{i}" for i in range(200)])
    online.step(online.prompt_ids, rng.integers(0, 65, 200), 64)
    selector = Selector(online, strategy="thompson", score="half_solved", num_generations=num_generations, seed=4)
    assert isinstance(online.model, BetaBernoulli)
    draw = np.random.default_rng(4).beta(*online.model.betas(online._state))
    nearest = np.argsort(np.abs(draw - 0.5))[:20]
    assert selector.select(20) == [f"p{i}" for i in nearest]
