"""Features and clusters of prompts, and the regression that forecasts from them."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.metrics import roc_auc_score

import promptdyn
from promptdyn import clusters, features
from promptdyn.errors import InputError
from promptdyn.models import DPS, MODELS, FeatureRate
from promptdyn.prompts import Prompts
from promptdyn.training import policy, reading, tasks

POOL = tasks.make_pool("arithmetic", 120)
PROMPTS = [row["prompt"] for row in POOL]
IDS = [row["prompt_id"] for row in POOL]


@pytest.fixture(scope="module")
def reader_parts():
    return policy.load_policy()


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


def test_the_policy_reads_each_prompt(reader_parts):
    """Against one prompt at a time, by the definitions."""
    model, tokenizer = reader_parts
    told = []
    reader = reading.PolicyReader(model, tokenizer, batch_tokens=400, progress=lambda *done: told.append(done))
    found = reader.read(PROMPTS)
    assert told[-1] == (120, 120)
    assert len(told) > 2
    assert found.shape == (120, 15)
    np.testing.assert_allclose(found.mean(axis=0), 0.0, atol=1e-4)
    np.testing.assert_allclose(found.std(axis=0), 1.0, atol=1e-2)
    each_number, each_mean = [], []
    with torch.no_grad():
        for prompt in PROMPTS:
            tokens = tokenizer([prompt], return_tensors="pt")
            out = model(**tokens, output_hidden_states=True)
            chances = torch.softmax(out.logits[0, -1], -1)
            each_number.append([-(chances * chances.log()).sum(), chances.max().log(), tokens["input_ids"].shape[1]])
            each_mean.append(out.hidden_states[-1][0].mean(dim=0).numpy())
    numbers, means = np.array(each_number), np.array(each_mean)
    np.testing.assert_allclose(found[:, 12:], (numbers - numbers.mean(0)) / numbers.std(0), atol=2e-3)
    cloud = (means - means.mean(0)) / means.std(0)
    left = np.linalg.svd(cloud, full_matrices=False)[0][:, :6] * np.sqrt(len(cloud))
    np.testing.assert_allclose(np.abs((left * found[:, :6]).mean(axis=0)), 1.0, atol=1e-3)

    # A later reading is on the same axes, whatever the pool.
    np.testing.assert_allclose(reader.read(PROMPTS[5:9]), found[5:9], atol=1e-3)
    assert model.training is False


def test_a_batch_holds_so_many_tokens_and_one_prompt_at_least():
    rows = [[0] * size for size in (1, 2, 2, 3, 9, 20, 20)]
    batches = list(reading._batches(rows, 10))
    assert [len(batch) for batch in batches] == [3, 1, 1, 1, 1]
    assert [row for batch in batches for row in batch] == rows
    assert [len(batch) for batch in reading._batches(rows, 10_000)] == [7]


def test_a_reading_is_kept_for_the_same_prompts_and_weights(reader_parts, tmp_path):
    model, tokenizer = reader_parts
    told = []
    args = {"cache": tmp_path / "features.npz", "progress": lambda *done: told.append(done)}
    first = reading.PolicyReader(model, tokenizer, **args).read(PROMPTS)
    reader = reading.PolicyReader(model, tokenizer, **args)
    np.testing.assert_array_equal(reader.read(PROMPTS), first)
    assert len(told) == 1
    np.testing.assert_allclose(reader.read(PROMPTS), first, atol=1e-4)  # read, on the axes that were kept
    assert len(told) == 2
    with torch.no_grad():
        next(model.parameters())[0, 0] += 1.0
    try:
        assert not np.array_equal(reading.PolicyReader(model, tokenizer, **args).read(PROMPTS), first)
    finally:
        with torch.no_grad():
            next(model.parameters())[0, 0] -= 1.0
    assert len(told) == 3


def test_only_prompts_that_joined_are_read_and_on_the_axes_of_the_first_pool(reader_parts, tmp_path):
    told = []
    args = {"cache": tmp_path / "features.npz", "progress": lambda done, total: told.append(total)}
    whole = reading.PolicyReader(*reader_parts, **args).read(PROMPTS[:8])
    reader = reading.PolicyReader(*reader_parts, **args)
    again = reader.read([PROMPTS[9], *PROMPTS[3:8], PROMPTS[8]])
    np.testing.assert_array_equal(again[1:6], whole[3:8])
    assert told[-1] == 2
    np.testing.assert_allclose(reader.read(PROMPTS[8:10]), again[[6, 0]], atol=1e-4)
    told.clear()
    np.testing.assert_array_equal(reading.PolicyReader(*reader_parts, **args).read(PROMPTS[8:10]), again[[6, 0]])
    assert not told
    reading.PolicyReader(*reader_parts, **args).read(PROMPTS[10:12])  # another pool, axes of its own
    assert told[-1] == 2


def test_what_cannot_be_read_is_told(reader_parts):
    model, tokenizer = reader_parts
    reader = reading.PolicyReader(model, tokenizer)
    with pytest.raises(InputError, match="no prompts to read"):
        reader.read([])
    with pytest.raises(InputError, match="prompt 1 is ''"):
        reader.read(["1+1=", ""])
    with pytest.raises(InputError, match="prompt 0 is a conversation, and the tokenizer has no chat template"):
        reader.read([[{"role": "user", "content": "1+1="}]])

    class WithoutStates(type(model)):  # type: ignore[misc]
        def forward(self, *args, output_hidden_states=None, **named):
            return super().forward(*args, **named)

    bare = WithoutStates(model.config)
    with pytest.raises(InputError, match="WithoutStates returns no hidden states: take features from columns"):
        reading.PolicyReader(bare, tokenizer).read(PROMPTS[:2])


def test_one_prompt_and_equal_prompts_are_read(reader_parts):
    for prompts in (PROMPTS[:1], PROMPTS[:1] * 5):
        found = reading.PolicyReader(*reader_parts).read(prompts)
        assert np.isfinite(found).all()


def test_features_from_columns():
    found = features.from_columns(
        {"length": [1, 2, 3, 4], "kind": ["a", "b", "a", "b"], "vector": np.arange(12.0).reshape(4, 3).tolist()},
        num_components=2,
    )
    assert found.shape == (4, 1 + 2 + 2)
    np.testing.assert_allclose(found[:, 0], np.array([-3, -1, 1, 3]) / np.sqrt(5), rtol=1e-6)
    np.testing.assert_allclose(found[:, 1], [1, -1, 1, -1])
    np.testing.assert_allclose(np.abs(found[:, 3]), np.abs(found[:, 0]), rtol=1e-5)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, "no column to take features from"),
        ({"x": [1.0, None]}, "'x' has a gap in row 1"),
        ({"x": [1.0, float("inf")]}, "'x' holds a number that is not finite in row 1"),
        ({"x": [[1.0], [1.0, 2.0]]}, "'x' holds neither words, numbers, nor vectors of one length"),
        ({"x": ["a", "b", "c"]}, "'x' has 3 words for 3 prompts"),
        ({"x": np.zeros((2, 2, 2)).tolist()}, "'x' holds arrays of shape"),
    ],
)
def test_bad_columns_are_named(columns, message):
    with pytest.raises(InputError, match=message):
        features.from_columns(columns)


def test_clusters_of_numbers_and_features():
    assert clusters.quantile_bins([5, 1, 3, 2, 4, 6], 3) == ["q2", "q0", "q1", "q0", "q1", "q2"]
    assert set(clusters.quantile_bins([7.0] * 5, 4)) == {"q0"}
    x = np.concatenate([np.random.default_rng(0).normal(at, 0.1, (20, 2)) for at in (0.0, 5.0, 9.0)])
    found = clusters.kmeans(x, 3)
    assert sorted(found.count(label) for label in set(found)) == [20, 20, 20]
    assert found == clusters.kmeans(x, 3)
    with pytest.raises(InputError, match="num_bins=4 for 3 prompts"):
        clusters.quantile_bins([1, 2, 3], 4)
    with pytest.raises(InputError, match="num_clusters=4 for 3 prompts"):
        clusters.kmeans(x[:3], 4)
    with pytest.raises(InputError, match="prompt 1 has the value nan"):
        clusters.quantile_bins([1.0, float("nan")], 2)
    with pytest.raises(InputError, match="need one row of numbers per prompt"):
        clusters.kmeans([1.0, 2.0], 2)


def test_columns_of_few_levels_are_crossed_first():
    columns = {"level": [i % 4 for i in range(64)], "id": list(range(64)), "one": [1] * 64, "task": ["a", "b"] * 32}
    assert clusters.few_levels_first(columns) == ("level", "task")
    assert clusters.few_levels_first({"level": list(range(8))}) == ()
    json.dumps(clusters.few_levels_first(columns))
