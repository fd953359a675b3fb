"""Online logistic regression against direct computations in the space of the weights."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from promptdyn.online.regression import absorb, draw_weights, drift, probit

SIZE, EVENTS = 5, 40


def problem():
    rng = np.random.default_rng(3)
    root = rng.normal(size=(SIZE, SIZE))
    inputs = rng.normal(size=(SIZE, EVENTS))
    events = (rng.random(EVENTS) < expit(inputs[0] - 0.5)).astype(float)
    return rng.normal(size=SIZE), root @ root.T + np.eye(SIZE), inputs, events


def test_events_are_absorbed_as_by_newton_on_the_log_posterior():
    mean, covariance, inputs, events = problem()
    precision = np.linalg.inv(covariance)

    def loss(weights):
        logit = weights @ inputs
        away = weights - mean
        slope = precision @ away + inputs @ (expit(logit) - events)
        return 0.5 * away @ precision @ away + np.logaddexp(0.0, logit).sum() - logit @ events, slope

    mode = minimize(loss, mean, jac=True, method="BFGS", options={"gtol": 1e-9}).x
    chance = expit(mode @ inputs)
    curvature = precision + (inputs * chance * (1 - chance)) @ inputs.T
    found, spread = mean.copy(), covariance.copy()
    absorb(found, spread, inputs, events)
    np.testing.assert_allclose(found, mode, rtol=1e-5)
    np.testing.assert_allclose(spread, np.linalg.inv(curvature), rtol=1e-4)


def test_no_event_changes_nothing():
    mean, covariance, inputs, events = problem()
    found, spread = mean.copy(), covariance.copy()
    absorb(found, spread, inputs[:, :0], events[:0])
    assert (found == mean).all()
    assert (spread == covariance).all()


def test_weights_drift_about_the_prior_and_end_there():
    prior_mean, prior_variance = np.arange(5, dtype=np.float64), np.arange(1, 6, dtype=np.float64)
    mean, covariance, *_ = problem()
    start, spread = mean.copy(), covariance.copy()
    drift(mean, covariance, prior_mean, prior_variance, 0.81)
    np.testing.assert_allclose(mean, prior_mean + 0.9 * (start - prior_mean))
    np.testing.assert_allclose(covariance, 0.81 * spread + 0.19 * np.diag(prior_variance))
    for _ in range(400):
        drift(mean, covariance, prior_mean, prior_variance, 0.81)
    np.testing.assert_allclose(mean, prior_mean, atol=1e-9)
    np.testing.assert_allclose(covariance, np.diag(prior_variance), atol=1e-9)


def test_draws_have_the_posteriors_moments():
    mean, covariance, *_ = problem()
    rng = np.random.default_rng(0)
    draws = np.array([draw_weights(np.stack([mean, -mean]), np.stack([covariance] * 2), rng) for _ in range(40_000)])
    np.testing.assert_allclose(draws.mean(axis=0), np.stack([mean, -mean]), atol=0.08)
    np.testing.assert_allclose(np.cov(draws[:, 1].T), covariance, atol=0.05 * np.abs(covariance).max())


@pytest.mark.parametrize("variance", [0.01, 1.0, 9.0])
def test_probit_is_near_the_mean_chance(variance):
    draws = np.random.default_rng(1).standard_normal(200_000) * np.sqrt(variance)
    for logit in (-3.0, 0.0, 1.5):
        assert probit(np.array(logit), np.array(variance)) == pytest.approx(expit(logit + draws).mean(), abs=0.02)
