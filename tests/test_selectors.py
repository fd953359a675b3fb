"""Published selectors by their formulas, and all selectors by name."""

from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import minimize_scalar
from scipy.special import expit
from scipy.stats import chisquare, norm

import grpo_run
from grpo_run import Grader
from promptdyn.errors import InputError
from promptdyn.models import GRESO, HistoryResampling, LogitKalman
from promptdyn.selection import Selector
from promptdyn.training.recipes import SELECTORS, Recipe, selector_recipe
from promptdyn.training.trl import SelectionGRPOTrainer

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
IDS = [f"p{i}" for i in range(8)]


def test_history_resampling_leaves_out_for_one_pass_what_was_solved():
    selector = Selector(HistoryResampling().online(IDS), policy="top", seed=3)
    solved = {"p1", "p4"}
    passes = []
    for size in (8, 6, 8, 6):
        seen = []
        while len(seen) < size:
            chosen = selector.select(2)
            selector.observe(chosen, [[1, 1] if i in solved else [0, 1] if i < "p6" else [0, 0] for i in chosen])
            seen += chosen
        passes.append(seen)
    for whole in passes[::2]:
        assert sorted(whole) == IDS
    for without in passes[1::2]:
        assert sorted(without) == sorted(set(IDS) - solved)
    everything = HistoryResampling().online(IDS)
    everything.step(IDS, 8, 8)
    assert everything.informative().tolist() == [1.0] * 8  # all solved: none is left out


def test_greso_keeps_by_streak_and_moves_its_chances_towards_their_targets():
    model = GRESO(keep_easy=0.6, keep_hard=0.4, target_easy=0.25, target_hard=0.5, change=0.1)
    online = model.online(IDS)
    assert online.informative().tolist() == [1.0] * 8
    online.step(["p0", "p1", "p2"], [0, 4, 2], 4)
    online.step(["p0", "p1"], [0, 4], 4)
    np.testing.assert_allclose(online.informative()[:4], [0.4**2, 0.6**2, 1, 1])
    # With these four the first pass is over. One of them is easy (at its target: less), none hard (more).
    online.step(["p0", "p1", "p2", "p3"], [1, 4, 3, 2], 4)
    np.testing.assert_allclose(online.informative()[:4], [1, 0.5**3, 1, 1])
    online.step(["p4", "p5"], [0, 0], 4)
    np.testing.assert_allclose(online.informative()[[1, 4]], [0.6**3, 0.4])
    np.testing.assert_allclose(online.outcome(4)[1], [0, 0.6**3, 1 - 0.6**3])
    np.testing.assert_allclose(online.outcome(4)[4], [0.6, 0.4, 0])
    for _ in range(20):
        online.step(["p6"], [0], 4)
    assert online._state.keep.tolist() == [0.05, 0.95]


def test_greso_draws_with_odds_of_the_chance_to_be_kept():
    online = GRESO().online(IDS)
    online.step(IDS[:4], [0, 4, 4, 2], 4)
    online.step(IDS[2:4], [4, 4], 4)
    kept = online.informative()
    recipe = SELECTORS["greso"]
    selector = Selector(online, policy=recipe.policy, seed=1)
    first = np.zeros(8)
    for _ in range(3000):
        first[IDS.index(selector.select(3)[0])] += 1
    assert chisquare(first, 3000 * kept / kept.sum()).pvalue > 1e-3


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
        (GRESO, {"keep_easy": 0.99}, r"GRESO: keep_easy=0.99 is outside \[0.05, 0.95\]"),
        (GRESO, {"change": -0.1}, r"GRESO: change=-0.1 is outside \[0, 1\]"),
        (LogitKalman, {"prior_variance": 0.0}, "prior_variance=0.0 must be finite and above 0"),
        (LogitKalman, {"process_noise": float("nan")}, "process_noise=nan must be finite"),
    ],
)
def test_settings_out_of_range_are_named(model, settings, message):
    with pytest.raises(InputError, match=message):
        model(**settings)


def test_selectors_by_name_with_settings_and_changes():
    assert selector_recipe("auto") == Recipe()
    assert selector_recipe("dps:decay=0.5") == Recipe("dps:decay=0.5", policy="top")
    assert selector_recipe("mopps").score == "half_solved"
    assert selector_recipe("auto", policy="uniform", score=None) == Recipe(policy="uniform")
    assert selector_recipe("hmm:cluster=task", refit_every=20) == Recipe("hmm:cluster=task", refit_every=20)
    assert selector_recipe("mine.py:Mine:rate=2").dynamics == "mine.py:Mine:rate=2"
    assert selector_recipe("run/fit.npz").policy == "proportional"
    with pytest.raises(InputError, match="selector 'uniform:power=2': 'uniform' has no settings"):
        selector_recipe("uniform:power=2")


@pytest.mark.parametrize("name", SELECTORS)
def test_every_selector_trains(tmp_path: Path, name: str) -> None:
    trainer = SelectionGRPOTrainer(
        grpo_run.model(),
        Grader(),
        grpo_run.config(tmp_path, max_steps=3),
        grpo_run.POOL,
        processing_class=grpo_run.tokenizer(),
        selector=name,
    )
    trainer.train()
    assert len(trainer.state.log_history) == 4
    rolled_out = sum(entry.get("selection/groups", 2) for entry in trainer.state.log_history[:-1])
    assert trainer.selector.metrics()["coverage"] > 0
    assert (trainer.dynamic_sampling is not None) == ("dynamic_sampling" in name or name == "greso")
    assert rolled_out >= 6
