"""Forecast scores on a real reward history against known baseline scores (docs/data/README.md)."""

from pathlib import Path

import pytest

import promptdyn
from promptdyn.models import MODELS

HISTORY = Path(__file__).parents[1] / "docs" / "data" / "arithmetic_grpo_history.parquet"
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
