"""HierarchicalHMM: its M-step against quadrature and gradients, what it recovers, and latent kinds as a mixture."""

from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit, logsumexp
from scipy.stats import binom, norm

import promptdyn
from promptdyn.errors import InputError
from promptdyn.history import RewardHistory
from promptdyn.inference.densities import load_density
from promptdyn.models import DiscreteHMM, HierarchicalHMM, Pool
from promptdyn.models.discrete_hmm import sticky_walk
from promptdyn.models.hierarchical_hmm import SCALE, _empirical_bayes
from promptdyn.online import FrozenChain
from promptdyn.ppl import chain_at
from promptdyn.prompts import Prompts

RATES = np.array([0.03, 0.5, 0.97])


def simulate(pool_initial, transitions, groups, num_steps, seed, share=0.5):
    """Groups of 8 of each prompt with the transition (exposure state state) of its group, each trained on if seen."""
    rng = np.random.default_rng(seed)
    num_prompts, num_states = len(groups), len(pool_initial)
    state = rng.choice(num_states, num_prompts, p=pool_initial)
    step, prompt, successes = [], [], []
    for t in range(num_steps):
        seen = rng.random(num_prompts) < share if t else np.ones(num_prompts, bool)
        k = rng.binomial(8, RATES[state])
        step += [t] * seen.sum()
        prompt += list(np.flatnonzero(seen))
        successes += list(k[seen])
        exposure = np.where(seen, np.where((k > 0) & (k < 8), 1, 2), 0)
        rows = transitions[groups, exposure, state]
        state = (rng.random(num_prompts)[:, None] > rows.cumsum(axis=1)).sum(axis=1)
    return RewardHistory.from_columns(
        step,
        [f"p{i}" for i in prompt],
        num_successes=successes,
        num_rollouts=np.full(len(step), 8),
        columns={"family": [f"c{groups[i]:02}" for i in prompt]},
    )


def tilted(scale, num_groups, seed):
    """(group exposure state state): sticky rows, tilted by offsets of the scale."""
    rng = np.random.default_rng(seed)
    x = np.log(sticky_walk(3, 0.85)) + scale * rng.standard_normal((num_groups, 3, 3, 3))
    odds = np.exp(x)
    return odds / odds.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize(
    ("scale", "low", "high"), [pytest.param(0.0, 0.0, 0.1, marks=pytest.mark.long), (1.0, 0.6, 1.2)]
)
def test_the_scale_between_clusters_is_recovered_by_em_and_not_by_the_joint_mode(scale, low, high):
    groups = np.repeat(np.arange(12), 20)
    history = simulate(np.ones(3) / 3, tilted(scale, 12, 0), groups, 30, seed=1)
    fit = promptdyn.fit(HierarchicalHMM(num_states=3), history)
    assert fit.cluster == ("family",)
    assert fit.converged, fit.verdict
    assert low <= fit.params["scale"] <= high
    mode = promptdyn.fit(HierarchicalHMM(num_states=3), history, "map")
    assert mode.params["scale"] > 2.0


@pytest.mark.long
def test_pooling_forecasts_sparse_clusters_better_than_none_and_than_one_set_for_all():
    groups = np.repeat(np.arange(12), 20)
    truth = tilted(1.0, 12, 3)
    history, later = (simulate(np.ones(3) / 3, truth, groups, steps, seed) for steps, seed in ((6, 5), (30, 6)))
    models = {
        "pooled": HierarchicalHMM(num_states=3, cluster="family"),
        "own": DiscreteHMM(num_states=3, cluster="family"),
        "one": DiscreteHMM(num_states=3),
    }
    scores = {}
    for name, model in models.items():
        fit = promptdyn.fit(model, history)
        dense = later.dense(model.cluster)
        scores[name] = load_density("numpyro")(model, dense).log_marginals(fit.params).sum()
    assert scores["pooled"] > scores["own"] + 20
    assert scores["pooled"] > scores["one"] + 20


def test_the_m_step_is_stationary_in_offsets_and_pool():
    """Given the scale it stands where the program's own expected log joint has no slope."""
    groups = np.repeat(np.arange(4), 10)
    history = simulate(np.ones(3) / 3, tilted(1.0, 4, 7), groups, 12, seed=8)
    model = HierarchicalHMM(num_states=3, cluster="family")
    density = load_density("numpyro")(model, history.dense("family"))
    params = density.program.start
    statistics, _, _ = density.expected(params)
    for _ in range(300):
        params = {**params, **model.m_step(statistics, params)}
    values = density.unconstrain(params)
    _, slopes = density.expected_joint(values, {}, statistics)
    for name in ("offset", "offset_initial", "pool_transition", "pool_initial"):
        np.testing.assert_allclose(slopes[name], 0.0, atol=2e-3)


def test_the_scale_maximises_the_marginal_likelihood():
    """Rows of two states: offsets integrated by quadrature."""
    rng = np.random.default_rng(0)
    total = rng.integers(10, 60, 40)
    counts = rng.binomial(total, expit(0.3 + 0.7 * np.sqrt(2) * rng.standard_normal(40)))
    weight = np.array([1.0, 1.0])
    pool, scale = np.array([0.5, 0.5]), np.asarray(0.5)
    offset = np.zeros((40, 2))
    groups = np.stack([counts, total - counts], axis=-1).astype(float)
    for _ in range(200):
        pool, scale, offset = _empirical_bayes(groups, weight, SCALE, pool, scale, offset)

    centre = np.log(pool[0] / pool[1])
    x = np.linspace(-6, 6, 2001)

    def loss(size):
        # A row of two states is one logit, the difference of two offsets.
        density = norm.pdf(x, 0.0, np.sqrt(2) * size) * (x[1] - x[0])
        chances = binom.pmf(counts[:, None], total[:, None], expit(centre + x)) @ density
        return -np.log(chances).sum() + 0.5 * (size / SCALE) ** 2

    best = minimize_scalar(loss, bounds=(0.05, 2.0), method="bounded").x
    assert scale == pytest.approx(best, rel=0.05)


def test_without_differences_the_pool_is_the_closed_form_of_one_chain():
    counts = np.random.default_rng(1).integers(0, 50, (5, 3, 3)).astype(float)
    weight = 10.0 * sticky_walk(3, 0.9)
    pool, _, _ = _empirical_bayes(counts, weight, SCALE, sticky_walk(3, 0.9), np.asarray(1e-9), np.zeros((5, 3, 3)))
    expected = counts.sum(axis=0) + weight
    # The scale moves a little already.
    np.testing.assert_allclose(pool, expected / expected.sum(axis=-1, keepdims=True), atol=0.02)


def test_latent_kinds_are_a_mixture_of_chains():
    model = HierarchicalHMM(num_states=3, num_kinds=2, cluster="family")
    rng = np.random.default_rng(2)
    pool = Pool(np.array([0, 1, 0]), ("a", "b"))
    params: dict[str, Any] = {
        "pool_initial": rng.dirichlet(np.ones(6)),
        "pool_transition": rng.dirichlet(np.ones(3), (3, 3)),
        "offset_initial": rng.standard_normal((2, 6)),
        "offset": rng.standard_normal((3, 2, 3, 3)),
        **{"scale": 0.8, "scale_initial": 0.6, "gaps": np.array([0.1, 0.3, 0.4, 0.2])},
    }
    chain = chain_at(model, params, pool)

    def evidence(initial, transition, emission):
        frozen = FrozenChain("kind", initial, transition, emission)
        state, one = frozen.init(Pool.of_one_cluster(1)), np.zeros(1, np.intp)
        return sum(
            frozen.absorb(state, one, np.array([k]), np.array([8]), np.array([trained]))[0]
            for k, trained in [(0, True), (3, True), (3, False), (8, True), (7, True)]
        )

    for cluster in range(2):
        first = chain.initial[cluster]
        parts = []
        for kind in range(2):
            states = slice(3 * kind, 3 * kind + 3)
            weight = first[states].sum()
            own = chain.transition[:, :, states, states]
            np.testing.assert_allclose(own.sum(axis=-1), 1.0)
            shown = lambda **counts: chain.emission.log_prob(**counts)[:3]  # noqa: E731
            parts.append(np.log(weight) + evidence(first[None, states] / weight, own, shown))
        together = evidence(first[None], chain.transition, chain.emission.log_prob)
        assert together == pytest.approx(logsumexp(parts), rel=1e-10)


@pytest.mark.long
def test_latent_kinds_are_found_and_their_number_shows_in_the_score():
    kinds = np.stack([[sticky_walk(3, 0.98)] * 3, [sticky_walk(3, 0.5)] * 3])
    groups = np.arange(300) % 2
    history, later = (simulate(np.ones(3) / 3, kinds, groups, 30, seed) for seed in (1, 2))
    dense = later.dense()
    scores = []
    for num_kinds in (1, 2):
        model = HierarchicalHMM(num_states=3, num_kinds=num_kinds, cluster=None, num_exposures=1)
        fit = promptdyn.fit(model, history)
        scores.append(load_density("numpyro")(model, dense).log_marginals(fit.params).sum())
    assert scores[1] > scores[0] + 100
    transition = fit.chain.transition[0, 0]
    np.testing.assert_allclose(np.diag(transition)[[0, 2]], 0.98, atol=0.03)
    np.testing.assert_allclose(np.diag(transition)[[3, 5]], 0.5, atol=0.1)
    share = fit.chain.initial[0, :3].sum()
    assert share == pytest.approx(0.5, abs=0.12)
    np.testing.assert_allclose(fit.success_rates, np.tile(RATES, 2), atol=0.02)
    online = fit.online(["a"])
    online.step(["a"], [4], 8)
    np.testing.assert_allclose(online.outcome(8).sum(), 1.0)


def test_a_fit_is_saved_loaded_and_filtered(tmp_path):
    groups = np.repeat(np.arange(3), 10)
    history = simulate(np.ones(3) / 3, tilted(0.5, 3, 0), groups, 5, seed=0)
    fit = promptdyn.fit(HierarchicalHMM(num_states=3), history)
    fit.save(tmp_path / "fit.npz")
    loaded = promptdyn.Fit.load(tmp_path / "fit.npz")
    assert loaded.model == fit.model
    before, after = (each.online(Prompts(["x", "y"], {"family": ["c00", "c02"]})) for each in (fit, loaded))
    np.testing.assert_array_equal(before.informative(8), after.informative(8))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_states": 1}, "num_states=1 must be a whole number, at least 2"),
        ({"num_kinds": 0}, "num_kinds=0 must be a whole number, at least 1"),
        ({"num_exposures": 4}, "num_exposures=4 is none of 1, 2, 3"),
        ({"stickiness": 0.0}, "stickiness=0.0 is outside"),
        ({"concentration": float("nan")}, "concentration=nan must be finite"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        HierarchicalHMM(**settings)
