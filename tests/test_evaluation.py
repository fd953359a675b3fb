"""Scores against scikit-learn, forecasts that never look ahead, and the comparison built on both."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

import promptdyn
from promptdyn.errors import InputError, PromptdynWarning
from promptdyn.evaluation import (
    auroc,
    brier,
    calibration_error,
    forecast,
    log_loss,
    mean_interval,
    precision_at,
    reliability,
)
from promptdyn.history import RewardHistory
from promptdyn.models import DPS, BetaBernoulli, DiscreteHMM


@pytest.fixture(scope="module")
def history() -> RewardHistory:
    """60 prompts, 40 steps, all rolled out, a quarter trained on; success rates rise at their own pace."""
    rng = np.random.default_rng(0)
    step, prompt = (grid.ravel() for grid in np.meshgrid(np.arange(40), np.arange(60), indexing="ij"))
    rate = 1 / (1 + np.exp(4 - 0.15 * step - 0.1 * (prompt % 30)))
    return RewardHistory.from_columns(
        step,
        [f"p{i}" for i in prompt],
        num_successes=rng.binomial(8, rate),
        num_rollouts=np.full(len(step), 8),
        trained=rng.random(len(step)) < 0.25,
        columns={"half": [str(i // 30) for i in prompt]},
    )


@given(st.integers(0, 2**32 - 1), st.integers(5, 200), st.booleans())
def test_scores_equal_scikit_learn(seed, size, ties):
    rng = np.random.default_rng(seed)
    probability = rng.random(size).round(1 if ties else 6)
    event = rng.random(size) < probability
    event[:2] = [True, False]
    clipped = probability.clip(1e-6, 1 - 1e-6)
    assert log_loss(probability, event) == pytest.approx(metrics.log_loss(event, clipped))
    assert brier(probability, event) == pytest.approx(metrics.brier_score_loss(event, probability))
    assert auroc(probability, event) == pytest.approx(metrics.roc_auc_score(event, probability))


def test_auroc_needs_both_kinds():
    assert np.isnan(auroc(np.array([0.1, 0.9]), np.array([True, True])))


def test_calibration_error_by_hand():
    probability = np.array([0.05, 0.05, 0.15, 0.95, 1.0])
    event = np.array([False, True, False, True, True])
    diagram = reliability(probability, event)
    assert diagram.size.tolist() == [2, 1, 2]
    assert diagram.forecast.tolist() == pytest.approx([0.05, 0.15, 0.975])
    assert diagram.realized.tolist() == pytest.approx([0.5, 0.0, 1.0])
    assert calibration_error(probability, event) == pytest.approx((2 * 0.45 + 0.15 + 2 * 0.025) / 5)


def test_precision_is_the_mean_over_random_tie_breaks():
    rng = np.random.default_rng(0)
    step = np.repeat(np.arange(3), 20)
    probability = rng.integers(0, 4, 60) / 4
    event = rng.random(60) < 0.4
    budget = np.array([7, 0, 30])
    shares = []
    for _ in range(4000):
        order = np.lexsort((rng.random(60), -probability, step))
        ranked = event[order].reshape(3, 20)
        shares.append((ranked[0, :7].mean() + ranked[2].mean()) / 2)
    assert precision_at(probability, event, step, budget) == pytest.approx(np.mean(shares), abs=0.005)


@pytest.mark.parametrize("model", [DPS(), BetaBernoulli()], ids=lambda model: model.name)
def test_forecasts_use_only_observed_rows_of_past_steps(history, model):
    def run(num_successes):
        changed = RewardHistory.from_columns(
            history.step,
            history.prompt_ids[history.prompt],
            num_successes=num_successes,
            num_rollouts=history.num_rollouts,
            trained=history.trained,
        )
        return forecast(model.online(list(history.prompt_ids)), changed, fit_steps=10)

    base = run(history.num_successes)
    assert (base.step >= 10).all()
    assert len(base.step) == 30 * 60
    np.testing.assert_array_equal(base.informative, history.informative[history.step >= 10])

    hidden = np.where(history.trained, history.num_successes, 8 - history.num_successes)
    np.testing.assert_array_equal(run(hidden).probability, base.probability)

    future = np.where(history.step >= 25, 8 - history.num_successes, history.num_successes)
    changed = run(future).probability
    np.testing.assert_array_equal(changed[base.step <= 25], base.probability[base.step <= 25])
    assert not np.array_equal(changed[base.step > 25], base.probability[base.step > 25])


def test_forecast_equals_stepping_by_hand(history):
    made = forecast(DPS().online(list(history.prompt_ids)), history, fit_steps=0, observed="all")
    online = DPS().online(list(history.prompt_ids))
    for step in history.steps:
        at = history.step == step
        ids = history.prompt_ids[history.prompt[at]]
        np.testing.assert_array_equal(made.probability[at], online.informative(8)[online.rows(ids)])
        online.step(ids, history.num_successes[at], history.num_rollouts[at], history.trained[at])


def test_forecasts_are_made_for_each_rows_own_number_of_rollouts():
    history = RewardHistory.from_columns(
        [0, 0, 1, 1], ["a", "b", "a", "b"], num_successes=[4, 4, 1, 16], num_rollouts=[8, 8, 2, 32]
    )
    made = forecast(BetaBernoulli().online(["a", "b"]), history, fit_steps=1)
    online = BetaBernoulli().online(["a", "b"])
    online.step(["a", "b"], [4, 4], 8)
    assert made.probability.tolist() == pytest.approx([online.informative(2)[0], online.informative(32)[1]])


def test_compare_ranks_models_and_keeps_fits(history):
    models: dict[str, Any] = {
        "dps": DPS(1.0),
        "mopps": BetaBernoulli(),
        "hmm": DiscreteHMM(num_states=5, cluster="half"),
    }
    told = {}
    comparison = promptdyn.compare(
        models, history, fit_steps=20, progress=lambda words, done, total, watch: told.update({words: (done, total)})
    )
    assert list(told) == ["forecasting by dps", "forecasting by mopps", "fitting hmm", "forecasting by hmm"]
    assert told["forecasting by hmm"] == (40, 40)
    losses = [score.log_loss for score in comparison.scores]
    assert losses == sorted(losses)
    assert comparison.scores[0].model == "hmm"  # the only one with the right dynamics
    fitted = comparison.models["hmm"]
    assert isinstance(fitted, promptdyn.Fit)
    assert fitted.num_observed == np.count_nonzero(history.trained & (history.step < 20))
    records = comparison.to_records()
    assert {"model", "log_loss", "brier", "auroc", "precision", "calibration_error"} <= records[0].keys()
    assert all(record["num_scored"] == 20 * 60 for record in records)
    again = promptdyn.compare({"hmm": comparison.models["hmm"]}, history, fit_steps=20)
    assert again.scores[0].log_loss == comparison.scores[0].log_loss
    assert comparison.best is comparison.models["hmm"]


def test_intervals_of_scores_are_over_prompts(history):
    models: dict[str, Any] = {"dps": DPS(1.0), "mopps": BetaBernoulli(), "same": BetaBernoulli()}
    best, *others = promptdyn.compare(models, history, fit_steps=20).scores
    assert (best.behind, best.behind_interval) == (0.0, (0.0, 0.0))
    for score in (best, *others):
        assert score.log_loss_interval[0] < score.log_loss < score.log_loss_interval[1]
        assert score.log_loss == pytest.approx(best.log_loss + score.behind)
    same, mopps = sorted(others, key=lambda score: score.model == "mopps") if best.model == "dps" else others
    assert mopps.behind_interval == same.behind_interval


def test_mean_interval_covers_the_mean_of_rows_that_come_in_units():
    rng = np.random.default_rng(1)
    hits = alone = 0
    for seed in range(80):
        size = rng.integers(1, 20, 100)
        unit = np.repeat(np.arange(100), size)
        values = (rng.standard_normal(100)[unit] + rng.standard_normal(len(unit)))[:, None]
        for name, units in (("units", unit), ("rows", np.arange(len(unit)))):
            (low,), (high,) = mean_interval(values, units, draws=300, seed=seed)
            if name == "units":
                hits += low < 0 < high
            else:
                alone += low < 0 < high
    assert 70 <= hits <= 80  # nominal 76
    assert alone < 56  # rows alike are not so many independent ones


def test_mean_interval_draws_many_units_in_blocks():
    rng = np.random.default_rng(2)
    values = rng.standard_normal((20_000, 1)) + 3
    (low,), (high,) = mean_interval(values, np.arange(20_000))
    half = 1.96 / np.sqrt(20_000)
    assert low == pytest.approx(values.mean() - half, abs=0.2 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.2 * half)


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ([DPS()], r"models is a list: give each a name, as in \{'dps': DPS\(\)"),
        (DPS(), "models is a DPS: give each a name"),
        ({}, "no models to compare"),
        ({"dps": DPS}, r"DPS is a class: give a model made of it, DPS\(\)"),
        ({"hmm": DiscreteHMM}, r"DiscreteHMM is a class: give a model made of it"),
        ({"a": 3}, "3 is no dynamics model"),
    ],
)
def test_what_cannot_be_compared_is_named(history, models, message):
    with pytest.raises(InputError, match=message):
        promptdyn.compare(models, history, fit_steps=20)


def test_bad_fit_steps_are_named(history):
    for fit_steps in (-1, 40, 99):
        with pytest.raises(InputError, match=rf"fit_steps={fit_steps} leaves nothing to score.*40 steps"):
            promptdyn.compare({"dps": DPS()}, history, fit_steps=fit_steps)
    with pytest.raises(InputError, match="no rows to be fitted on"):
        promptdyn.compare({"hmm": DiscreteHMM()}, history, fit_steps=0)


def test_a_comparison_without_rows_to_fit_on_says_so():
    history = RewardHistory.from_columns(
        [0, 1, 2], ["a", "b", "a"], num_successes=[1, 2, 3], num_rollouts=[4] * 3, trained=[False, True, True]
    )
    for fit_steps in (0, 1):
        with pytest.raises(InputError, match=rf"'hmm' has no rows .*fit_steps={fit_steps} .*observed='trained'"):
            promptdyn.compare({"hmm": promptdyn.models.DiscreteHMM()}, history, fit_steps)


def test_a_fit_is_not_ranked_on_steps_that_it_saw(history, tmp_path):
    hmm = DiscreteHMM(num_states=3)
    fit = promptdyn.fit(hmm, history.before(20), observed="trained")
    assert (fit.num_observed, fit.steps.tolist()) == (int(history.trained[history.step < 20].sum()), list(range(20)))
    fit.save(tmp_path / "fit.npz")
    for seen in (fit, promptdyn.Fit.load(tmp_path / "fit.npz")):
        with pytest.raises(InputError, match=r"'hmm' was made on 8 of the 28 steps .*\(12 to 19\).*\(fit_steps=20\)"):
            promptdyn.compare({"hmm": seen}, history, fit_steps=12)
        promptdyn.compare({"hmm": seen}, history, fit_steps=20)
        # The rows that it saw are known again among others, in another order, in part, and with other labels.
        order = np.random.default_rng(0).permutation(len(history))
        table = {name: getattr(history, name)[order] for name in ("step", "num_rollouts", "num_successes", "trained")}
        shuffled = RewardHistory.from_columns(prompt_id=history.prompt_ids[history.prompt][order], **table)
        assert seen.was_fitted_on(shuffled).tolist() == [True] * 20 + [False] * 20
        assert seen.was_fitted_on(history.select(history.step >= 15)).tolist() == [True] * 5 + [False] * 20
    whole = promptdyn.fit(hmm, history)
    with pytest.raises(
        InputError, match=r"28 of the 28 steps .* fit on the first 12 steps alone .*, or have it scored"
    ):
        promptdyn.compare({"hmm": whole}, history, fit_steps=12)


def test_a_fit_of_another_run_has_not_seen_this_one(history):
    fit = promptdyn.fit(DiscreteHMM(num_states=3), history)
    n, k = history.num_rollouts, history.num_successes
    ids = history.prompt_ids[history.prompt]
    other = RewardHistory.from_columns(
        history.step, ids, num_successes=np.random.default_rng(1).binomial(8, k / n), num_rollouts=n
    )
    assert not fit.was_fitted_on(other).any()
    promptdyn.compare({"hmm": fit}, other, fit_steps=20)
    # Nor has one that was made by hand seen any.
    assert not promptdyn.Fit(fit.model, fit.params, fit.cluster_names).was_fitted_on(history).any()


def test_a_fit_that_saw_what_it_is_scored_on_is_not_called_best(history):
    fit = promptdyn.fit(DiscreteHMM(num_states=5, cluster="half"), history)
    models: dict[str, Any] = {"seen": fit, "hmm": DiscreteHMM(num_states=5, cluster="half")}
    comparison = promptdyn.compare(models, history, fit_steps=20, allow_seen=True)
    scores = {score.model: score for score in comparison.scores}
    assert (scores["seen"].steps_seen, scores["hmm"].steps_seen) == (20, 0)
    assert scores["hmm"].behind == 0.0
    assert scores["seen"].behind == pytest.approx(scores["seen"].log_loss - scores["hmm"].log_loss)
    assert comparison.best is comparison.models["hmm"]
    words = comparison.verdict
    assert words.startswith("Fitted on steps that are scored here, so that its score is no forecast's: seen (20 of")
    assert "hmm forecast best which groups would teach" in words
    assert "seen (saw these steps)" in [row["model"] for row in comparison.table()]
    alone = promptdyn.compare({"seen": fit}, history, fit_steps=20, allow_seen=True)
    with pytest.raises(InputError, match="no model is best"):
        _ = alone.best


def test_a_fit_that_does_not_say_what_it_saw_is_told_of(history):
    fit = promptdyn.fit(DiscreteHMM(num_states=3), history.before(20))
    values, arrays = fit.state()
    old = promptdyn.Fit.from_state(
        values, {name: array for name, array in arrays.items() if name not in ("steps", "marks")}, DiscreteHMM
    )
    with pytest.warns(PromptdynWarning, match="an earlier version saved this fit without the steps"):
        assert promptdyn.compare({"old": old}, history, fit_steps=20).scores[0].steps_seen == 0


def test_best_is_not_said_of_a_model_that_knows_no_more_than_the_base_rate():
    rng = np.random.default_rng(0)
    step, prompt = (grid.ravel() for grid in np.meshgrid(np.arange(40), np.arange(60), indexing="ij"))
    noise = RewardHistory.from_columns(
        step, prompt, num_successes=rng.choice([0, 8, 4], len(step)), num_rollouts=np.full(len(step), 8)
    )
    comparison = promptdyn.compare({"dps": DPS(), "mopps": BetaBernoulli()}, noise, 20, observed="all")
    share = comparison.informative.mean()
    assert comparison.base_log_loss == pytest.approx(-(share * np.log(share) + (1 - share) * np.log(1 - share)))
    for score in comparison.scores:
        assert score.ahead == pytest.approx(comparison.base_log_loss - score.log_loss)
        assert score.ahead < 0
        assert score.ahead_interval[0] < score.ahead < score.ahead_interval[1]
    words = comparison.verdict
    assert "forecast best" not in words
    assert f"{share:.0%} for every group has log loss {comparison.base_log_loss:.3f}" in words
    assert next(row["model"] for row in comparison.table()) == f"base rate ({share:.0%})"
    with pytest.raises(InputError, match=r"no model is best.*Take one by its name"):
        _ = comparison.best


def test_where_every_group_taught_there_was_nothing_to_forecast():
    step, prompt = (grid.ravel() for grid in np.meshgrid(np.arange(10), np.arange(6), indexing="ij"))
    history = RewardHistory.from_columns(step, prompt, num_successes=1 + prompt, num_rollouts=np.full(60, 8))
    comparison = promptdyn.compare({"dps": DPS()}, history, 5)
    assert comparison.verdict == "Every group that was scored taught: there was nothing to forecast."
    assert comparison.table()[1]["AUROC"] == "–"
