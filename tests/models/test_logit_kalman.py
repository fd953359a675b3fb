"""LogitKalman: its step and its forecasts, against an optimizer and integrals."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import minimize_scalar
from scipy.special import expit
from scipy.stats import norm

from promptdyn.errors import InputError
from promptdyn.models import LogitKalman

IDS = [f"p{i}" for i in range(8)]


@pytest.mark.parametrize(("n", "k"), [(8, 3), (8, 0), (1, 1), (1000, 999), (2**31 - 1, 5)])
def test_the_kalman_filter_finds_the_mode_and_its_curvature(n, k):
    model = LogitKalman(prior_variance=2.0, process_noise=0.3)
    online = model.online(["a", "b"])
    online.step(["a"], [k], n, trained=False)
    mean, variance = online._state

    def minus_log_posterior(x):
        return -(k * -np.logaddexp(0, -x) + (n - k) * -np.logaddexp(0, x) - x**2 / 4)

    mode = minimize_scalar(minus_log_posterior, bounds=(-40, 40), method="bounded", options={"xatol": 1e-9}).x
    assert mean[0] == pytest.approx(mode, abs=1e-5)
    p = expit(mode)
    assert variance[0] == pytest.approx(1 / (0.5 + n * p * (1 - p)), rel=1e-4)
    assert (mean[1], variance[1]) == (0, 2.0)  # no group was trained on: nothing walks


def test_the_kalman_filter_walks_by_the_share_of_groups_that_moved_the_policy():
    online = LogitKalman(process_noise=0.4).online(IDS)
    online.step(IDS[:4], [0, 2, 4, 3], 4, trained=[True, True, True, False])
    np.testing.assert_allclose(online._state.variance[4:], 3.3 + 0.4 / 3)
    online.step([], [], [])
    np.testing.assert_allclose(online._state.variance[4:], 3.3 + 0.4 / 3)


def test_the_kalman_filter_forecasts_the_mean_over_its_belief():
    online = LogitKalman().online(IDS)
    online.step(IDS[:3], [0, 3, 8], 8)
    for row in (0, 1, 5):
        mean, variance = online._state.mean[row], online._state.variance[row]

        def expected(f, mean=mean, variance=variance):
            return quad(lambda x: f(expit(x)) * norm.pdf(x, mean, variance**0.5), -15, 15, limit=200)[0]

        exact = [
            expected(lambda p: (1 - p) ** 8),
            expected(lambda p: 1 - p**8 - (1 - p) ** 8),
            expected(lambda p: p**8),
        ]
        np.testing.assert_allclose(online.outcome(8)[row], exact, atol=2e-3)
        assert online.success_rate()[row] == pytest.approx(expected(lambda p: p), abs=1e-3)
        draws = [online.informative(8, np.random.default_rng(seed))[row] for seed in range(4000)]
        assert np.mean(draws) == pytest.approx(exact[1], abs=0.02)


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        (LogitKalman, {"prior_variance": 0.0}, "prior_variance=0.0 must be finite and above 0"),
        (LogitKalman, {"process_noise": float("nan")}, "process_noise=nan must be finite"),
    ],
)
def test_settings_out_of_range_are_named(model, settings, message):
    with pytest.raises(InputError, match=message):
        model(**settings)
