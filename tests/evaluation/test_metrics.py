"""Scores against scikit-learn, and intervals of means."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from promptdyn.evaluation import (
    auroc,
    brier,
    calibration_error,
    log_loss,
    mean_interval,
    precision_at,
    reliability,
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
