"""BetaState: its kernels against matrix exponentials, its grid against integrals over continuous success rates."""

from typing import Any

import numpy as np
import pytest
from scipy.linalg import expm
from scipy.special import digamma, expit, polygamma
from scipy.stats import binom, norm

import promptdyn
from promptdyn.errors import InputError
from promptdyn.history import RewardHistory
from promptdyn.models import MODELS, BetaState, Pool
from promptdyn.models.base import cluster_of, for_pool
from promptdyn.models.checks import check_dynamics
from promptdyn.online import DiscountedBeta, FrozenChain, OnlineFilter
from promptdyn.online.beta import _beta_of as moment_betas
from promptdyn.ppl import chain_at

POOL = Pool(np.zeros(3, np.int32), ("all",))
STILL = -40.0
PLAIN: dict[str, Any] = {
    **{"level": [0.5], "log_spread_by_cluster": [0.0], "log_spread": 0.2, "drift_by_cluster": [0.0], "jump": STILL},
    **{"idle_rate": STILL, "idle_rate_far": 0.0, "idle_rate_tilt": 0.0},
    **{"idle_drift": 0.0, "idle_drift_tilt": 0.0, "idle_drift_side": 0.0},
    **{f"{when}_{part}": 0.0 for when in ("partly", "settled") for part in ("drift", "drift_tilt")},
    **{"partly_rate": STILL, "settled_rate": STILL},
}
GRID = np.linspace(-7.0, 7.0, 25)
STEP = GRID[1] - GRID[0]


def test_moves_are_exponentials_of_the_generator():
    params: dict[str, Any] = {
        **PLAIN,
        **{"idle_rate": -0.5, "idle_rate_far": -0.7, "idle_rate_tilt": 0.4},
        **{"idle_drift": 0.2, "idle_drift_tilt": -0.6, "idle_drift_side": 0.3, "drift_by_cluster": [0.4]},
        **{"partly_rate": 0.1, "partly_drift": 1.5, "partly_drift_tilt": 0.3},
        **{"settled_rate": -1.0, "settled_drift": -0.5, "settled_drift_tilt": 0.8, "jump": -2.0},
    }

    def moves(log_rate, log_odds):
        generator = np.zeros((25, 25))
        for i in range(25):
            for j, sign in ((i + 1, 0.5), (i - 1, -0.5)):
                if 0 <= j < 25:
                    rate = np.exp(log_rate[i] + sign * log_odds[i])
                    generator[i, j] = rate / (1 + rate / 3.0)
        return expm(generator - np.diag(generator.sum(axis=1)))

    chain = chain_at(BetaState(num_speeds=1, cluster=None), params, POOL)
    x = GRID
    idle = moves(-0.5 - 0.7 * np.abs(x) / 3 + 0.4 * x / 3, 0.2 + 0.4 - 0.6 * x / 3 + 0.3 * np.tanh(x))
    jump = expit(-2.0)
    idle = (1 - jump) * idle + jump * chain.initial
    partly = moves(np.full(25, 0.1), 1.5 + 0.4 + 0.3 * x / 3) @ idle
    settled = moves(np.full(25, -1.0), -0.5 + 0.8 * x / 3) @ idle
    # (I + Q / 64)^64 is the exponential to first order in Q / 64.
    np.testing.assert_allclose(chain.transition[:, 0], [idle, partly, settled], atol=0.01)
    np.testing.assert_allclose(chain.transition.sum(axis=-1), 1.0, atol=1e-12)


def filtering(model, params):
    chain = chain_at(model, params, POOL)
    return OnlineFilter(FrozenChain("beta", chain.initial, chain.transition, chain.emission.log_prob), ["p"])


def evidence(model, params, seen, trained):
    """log P(successes of 8 at some steps) of one prompt."""
    online = filtering(model, params)
    total = 0.0
    for step in range(max(seen) + 1):
        k = [seen[step]] if step in seen else []
        n, flags, rows = np.full(len(k), 8), np.full(len(k), trained), np.arange(len(k))
        total += online.model.absorb(online._state, rows, np.array(k, int), n, flags).sum()
    return total


def test_speeds_that_never_switch_are_a_mixture_of_plain_models():
    several = {
        **{**PLAIN, "idle_rate": -2.0, "fast": 0.4, "fast_by_cluster": [0.3], "switch": [STILL, STILL]},
        **{"partly_rate": -1.0, "partly_rate_speed": 0.5, "settled_rate": -2.0, "settled_rate_speed": -0.2},
    }
    seen = {0: 3, 4: 8, 5: 0, 9: 7}
    parts = []
    for speed in np.log([0.1, 8.0]):
        own = {name: value for name, value in several.items() if "fast" not in name and name != "switch"}
        own["idle_rate"] = -2.0 + speed
        own["partly_rate"], own["settled_rate"] = -1.0 + 0.5 * speed, -2.0 - 0.2 * speed
        parts.append(evidence(BetaState(num_speeds=1, cluster=None), own, seen, trained=True))
    fast = expit(0.7)
    expected = np.logaddexp(np.log1p(-fast) + parts[0], np.log(fast) + parts[1])
    assert evidence(BetaState(cluster=None), several, seen, trained=True) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("variance", [0.0, 0.3])
def test_the_grid_integrates_over_continuous_success_rates(variance):
    """Two groups of a prompt, four idle steps apart: against quadrature over where its logit was and went."""
    fine = np.linspace(-7.0, 7.0, 1401)
    width = fine[1] - fine[0]
    density = 0.99 * norm.pdf(fine, 0.5, np.exp(0.2)) + 0.01 / (14.0 + STEP)
    first = density * binom.pmf(2, 8, expit(fine))
    if variance:
        # Reflected at the ends, as the grid's walk is.
        spread = np.sqrt(4 * variance)
        to = sum(
            norm.pdf(fine[None], image, spread) for image in (fine[:, None], 14 - fine[:, None], -14 - fine[:, None])
        )
        first = first @ to * width
    expected = np.log((first * binom.pmf(6, 8, expit(fine))).sum() * width)

    moves = variance / (2 * STEP**2)
    rate = np.log(moves / (1 - moves / 3)) if variance else STILL
    for num_states, tolerance in ((25, 0.02), (97, 0.003)):
        model = BetaState(num_states=num_states, num_speeds=1, cluster=None)
        found = evidence(model, {**PLAIN, "idle_rate": rate}, {0: 2, 4: 6}, trained=False)
        assert found == pytest.approx(expected, abs=tolerance)


def test_drift_is_the_same_on_every_grid():
    rates = []
    for num_states in (25, 49, 97):
        params = {**PLAIN, "level": [-1.0], "idle_rate": -1.5, "idle_drift": 0.6}
        online = filtering(BetaState(num_states=num_states, num_speeds=1, cluster=None), params)
        for _ in range(10):
            online.step([], [], [])
        rates.append(online.success_rate()[0])
    assert rates[0] > 0.42  # from 0.33
    np.testing.assert_allclose(rates, rates[-1], atol=0.02)


def clustered_history(num_prompts, columns):
    prompt = np.tile(np.arange(num_prompts), 2)
    return RewardHistory.from_columns(
        np.repeat([0, 1], num_prompts),
        [f"p{i}" for i in prompt],
        num_successes=prompt % 9,
        num_rollouts=np.full(len(prompt), 8),
        columns={name: [str(label(i)) for i in prompt] for name, label in columns.items()},
    )


def test_clusters_are_taken_from_the_history():
    history = clustered_history(64, {"task": lambda i: i % 3, "level": lambda i: i // 32, "seed": lambda i: i})
    assert for_pool(BetaState(), history.prompts).cluster == ("task", "level")
    few = clustered_history(32, {"task": lambda i: i % 3, "level": lambda i: i % 2})
    assert for_pool(BetaState(), few.prompts).cluster == ("level",)
    assert for_pool(BetaState(), clustered_history(64, {}).prompts).cluster is None
    assert for_pool(BetaState(cluster="seed"), history.prompts).cluster == "seed"


def test_a_fit_is_saved_loaded_and_filtered(tmp_path):
    history = clustered_history(64, {"task": lambda i: i % 3})
    model = check_dynamics(MODELS.parse_one("beta:num_states=5,num_speeds=1"))
    fit = promptdyn.fit(model, history)
    assert fit.method["name"] == "map"
    assert fit.cluster == ("task",)
    fit.save(tmp_path / "fit.npz")
    loaded = promptdyn.Fit.load(tmp_path / "fit.npz")
    assert loaded.model == fit.model
    before, after = (each.online(history.prompts) for each in (fit, loaded))
    for online in (before, after):
        online.step(["p1", "p7"], [3, 8], 8)
    np.testing.assert_array_equal(after.informative(8), before.informative(8))
    fast = loaded.online(history.prompts, exact=False)
    assert fast.informative(8).shape == (64,)
    with pytest.raises(InputError, match="num_samples=2 with exact=False"):
        loaded.online(history.prompts, num_samples=2, exact=False)
    assert cluster_of(check_dynamics(MODELS.parse_one("beta:cluster=task+difficulty"))) == ("task", "difficulty")
    assert cluster_of(check_dynamics(MODELS.parse_one("beta:cluster=none"))) is None


def test_betas_have_the_moments_that_they_are_made_of():
    rng = np.random.default_rng(0)
    mean, variance = rng.uniform(-7, 7, 500), np.exp(rng.uniform(-6, 3, 500))
    alpha, beta = moment_betas(mean, variance)
    np.testing.assert_allclose(digamma(alpha) - digamma(beta), mean, atol=0.01)
    np.testing.assert_allclose(polygamma(1, alpha) + polygamma(1, beta), variance, rtol=0.01)


def test_the_discounted_filter_absorbs_counts_exactly():
    """Where nothing moves it is the conjugate update, group after group."""
    model = BetaState(num_states=97, num_speeds=1, cluster=None)
    chain = chain_at(model, PLAIN, POOL)
    online = OnlineFilter(
        DiscountedBeta(FrozenChain("beta", chain.initial, chain.transition, chain.emission.log_prob)), ["p"]
    )
    alpha, beta = moment_betas(online._state.mean, online._state.variance)
    for k in (3, 8, 5, 0):
        online.step(["p"], [k], 8)
    np.testing.assert_allclose(online.success_rate(), (alpha + 16) / (alpha + beta + 32), rtol=1e-3)


def test_the_discounted_filter_agrees_with_the_exact_one():
    params: dict[str, Any] = {
        **PLAIN,
        **{"level": [-1.0], "log_spread": 0.4, "idle_rate": -2.0, "idle_drift": 0.1},
        **{"partly_rate": -1.0, "partly_drift": 1.0, "settled_rate": -2.5},
    }
    num_prompts, num_steps = 300, 40
    chain = chain_at(BetaState(num_speeds=1, cluster=None), params, POOL)
    exact = FrozenChain("beta", chain.initial, chain.transition, chain.emission.log_prob)
    ids = [f"p{i}" for i in range(num_prompts)]
    filters = OnlineFilter(exact, ids), OnlineFilter(DiscountedBeta(exact), ids)
    rng = np.random.default_rng(1)
    state = rng.choice(25, num_prompts, p=chain.initial[0])
    for _ in range(num_steps):
        rows = np.flatnonzero(rng.random(num_prompts) < 0.3)
        k = rng.binomial(8, exact.rates[state[rows]])
        for online in filters:
            online.step([ids[row] for row in rows], k, 8)
        exposure = np.zeros(num_prompts, int)
        exposure[rows] = np.where((k > 0) & (k < 8), 1, 2)
        state = np.array([rng.choice(25, p=chain.transition[e, 0, z]) for e, z in zip(exposure, state, strict=True)])
    (informative, rates), (near, rates_near) = ((each.informative(8), each.success_rate()) for each in filters)
    assert np.abs(near - informative).mean() < 0.02
    assert np.abs(near - informative).max() < 0.15
    assert np.abs(rates_near - rates).mean() < 0.01
    assert np.corrcoef(near, informative)[0, 1] > 0.99
    assert filters[1].nbytes < filters[0].nbytes / 10
    saved = filters[1].state_dict()
    again = OnlineFilter(DiscountedBeta(exact), ids)
    again.load_state_dict(saved)
    np.testing.assert_array_equal(again.outcome(8), filters[1].outcome(8))
    with pytest.raises(InputError, match="saved by model"):
        filters[0].load_state_dict(saved)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_states": 2}, "num_states=2 must be a whole number, at least 3"),
        ({"num_states": 9.0}, "num_states=9.0 must be a whole number"),
        ({"num_speeds": 0}, "num_speeds=0 must be a whole number, at least 1"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        BetaState(**settings)


@pytest.mark.long
def test_forecasts_of_the_shared_history():
    history = promptdyn.read_history("docs/data/arithmetic_grpo_history.parquet")
    score = promptdyn.compare({"beta": BetaState()}, history, fit_steps=120).scores[0]
    assert score.log_loss <= 0.2985
    assert score.auroc >= 0.878
    assert score.precision >= 0.663
    assert score.calibration_error <= 0.022
