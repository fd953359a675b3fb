"""Fits: their files, and the filters that they make."""

import json

import numpy as np
import pytest

import promptdyn
from configs import HISTORY, OneRate, OwnSpeed, density
from promptdyn.errors import InputError
from promptdyn.evaluation.forecast import walk
from promptdyn.prompts import Prompts


def test_draws_and_report_are_saved_and_loaded(sampled, tmp_path):
    sampled.save(tmp_path / "fit.npz")
    loaded = promptdyn.Fit.load(tmp_path / "fit.npz")
    assert loaded.method == {**sampled.method, "name": "nuts", "num_samples": 60, "backend": "numpyro", "seed": 3}
    assert (loaded.verdict, loaded.diagnostics) == (sampled.verdict, sampled.diagnostics)
    json.dumps(loaded.diagnostics)
    for part in ("params", "draws", "sample_stats"):
        for name, value in getattr(sampled, part).items():
            np.testing.assert_array_equal(getattr(loaded, part)[name], value)
    assert "log_likelihood" not in loaded.idata.groups()
    assert loaded.inference_data(HISTORY).log_likelihood.equals(sampled.idata.log_likelihood)
    before, after = (fit.online(HISTORY.prompts, num_samples=5) for fit in (sampled, loaded))
    after.load_state_dict(before.state_dict())
    np.testing.assert_array_equal(before.belief, after.belief)


def test_a_mixture_over_draws_forecasts_as_their_posterior_weighs_them(sampled):
    num_samples = 6
    flat = {name: value.reshape(-1, *value.shape[2:]) for name, value in sampled.draws.items()}
    chosen = np.linspace(0, len(flat["initial"]) - 1, num_samples).round().astype(int)
    made = density(sampled.model, HISTORY, "numpyro")
    filters, logs = [], []
    for draw in chosen:
        params = {name: value[draw] for name, value in flat.items()}
        filters.append(promptdyn.Fit(sampled.model, params, sampled.cluster_names).online(HISTORY.prompts))
        logs.append(made.log_marginals(params))
    weights = np.exp(np.array(logs) - np.max(logs, axis=0))
    weights /= weights.sum(axis=0)
    mixed = sampled.online(HISTORY.prompts, num_samples=num_samples)
    for online in (*filters, mixed):
        for _, rows in walk(online, HISTORY, "all"):
            assert len(rows)
    expected = sum(w * online.informative(8) for w, online in zip(weights, filters, strict=True))
    np.testing.assert_allclose(mixed.informative(8), expected, rtol=1e-9)
    expected = sum(w[:, None] * online.belief for w, online in zip(weights, filters, strict=True))
    np.testing.assert_allclose(mixed.belief, expected, rtol=1e-9)
    np.testing.assert_allclose(mixed.outcome(8).sum(axis=1), 1.0)
    rng = np.random.default_rng(0)
    drawn = np.mean([mixed.success_rate(rng) for _ in range(4000)], axis=0)
    np.testing.assert_allclose(drawn, mixed.success_rate(), atol=0.03)
    mixed.add(Prompts(["new"], {"family": ["c1"]}))
    assert mixed.success_rate().shape == (31,)


def test_more_draws_than_there_are_is_named(sampled):
    with pytest.raises(InputError, match="num_samples=121, but the fit has 120 posterior draws: give 1 to 120"):
        sampled.online(Prompts(["a"], {"family": ["c0"]}), num_samples=121)
    point = promptdyn.fit(OneRate(), HISTORY, observed="all")
    with pytest.raises(InputError, match="the fit has 0 posterior draws: fit with method='nuts' or 'svi'"):
        point.online(["a"], num_samples=8)


def test_chains_of_each_prompt_filter_the_prompts_of_their_fit(tmp_path):
    fit = promptdyn.fit(OwnSpeed(), HISTORY, observed="all")
    ids = list(HISTORY.prompt_ids)
    online = fit.online(ids[::-1])
    for _, rows in walk(online, HISTORY, "all"):
        assert len(rows)
    markov = fit.chain
    for place, prompt_id in enumerate(ids):
        alone = promptdyn.Fit(OwnSpeed(), {"speed": fit.params["speed"][[place]]}, ("all",), prompt_ids=(prompt_id,))
        belief = alone.online([prompt_id])
        mine = HISTORY.prompt == place
        for step in HISTORY.steps:
            seen = np.flatnonzero(mine & (HISTORY.step == step))
            belief.step(
                [prompt_id] * len(seen), HISTORY.num_successes[seen], HISTORY.num_rollouts[seen], HISTORY.trained[seen]
            )
        np.testing.assert_allclose(online.belief[len(ids) - 1 - place], belief.belief[0], rtol=1e-9)
    assert markov.axis == "prompt"
    with pytest.raises(InputError, match=r"cluster 'stranger' is none of those fitted \(p.*30 in all"):
        fit.online(["stranger"])
