"""MoPPS: its published update and Thompson rule, and its forecasts against SciPy's beta-binomial."""

import numpy as np
import pytest
from scipy.stats import beta, betabinom

from promptdyn.errors import InputError
from promptdyn.models import BetaBernoulli
from promptdyn.online import BetaForecasts, OnlineFilter
from promptdyn.selection import Selector


def betas_of(online: OnlineFilter) -> tuple[np.ndarray, np.ndarray]:
    """(prompt,) alpha and beta of a filter's beliefs."""
    assert isinstance(online.model, BetaForecasts)
    return online.model.betas(online._state)


@pytest.mark.parametrize("decay", [1.0, 0.9, 0.5])
def test_update_is_the_published_formula_for_the_selected_only(decay):
    online = BetaBernoulli(decay=decay).online(["a", "b"])
    alpha = betas = 1.0
    for k in (3, 8, 0, 5):
        online.step(["a"], [k], [8])
        alpha = decay * alpha + (1 - decay) * 1.0 + k
        betas = decay * betas + (1 - decay) * 1.0 + 8 - k
    np.testing.assert_allclose(np.array(betas_of(online)), np.array([[alpha, 1.0], [betas, 1.0]]))
    assert online.success_rate().tolist() == pytest.approx([alpha / (alpha + betas), 0.5])


def test_forecasts_equal_the_beta_binomial():
    online = BetaBernoulli(prior_alpha=0.7, prior_beta=2.5).online(["a", "b", "c"])
    online.step(["a", "b"], [2, 8], [8, 8])
    a, b = betas_of(online)
    for n in (1, 2, 7, 8, 16, 17, 10**9, np.array([1, 4, 16])):
        none, every = betabinom.pmf(0, n, a, b), betabinom.pmf(n, n, a, b)
        expected = np.stack([none, np.where(np.equal(n, 1), 0.0, 1 - none - every), every], axis=1)
        np.testing.assert_allclose(online.outcome(n), expected, atol=1e-12)
        np.testing.assert_allclose(online.informative(n), expected[:, 1], atol=1e-12)
    bins = np.diff(beta.cdf(np.linspace(0, 1, 11)[:, None], a, b), axis=0).T
    np.testing.assert_allclose(online.belief, bins, atol=1e-12)


def test_thompson_on_informative_takes_the_draws_nearest_to_one_half():
    ids = [str(i) for i in range(200)]
    online = BetaBernoulli().online(ids)
    online.step(ids, np.arange(200) % 9, 8)
    chosen = Selector(online, strategy="thompson", seed=5).select(20)
    draws = np.random.default_rng(5).beta(*betas_of(online))
    nearest = np.argsort((draws - 0.5) ** 2)[:20]
    assert chosen == [ids[i] for i in nearest]


def test_bad_settings_are_named():
    with pytest.raises(InputError, match=r"decay=2"):
        BetaBernoulli(decay=2)
    with pytest.raises(InputError, match=r"prior_beta=0 must be finite and above 0"):
        BetaBernoulli(prior_beta=0)
