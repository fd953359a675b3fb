"""Strategies that use the prompts' scores, by their formulas."""

import numpy as np
import pytest
from scipy.stats import chisquare

from promptdyn.errors import InputError
from promptdyn.models import DPS, BetaBernoulli, InformativeRate, LogitKalman
from promptdyn.prompts import Prompts
from promptdyn.selection import Selector
from promptdyn.selection.scores import entropy
from taught import IDS, taught


def first_choices(selector, times):
    """Return how often each prompt was the first of the chosen ones."""
    first = np.zeros(12)
    for _ in range(times):
        first[IDS.index(selector.select(3)[0])] += 1
    return first


def test_top_takes_the_prompts_most_likely_informative():
    selector = taught(strategy="top")
    assert set(selector.select(4)) == set(IDS[:4])
    assert set(selector.select(8)) == set(IDS[:4]) | set(IDS[8:])
    assert set(selector.select(4)) == set(IDS[:4])


def test_gumbel_first_choice_follows_the_softmax_of_the_score():
    selector = taught(strategy="gumbel:temperature=0.2")
    score = selector.online.informative(8)
    expected = np.exp(score / 0.2) / np.exp(score / 0.2).sum()
    assert chisquare(first_choices(selector, 4000), 4000 * expected).pvalue > 1e-3


def test_proportional_first_choice_follows_the_power_of_the_mean_score():
    for power, uniform in ((1.0, 0.0), (2.5, 0.0), (3.0, 0.0), (3.0, 0.25), (2.5, 1.0)):
        selector = taught(BetaBernoulli(), strategy=f"proportional:power={power},uniform={uniform},drawn=false")
        score = selector.online.informative(8)
        expected = (1 - uniform) * score**power / (score**power).sum() + uniform / 12
        assert chisquare(first_choices(selector, 1000), 1000 * expected).pvalue > 1e-3


@pytest.mark.parametrize("model", [BetaBernoulli(), InformativeRate(), LogitKalman()])
def test_proportional_first_choice_follows_the_power_of_drawn_scores(model):
    selector = taught(model, strategy="proportional:uniform=0.25")
    rng = np.random.default_rng(1)
    odds = np.array([selector.online.informative(8, rng) for _ in range(20_000)]) ** 3
    expected = 0.75 * (odds / odds.sum(axis=1, keepdims=True)).mean(axis=0) + 0.25 / 12
    assert chisquare(first_choices(selector, 2000), 2000 * expected).pvalue > 1e-3


def test_proportional_goes_on_trying_a_kind_that_it_hardly_knows():
    """Of three kinds one is known to teach now and then, one failed to in its only group, and one teaches always."""
    prompts = Prompts(IDS, {"kind": [f"kind {i % 3}" for i in range(12)]})
    share = {}
    for drawn in (True, False):
        online = InformativeRate(cluster="kind", decay=1.0).online(prompts)
        for step in range(400):
            online.step([IDS[2], IDS[0]], [1, 1 if step % 8 == 0 else 0], 2)
        online.step([IDS[1]], [0], 2)
        selector = Selector(online, strategy=f"proportional:uniform=0,drawn={drawn}".lower(), num_generations=2)
        first = first_choices(selector, 3000).reshape(-1, 3).sum(axis=0) / 3000
        share[drawn] = first[:2]
    # Beta(1/2, 3/2): a mean of 1/4, whose third power is 1/64, and a third power of 5/64 on average
    assert share[False][1] == pytest.approx((1 / 64) / (1 + 1 / 64), abs=0.006)
    assert share[True][1] == pytest.approx(0.057, abs=0.012)
    assert share[True][0] < 0.006
    assert share[False][0] < 0.006


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
