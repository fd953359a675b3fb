"""Online models pooled over clusters, against their formulas written out prompt by prompt."""

import numpy as np
import pytest

from promptdyn.models import DPS, BetaBernoulli, InformativeRate
from promptdyn.prompts import Prompts

IDS = [f"p{i}" for i in range(9)]
LABELS = [f"c{i % 3}" for i in range(9)]


def steps(num_steps=40, seed=0):
    """(prompt -> successes of 8) of each step; none in some."""
    rng = np.random.default_rng(seed)
    return [
        {int(i): int(rng.choice([0, 3, 8])) for i in rng.choice(9, rng.integers(0, 4), replace=False)}
        for _ in range(num_steps)
    ]


def filtered(model, observed):
    online = model.online(Prompts(IDS, {"family": LABELS}))
    for groups in observed:
        online.step([IDS[i] for i in groups], list(groups.values()), 8)
    return online


def test_rate_counts_the_outcomes_of_a_cluster():
    online = filtered(InformativeRate(cluster="family", decay=0.9, prior=2.0), steps())
    for i in range(9):
        counts, solved = np.array([0.5, 1.0, 0.5]), 1.0
        for age, groups in enumerate(reversed(steps())):
            for j, k in groups.items():
                if j % 3 == i % 3:
                    counts[(k > 0) + (k == 8)] += 0.9**age
                    solved += 0.9**age * k / 8
        np.testing.assert_allclose(online.outcome(8)[i], counts / counts.sum())
        assert online.success_rate()[i] == pytest.approx(solved / counts.sum())


def test_pooled_beta_takes_its_prior_from_the_cluster():
    model = BetaBernoulli(0.8, 0.5, 1.5, cluster="family", strength=3.0, cluster_decay=0.9, step_decay=0.95)
    online = filtered(model, steps())
    own, cluster = np.zeros((9, 2)), np.zeros((3, 2))
    for groups in steps():
        own, cluster = 0.95 * own, 0.9 * cluster
        for i, k in groups.items():
            # What is kept at a new sighting was decayed up to the step before.
            own[i] = 0.8 * own[i] / 0.95 + [k, 8 - k]
            cluster[i % 3] += [k, 8 - k]
    cluster += np.array([0.5, 1.5])
    mean = cluster / cluster.sum(axis=1, keepdims=True)
    expected = 3.0 * mean[np.arange(9) % 3] + own
    np.testing.assert_allclose(np.transpose(online.model.betas(online._state)), expected)


def test_pooled_dps_shrinks_transitions_to_the_cluster():
    prior = np.array([[1.0, 1.0, 0.5], [0.5, 1.0, 1.0], [1.0, 0.2, 1.0]])  # [current, next]
    online = filtered(DPS(0.7, prior, cluster="family", strength=3.0, cluster_decay=0.9), steps())
    learned, cluster = np.zeros((9, 3, 3)), np.zeros((3, 3, 3))
    posterior = belief = np.full((9, 3), 1 / 3)

    def rows(i):
        mean = prior + cluster[i % 3]
        alpha = 3.0 * mean / mean.sum(axis=1, keepdims=True) + learned[i]
        return alpha / alpha.sum(axis=1, keepdims=True)

    for groups in steps():
        before, posterior = posterior, belief.copy()
        moves = {}
        for i, k in groups.items():
            now = np.eye(3)[(k > 0) + (k == 8)]
            xi = before[i][:, None] * rows(i) * now
            moves[i], posterior[i] = xi / xi.sum(), now
        learned, cluster = 0.7 * learned, 0.9 * cluster
        for i, xi in moves.items():
            learned[i] += xi
            cluster[i % 3] += xi
        belief = np.array([posterior[i] @ rows(i) for i in range(9)])
    np.testing.assert_allclose(online.belief, belief)


@pytest.mark.parametrize("make", [BetaBernoulli, DPS])
def test_between_a_prompt_of_its_own_and_its_cluster(make):
    """Much strength: every prompt of a cluster forecasts alike, at last. Little: as its own counts say."""
    observed = steps()
    weak, strong = (filtered(make(cluster="family", strength=strength), observed) for strength in (1e-9, 1e9))
    rate = strong.success_rate()
    if make is BetaBernoulli:
        np.testing.assert_allclose(rate, rate[np.arange(9) % 3])
        assert weak.success_rate()[4] == pytest.approx(np.mean([groups[4] / 8 for groups in observed if 4 in groups]))
    assert np.ptp(weak.success_rate()) > np.ptp(rate)


@pytest.mark.parametrize(
    "model", [BetaBernoulli(cluster="family"), InformativeRate(cluster="family"), DPS(cluster="family")]
)
def test_prompts_never_seen_forecast_as_their_cluster_does(model):
    online = model.online(Prompts(IDS, {"family": LABELS}))
    for _ in range(30):
        online.step(["p0", "p1", "p2"], [0, 4, 8], 8)
    none, some, every = online.outcome(8)[3:6]
    assert none[0] > 0.6
    assert some[1] > 0.6
    assert every[2] > 0.6
    online.add(Prompts(["late", "other"], {"family": ["c1", "c9"]}))
    assert online.informative(8)[-2:].argmax() == 0
    online.step(["other"], [0], 8)
    assert online.num_prompts == 11
