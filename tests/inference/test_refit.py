"""Models refitted while a run goes on: when they take over, what they then believe, and what a resumed run does."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import promptdyn
from known import known
from promptdyn import Selector
from promptdyn.errors import InputError, PromptdynWarning
from promptdyn.inference import Refitted
from promptdyn.models import DPS, BetaState, DiscreteHMM, FeatureRate, InformativeRate
from promptdyn.plugins import load_object
from promptdyn.prompts import Prompts

OUTSIDE = Path(__file__).parents[1] / "outside"
IDS = [f"p{i}" for i in range(40)]
# Labels need not be text; no prompt of the third is rolled out before the first fit.
LABELS = [1 if i < 15 else 2 if i < 36 else 3 for i in range(40)]
POOL = Prompts(IDS, {"kind": LABELS})
MODEL = DiscreteHMM(num_states=3, cluster="kind", num_exposures=2)


def groups(step):
    rng = np.random.default_rng(step)
    seen = rng.choice(36 if step < 8 else 40, 6, replace=False)
    return [IDS[i] for i in seen], rng.binomial(8, np.where(seen < 15, 0.9, 0.1)), rng.random(6) < 0.8


def drive(online, begin, end):
    for step in range(begin, end):
        ids, successes, trained = groups(step)
        online.step(ids, successes, 8, trained)


def test_a_refitted_model_takes_over_at_its_step_and_a_resumed_run_chooses_the_same(tmp_path):
    settings = {"method": "em", "backend": "pyro", "max_iterations": 4}
    refitted = Refitted(MODEL, every=6, lag=2, settings=settings)

    def fresh(order=slice(None)):
        return Selector(refitted.online(Prompts(IDS[order], {"kind": LABELS[order]})), strategy="proportional", seed=1)

    selector = fresh()
    online = selector.online
    plain = InformativeRate(cluster="kind").online(POOL)
    drive(online, 0, 7)
    drive(plain, 0, 7)
    # The first fit has begun, and is not yet asked.
    assert online.fit is None
    np.testing.assert_array_equal(online.outcome(8), plain.outcome(8))
    selector.save(tmp_path / "begun.npz")

    drive(online, 7, 9)
    assert online.fit is not None
    assert online.fit.num_observed == 36
    assert known(online.fit).method["name"] == "em"
    # What it believes is what the fit's own filter would, had it been there from the first step.
    whole = online.fit.online(Prompts(IDS, {"cluster": LABELS}))
    drive(whole, 0, 9)
    np.testing.assert_allclose(online.belief, whole.belief, atol=1e-12)
    selector.save(tmp_path / "fitted.npz")
    drive(online, 9, 11)
    first = [selector.select(5) for _ in range(3)]

    backwards = slice(None, None, -1)  # a pool in another order
    for name, step, order in (("begun", 7, slice(None)), ("fitted", 9, slice(None)), ("fitted", 9, backwards)):
        resumed = fresh(order)
        resumed.load(tmp_path / f"{name}.npz")
        assert resumed.online.steps == step
        drive(resumed.online, step, 11)
        assert [resumed.select(5) for _ in range(3)] == first
    with pytest.raises(InputError, match="saved by model"):
        Selector(Refitted(MODEL, every=7).online(POOL), strategy="proportional").load(tmp_path / "fitted.npz")


def test_a_fit_that_fails_is_told_and_the_run_goes_on():
    settings = {"method": f"{OUTSIDE}/hmc.py:FixedHMC", "backend": "pyro"}  # known only once it is tried
    online = Refitted(MODEL, every=2, lag=0, settings=settings).online(POOL)
    with pytest.warns(PromptdynWarning, match="step 2: the fit begun at step 2 failed: .*no loop.*goes on without it"):
        drive(online, 0, 3)
    assert online.fit is None
    assert online.steps == 3
    assert np.isfinite(online.informative(8)).all()


def test_steps_without_a_group_are_no_reason_to_fit():
    online = Refitted(DiscreteHMM(num_states=2), every=1, lag=0).online(IDS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        online.step([], [], 8)
    state = online.state_dict()
    again = Refitted(DiscreteHMM(num_states=2), every=1, lag=0).online(IDS)
    again.load_state_dict(state)
    assert again.steps == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Refitted(DPS()), "has no program, nothing to fit or to run forward"),  # type: ignore[arg-type]
        (lambda: Refitted(MODEL, every=10, lag=10), "every=10, lag=10: need every >= 1 and 0 <= lag < every"),
        (lambda: Refitted(MODEL).online(IDS), "'hmm', cluster='kind': there is no column 'kind'"),
        (
            lambda: Refitted(MODEL, start=DPS(cluster="other")).online(Prompts(IDS, {"kind": LABELS, "other": LABELS})),
            "start='dps' has cluster='other', the model 'kind': make them the same",
        ),
        (lambda: Refitted(MODEL, start=FeatureRate()), "uses features, which a program cannot"),
        (lambda: Refitted(MODEL, settings={"method": "guess"}), "method 'guess' is none of em, map, svi, nuts"),
        (lambda: Refitted(MODEL, settings={"steps": 3}), "method 'em' has no setting 'steps'; it has max_iterations"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_models_that_another_process_cannot_find_are_refused():
    class Mine(DiscreteHMM):
        name = "mine"

    with pytest.raises(InputError, match="Mine is declared in a cell, a script or a function"):
        Refitted(Mine())


@pytest.mark.usefixtures("registries")
def test_an_engine_of_ones_own_fits_in_the_other_process():
    engine = load_object(f"{OUTSIDE}/adam.py:Adam", "method")(num_steps=20)
    online = Refitted(MODEL, every=2, lag=0, settings={"method": engine, "backend": "pyro", "seed": 3}).online(POOL)
    drive(online, 0, 2)
    described = {"name": "adam", "num_steps": 20, "learning_rate": 0.1}
    assert known(online.fit).method == {**described, "backend": "pyro", "seed": 3}
    assert "adam(num_steps=20" in online.describe()["settings"]["method"]


@pytest.mark.long
def test_a_refitted_model_is_compared_with_others():
    history = promptdyn.read_history("docs/data/arithmetic_grpo_history.parquet").before(100)
    models: dict[str, Any] = {"refitted": Refitted(BetaState(), every=40), "dps": DPS(1.0)}
    scores = {row.model: row for row in promptdyn.compare(models, history, fit_steps=50, observed="trained").scores}
    assert scores["refitted"].log_loss < scores["dps"].log_loss


def test_prompts_may_join_before_and_after_a_fit():
    settings = {"method": "em", "backend": "pyro", "max_iterations": 2}
    online = Refitted(MODEL, every=6, lag=0, settings=settings).online(POOL)
    online.add(Prompts(["early"], {"kind": [2]}))
    drive(online, 0, 6)
    assert online.fit is not None
    online.add(Prompts(["late"], {"kind": ["2"]}))
    # Neither was rolled out: one has idled since, the other is where prompts of its kind begin.
    whole = online.fit.online(Prompts(["early"], {"cluster": [2]}))
    begins = whole.belief[0].copy()
    for _ in range(6):
        whole.step([], [], 8)
    np.testing.assert_allclose(online.belief[-2:], [whole.belief[0], begins], atol=1e-12)
    with pytest.raises(InputError, match="'hmm', cluster='kind': there is no column 'kind'"):
        online.add(["other"])
