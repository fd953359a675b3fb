"""Forecasts weighed online: what they start from, what their experts see, and that they beat each of these."""

from typing import Any, cast

import numpy as np
import pytest
from scipy.special import logit

import promptdyn
from promptdyn.errors import InputError
from promptdyn.evaluation.forecast import walk
from promptdyn.models import DPS, MODELS, BetaBernoulli, DiscreteHMM, FeatureRate, InformativeRate, LastOutcome, Stacked
from promptdyn.models.stacked import OWN
from promptdyn.online import OnlineFilter, OnlineModel
from promptdyn.online.regression import probit
from promptdyn.prompts import Prompts

IDS = [f"p{i}" for i in range(24)]
POOL = Prompts(
    IDS, {"task": ["add", "a|b", "sub"] * 8, "difficulty": [str(i % 2) for i in range(24)], "size": np.arange(24.0)}
)


@pytest.fixture(scope="module")
def history():
    return promptdyn.read_history("docs/data/arithmetic_grpo_history.parquet")


def step_randomly(*filters: OnlineFilter, steps: int = 6) -> None:
    rng = np.random.default_rng(1)
    for _ in range(steps):
        ids = list(rng.choice(IDS, 5, replace=False))
        counts = rng.integers(0, 5, 5)
        for online in filters:
            online.step(ids, counts, 4)


def parts(online: OnlineFilter) -> list[tuple[OnlineModel, Any]]:
    """The experts of a filter, each with its own state."""
    return list(cast(Stacked, online.model)._parts(online._state))


def test_it_starts_from_the_mean_of_the_experts_log_odds():
    experts = (InformativeRate(), BetaBernoulli(), DPS())
    forecasts = np.array([expert.online(IDS).informative(8) for expert in experts])
    odds = logit(forecasts)
    never = np.zeros(len(OWN))
    never[0] = 1.0
    variance = 0.25 * (odds**2).sum(axis=0) + 1.0 + never @ never
    expected = probit(odds.mean(axis=0), variance)
    np.testing.assert_allclose(Stacked(None, experts=experts).online(IDS).informative(8), expected, rtol=1e-5)


def test_experts_pool_over_columns_as_they_do_alone():
    experts = (
        InformativeRate(cluster="task"),
        LastOutcome(cluster="difficulty"),
        DPS(cluster=("task", "difficulty")),
        BetaBernoulli(),
        InformativeRate(cluster=("difficulty", "task")),
    )
    whole = Stacked(("task", "difficulty"), experts=experts).online(POOL)
    alone = [expert.online(POOL) for expert in experts]
    step_randomly(whole, *alone)
    for (expert, part), single in zip(parts(whole), alone, strict=True):
        np.testing.assert_array_equal(expert.outcome(part, 8).T, single.outcome(8))


def test_by_default_it_pools_by_each_column_and_by_all_crossed():
    model = Stacked().online(POOL).model
    assert model.cluster == ("difficulty",)  # by task and difficulty a kind would have four prompts
    both = Stacked(("task", "difficulty"))
    assert both.inputs[:7] == [
        *("rate", "mopps", "last by task+difficulty", "dps by task+difficulty"),
        *("rate by task+difficulty", "rate by task", "rate by difficulty"),
    ]
    assert Stacked(None).inputs[:5] == ["rate", "mopps", "last", "dps", "constant"]


def test_it_forecasts_better_than_each_of_its_experts(history):
    experts = {expert.name + str(expert.cluster): expert for expert in Stacked(("task", "difficulty"))._experts}
    scores = promptdyn.compare({"stacked": Stacked(), **experts}, history, fit_steps=120).scores
    best, *others = sorted(scores, key=lambda score: score.log_loss)
    assert best.model == "stacked"
    assert best.log_loss < 0.297
    assert best.log_loss < others[0].log_loss - 0.02
    assert best.auroc > 0.878
    assert best.precision > 0.66
    assert best.calibration_error < 0.012


def test_weights_tell_what_it_goes_by(history):
    rng = np.random.default_rng(0)
    useless = history.prompts.with_column("noise", [f"n{i}" for i in rng.integers(0, 4, history.num_prompts)])
    model = Stacked(("task", "noise"), experts=["rate:cluster=task", "rate:cluster=noise", "dps:decay=1"])
    online = model.online(useless)
    assert online.weights["rate by noise"] == online.weights["dps"] == pytest.approx(1 / 3)
    for _ in walk(online, history.before(100)):
        pass
    assert list(online.weights)[:4] == ["rate by task", "rate by noise", "dps", "constant"]
    assert abs(online.weights["rate by noise"]) < 0.2 < online.weights["dps"]
    assert InformativeRate().online(IDS).weights == {}


def test_a_fit_may_be_an_expert(history):
    fit = promptdyn.fit(DiscreteHMM(num_states=3), history.before(60))
    prompts = history.prompts
    model = Stacked(experts=(*Stacked(None)._experts, fit.frozen()))
    online, alone = model.online(prompts), fit.online(prompts)
    ids = prompts.ids[:50]
    for each in (online, alone):
        each.step(ids, np.arange(50) % 9, 8)
    *_, (expert, part) = parts(online)
    np.testing.assert_allclose(expert.outcome(part, 8).T, alone.outcome(8))


def test_features_tell_prompts_apart_that_no_expert_does():
    labels = Stacked(None, num_functions=50).online(POOL)
    features = Stacked(None, features="size", num_functions=50).online(POOL)
    rng = np.random.default_rng(0)
    for _ in range(100):
        rows = rng.choice(20, 6, replace=False)
        for online in (labels, features):
            online.step([IDS[row] for row in rows], np.where(rows < 10, 2, 0), 4)
    unseen = np.array([[online.informative(4)[i] for i in (20, 23)] for online in (labels, features)])
    assert unseen[1].max() < unseen[0].min() - 0.1


def test_features_that_are_read_again_leave_all_that_was_learned():
    readings = np.random.default_rng(2).normal(size=(2, 24, 3))
    first, again = (POOL.with_column("policy", reading) for reading in readings)
    online = Stacked(None, features="policy", num_functions=20).online(first)
    step_randomly(online)
    before = online._state._asdict()
    online.refresh(again)
    for name, value in online._state._asdict().items():
        assert np.array_equal(value, before[name]) == (name not in ("features", "basis")), name


def test_one_draw_of_the_weights_serves_all_prompts():
    online = Stacked(None).online(IDS)
    step_randomly(online)
    draw = online.informative(8, np.random.default_rng(5))
    same = np.flatnonzero(online._state.age == 0)
    assert len(same) > 1
    assert np.ptp(draw[same]) < 1e-6
    assert np.abs(draw - online.informative(8)).max() > 0.01
    assert ((draw > 0) & (draw < 1)).all()


def test_experts_may_be_named():
    named = MODELS.parse_one("stacked:experts=rate+dps,cluster=none")
    assert named == Stacked(None, experts=(InformativeRate(), DPS()))
    assert Stacked(None, experts=["mopps:decay=0.5", DPS()]).experts == (BetaBernoulli(decay=0.5), DPS())
    with pytest.raises(InputError, match="expert 'hmm' is none of rate, last, mopps, dps, kgps"):
        Stacked(experts="hmm")
    with pytest.raises(InputError, match="is no model"):
        Stacked(experts=(1,))  # type: ignore[arg-type]


def test_an_expert_may_not_pool_over_a_column_that_is_not_named():
    with pytest.raises(InputError, match="expert 'rate' pools by column 'task', which is none of cluster='difficulty'"):
        Stacked("difficulty", experts=(InformativeRate(cluster="task"),)).online(POOL)
    for settings, message in (
        ({"kept": 0.0}, "kept"),
        ({"scale": 0.0}, r"scale=0\.0 must be finite and above 0"),
        ({"num_functions": 0}, "num_functions"),
        ({"experts": (FeatureRate(),)}, "expert 'features' uses features='policy': leave it out"),
    ):
        with pytest.raises(InputError, match=message):
            Stacked(**settings)
