"""FeatureRate: a regression on features of prompts, against a general optimizer."""

from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.metrics import roc_auc_score

import promptdyn
from promptdyn.errors import InputError
from promptdyn.models import DPS, MODELS, FeatureRate
from promptdyn.prompts import Prompts


def a_pool(num_prompts=300, seed=0):
    """Prompts on a plane, informative in a ring."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num_prompts, 2))
    return x, np.where(np.abs(np.hypot(*x.T) - 1.2) < 0.5, 0.9, 0.05)


def test_it_learns_where_groups_are_informative():
    x, chance = a_pool()
    online = FeatureRate(decay=1.0).online(Prompts([str(i) for i in range(len(x))], {"policy": x}))
    rng = np.random.default_rng(1)
    for _ in range(60):
        rows = rng.choice(len(x), 8, replace=False)
        informative = rng.random(8) < chance[rows]
        online.step([str(i) for i in rows], np.where(informative, 4, 0), 8)
    found = online.informative(8)
    assert roc_auc_score(chance > 0.5, found) > 0.8
    assert found[chance > 0.5].mean() > found[chance < 0.5].mean() + 0.2
    # Without an informative group it is unsolved here, never solved.
    assert online.outcome(8)[:, 2].max() < 0.1
    draws = np.stack([online.informative(8, rng) for _ in range(50)])
    assert 0.005 < draws.std(axis=0).mean() < 0.3


def test_a_step_is_laplaces_approximation():
    """Mean and covariance against a general optimizer and the inverse Hessian, from a prior that a step has moved."""
    model = FeatureRate(num_functions=7, decay=0.9)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 3))
    ids = [str(i) for i in range(12)]
    online = model.online(Prompts(ids, {"policy": x}))
    for outcomes in rng.integers(0, 3, (2, 12)):
        before = online._state._replace(mean=online._state.mean.copy(), covariance=online._state.covariance.copy())
        online.step(ids, np.array([0, 4, 8])[outcomes], 8)
        prior = np.diag([4.0] + [1.0] * 7)
        for which, (kept, shown) in enumerate(((outcomes >= 0, outcomes == 1), (outcomes != 1, outcomes == 2))):
            mean = np.sqrt(0.9) * before.mean[which]
            precision = np.linalg.inv(0.9 * before.covariance[which] + 0.1 * prior)
            basis, label = before.basis[:, kept].astype(float), shown[kept]

            def loss(w, mean=mean, precision=precision, basis=basis, label=label):
                logit = w @ basis
                return 0.5 * (w - mean) @ precision @ (w - mean) + np.logaddexp(0.0, logit).sum() - logit[label].sum()

            best = minimize(loss, mean, method="BFGS", options={"gtol": 1e-9}).x
            np.testing.assert_allclose(online._state.mean[which], best, atol=1e-5)
            p = expit(best @ basis)
            hessian = precision + (basis * p * (1 - p)) @ basis.T
            np.testing.assert_allclose(online._state.covariance[which], np.linalg.inv(hessian), atol=1e-5)


def test_an_unobserved_pool_goes_back_to_the_prior():
    x, chance = a_pool(50)
    ids = [str(i) for i in range(50)]
    online = FeatureRate(decay=0.9, num_functions=20).online(Prompts(ids, {"policy": x}))
    online.step(ids, np.where(chance > 0.5, 4, 0), 8)
    assert np.abs(online.informative(8) - 0.5).max() > 0.1
    for _ in range(200):
        online.step([], [], 8)
    np.testing.assert_allclose(online.informative(8), 0.5, atol=1e-3)
    np.testing.assert_allclose(online._state.covariance[0], np.diag([4.0] + [1.0] * 20), atol=1e-6)


def test_saved_without_what_follows_and_loaded_with_who_joined(tmp_path):
    x, _ = a_pool(40)
    ids = [str(i) for i in range(40)]
    model = FeatureRate(num_functions=10)
    selector = promptdyn.Selector(model.online(Prompts(ids[:30], {"policy": x[:30]})), seed=3)
    selector.add(Prompts(ids[30:], {"policy": x[30:]}))
    for _ in range(3):
        chosen = selector.select(6)
        selector.observe(chosen, np.random.default_rng(0).random((6, 8)) < 0.5)
    assert "basis" not in selector.online.state_dict()["arrays"]
    selector.save(tmp_path / "selector.npz")
    again = promptdyn.Selector(model.online(Prompts(ids[:30], {"policy": x[:30]})), seed=9)
    again.load(tmp_path / "selector.npz")
    np.testing.assert_array_equal(again.online.informative(8), selector.online.informative(8))
    assert again.select(5) == selector.select(5)
    other = promptdyn.Selector(model.online(Prompts(ids[:30], {"policy": x[:30, :1]})))
    with pytest.raises(InputError, match="'features' are not one column per prompt"):
        other.load(tmp_path / "selector.npz")


def test_features_may_be_read_anew():
    x, _ = a_pool(40)
    ids = [str(i) for i in range(40)]
    online = FeatureRate(num_functions=10).online(Prompts(ids, {"policy": x}))
    online.step(ids[:20], [4] * 20, 8)
    before = online.informative(8)
    online.refresh(Prompts(ids, {"policy": x[::-1]}))
    np.testing.assert_allclose(online.informative(8), before[::-1], atol=1e-6)
    with pytest.raises(InputError, match="3 features per prompt, where the pool has 2"):
        online.refresh(Prompts(ids, {"policy": np.zeros((40, 3))}))
    with pytest.raises(InputError, match="3 features per prompt, where the pool has 2"):
        online.add(Prompts(["new"], {"policy": np.zeros((1, 3))}))
    assert online.num_prompts == 40


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "'policy' is None: give 2 values, one per prompt"),
        (np.zeros((3, 2)), "'policy' has 3 values for 2 prompts"),
        (np.zeros(2), r"'features', features='policy': features of shape \(2,\) and type float64 for 2 prompts"),
        (np.zeros((2, 0)), r"shape \(2, 0\)"),
        ([["a"], ["b"]], "type <U1"),
        ([[0.0], [np.nan]], "features of prompt 'b' are not all finite"),
    ],
)
def test_bad_features_are_named(given, message):
    with pytest.raises(InputError, match=message):
        FeatureRate().online(Prompts(["a", "b"], {"policy": given}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_functions": 0}, "num_functions=0"),
        ({"scale": 0.0}, "scale=0.0 must be finite"),
        ({"decay": 1.1}, "decay=1.1"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        FeatureRate(**settings)


def test_features_of_columns_are_measured_over_a_whole_pool():
    x = np.arange(4.0)
    model = FeatureRate(features=("length", "kind"), num_functions=5)
    online = model.online(Prompts(list("abcd"), {"length": x, "kind": list("uvuv")}))
    standard = (x - x.mean()) / x.std()
    np.testing.assert_allclose(online._state.features, [standard, [1, -1, 1, -1], [-1, 1, -1, 1]], rtol=1e-6)
    other: dict[str, Any] = {"length": x[:1], "kind": ["u"]}
    for change in (online.add, online.refresh):
        with pytest.raises(
            InputError, match="mean 0 and variance 1 over a whole pool, and cannot be computed for a part"
        ):
            change(Prompts(["a"], other))
    online.refresh(Prompts(list("dcba"), {"length": x, "kind": list("uvuv")}))
    np.testing.assert_allclose(online._state.features[0], standard[::-1], rtol=1e-6)
    with pytest.raises(InputError, match="'dps' reads no features: there are none to refresh"):
        DPS().online(["a"]).refresh(Prompts(["a"]))


def test_over_a_history_label_columns_are_features():
    history = promptdyn.read_history("docs/data/arithmetic_grpo_history.parquet").before(40)
    with pytest.raises(InputError, match="'policy': it is the policy's own reading, which a trainer adds: give one of"):
        promptdyn.compare({"features": FeatureRate()}, history, 20)
    models = MODELS.parse("features:features=task+difficulty,rate")
    scores = {score.model: score for score in promptdyn.compare(models, history, 20).scores}
    assert scores["features:features=task+difficulty"].log_loss < scores["rate"].log_loss - 0.05
