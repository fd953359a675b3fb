"""Models compared: on simulated histories, and against known baseline scores on a real one (docs/data/README.md)."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import promptdyn
from promptdyn.errors import InputError, PromptdynWarning
from promptdyn.history import RewardHistory
from promptdyn.models import DPS, MODELS, BetaBernoulli, DiscreteHMM


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
    assert list(told) == ["fitting hmm", "forecasting by dps", "forecasting by mopps", "forecasting by hmm"]
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


HISTORY = Path(__file__).parents[2] / "docs" / "data" / "arithmetic_grpo_history.parquet"
# log loss, Brier, AUROC, precision of the top 48, on steps 120-239
BASELINES = {
    "mopps:decay=1.0": (0.589, 0.177, 0.846, 0.49),
    "mopps:decay=0.9": (0.482, 0.147, 0.869, 0.59),
    "mopps:decay=0.5": (0.533, 0.169, 0.866, 0.63),
    "dps:decay=1.0": (0.357, 0.110, 0.871, 0.62),
    "dps:decay=0.7": (0.506, 0.160, 0.743, 0.50),
    "dps:decay=0.5": (0.512, 0.163, 0.734, 0.50),
}


def scores_of(names):
    history = promptdyn.read_history(HISTORY)
    return {score.model: score for score in promptdyn.compare(MODELS.parse(names), history, fit_steps=120).scores}


@pytest.fixture(scope="module")
def scores():
    return scores_of(",".join(BASELINES))


@pytest.mark.parametrize("name", BASELINES)
def test_dps_and_mopps_reproduce_their_baseline_scores(scores, name):
    loss, brier, auroc, precision = BASELINES[name]
    assert scores[name].log_loss == pytest.approx(loss, abs=0.003)
    assert scores[name].brier == pytest.approx(brier, abs=0.003)
    assert scores[name].auroc == pytest.approx(auroc, abs=0.003)
    assert scores[name].precision == pytest.approx(precision, abs=0.0081)  # given to two digits
    assert scores[name].num_scored == 120 * 400


@pytest.mark.long
def test_a_binomial_hmm_forecasts_better_than_both():
    hmm = scores_of("hmm")["hmm"]
    assert hmm.log_loss <= 0.31
    assert hmm.auroc >= 0.875
    assert hmm.precision >= 0.64
    assert hmm.calibration_error <= 0.02
