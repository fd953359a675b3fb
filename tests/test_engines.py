"""EM, MAP, SVI and NUTS in both backends: gradients, modes and posteriors against exact ones, and what a fit keeps."""

import json
import warnings
from dataclasses import dataclass
from typing import Any

import arviz
import matplotlib.pyplot as plt
import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from scipy.stats import beta

import promptdyn
from configs import CONFIGS, OneRate, OwnSpeed, in_brief, small_history
from promptdyn.errors import ConvergenceWarning, InputError, PromptdynWarning
from promptdyn.evaluation.forecast import walk
from promptdyn.history import RewardHistory
from promptdyn.inference import EM, MAP, NUTS, SVI
from promptdyn.inference.convergence import judge
from promptdyn.inference.densities import load_density
from promptdyn.models import DPS, DiscreteHMM, HierarchicalHMM
from promptdyn.models.base import cluster_of
from promptdyn.ppl import BACKENDS
from promptdyn.prompts import Prompts

MODELS = {**CONFIGS, "a chain per prompt": OwnSpeed()}
HISTORY = small_history(1, num_prompts=30, num_steps=20)
QUICK: dict[str, dict[str, Any]] = {
    "em": {},
    "map": {},
    "svi": {"num_steps": 400, "num_samples": 400, "batch_size": 10},
    "nuts": {"num_warmup": 60, "num_samples": 150, "num_chains": 1},
}
OTHER = [("nuts", "pyro")]


def density(model, history, backend):
    return load_density(backend)(model, history.dense(cluster_of(model)))


def somewhere(made, seed=0):
    """A point off the start, as real numbers."""
    rng = np.random.default_rng(seed)
    start = made.unconstrain(made.program.start)
    return {name: value + 0.3 * rng.standard_normal(value.shape) for name, value in start.items()}


# What differs in how it is climbed.
BRIEF = ["hierarchical hmm", "own program with clusters"]


@pytest.mark.parametrize("model", in_brief(MODELS, BRIEF))
def test_em_climbs_and_map_reaches_its_mode_in_both_backends(model):
    tight: dict[str, Any] = {"tolerance": 1e-8, "max_iterations": 2000}
    # Expected counts agree between backends, so EM in one of them tells of both; empirical Bayes goes elsewhere.
    fits = (
        {}
        if isinstance(model, HierarchicalHMM)
        else {"em": promptdyn.fit(model, HISTORY, "em", observed="all", **tight)}
    )
    for backend in BACKENDS:
        fits[backend] = promptdyn.fit(model, HISTORY, "map", observed="all", backend=backend, **tight)
    for fit in fits.values():
        assert fit.converged, fit.verdict
        assert np.diff(fit.trace).min() > -1e-8
    tops = [fit.trace[-1] for fit in fits.values()]
    np.testing.assert_allclose(tops, tops[0], atol=0.02)


@pytest.mark.parametrize(
    ("method", "backend"),
    [
        # The sampling engines once each in brief, and in the other backend in a long run.
        pytest.param(method, backend, marks=pytest.mark.long if (method, backend) in OTHER else [])
        for method in QUICK
        for backend in BACKENDS
    ],
)
def test_every_engine_finds_a_posterior_that_is_known(method, backend):
    fit = promptdyn.fit(OneRate(), HISTORY, method, observed="all", backend=backend, **QUICK[method])
    successes = HISTORY.num_successes.sum()
    exact = beta(2 + successes, 3 + HISTORY.num_rollouts.sum() - successes)
    if method in ("em", "map"):
        mode = (exact.args[0] - 1) / (sum(exact.args) - 2)
        assert fit.params["rate"] == pytest.approx(mode, abs=1e-5)
        return
    draws = fit.draws["rate"].ravel()
    assert draws.mean() == pytest.approx(exact.mean(), abs=0.3 * exact.std())
    assert draws.std() == pytest.approx(exact.std(), rel=0.25)
    assert fit.params["rate"] == pytest.approx(draws.mean())


@pytest.mark.parametrize(
    ("backend", "engine"),
    [
        ("numpyro", SVI(num_steps=40, batch_size=7, num_samples=20)),
        ("pyro", SVI(num_steps=40, batch_size=7, num_samples=20)),
        pytest.param("numpyro", NUTS(num_warmup=5, num_samples=8), marks=pytest.mark.long),
        ("pyro", NUTS(num_warmup=5, num_samples=8, num_chains=1)),
    ],
)
def test_the_same_seed_draws_the_same(engine, backend):
    first, again = (
        promptdyn.fit(OneRate(), HISTORY, engine, observed="all", backend=backend, seed=1).draws["rate"]
        for _ in range(2)
    )
    np.testing.assert_array_equal(again, first)


@pytest.mark.long
@pytest.mark.parametrize("backend", BACKENDS)
def test_mini_batches_stand_for_the_whole_pool(backend):
    model = CONFIGS["own program with clusters"]
    whole, parts = (
        promptdyn.fit(model, HISTORY, SVI(num_steps=300, batch_size=size), observed="all", backend=backend)
        for size in (30, 8)
    )
    for name, draws in whole.draws.items():
        spread = draws.std(axis=(0, 1))
        np.testing.assert_array_less(np.abs(parts.params[name] - whole.params[name]), 0.6 * spread)
        np.testing.assert_allclose(parts.draws[name].std(axis=(0, 1)), spread, rtol=0.4)


def test_long_histories_are_summed_chunk_by_chunk(monkeypatch):
    model = CONFIGS["hmm with clusters"]
    whole = density(model, HISTORY, "numpyro")
    monkeypatch.setattr("promptdyn.inference.densities.LARGEST_CHUNK", 100)
    parts = density(model, HISTORY, "numpyro")
    values = somewhere(whole)
    joint, slope = whole.joint(values)
    joint_of_parts, slope_of_parts = parts.joint(values)
    assert joint_of_parts == pytest.approx(joint)
    for name in slope:
        np.testing.assert_allclose(slope_of_parts[name], slope[name], rtol=1e-9)
    params = whole.program.start
    np.testing.assert_allclose(parts.log_marginals(params), whole.log_marginals(params))
    (counts, *_), (counts_of_parts, *_) = whole.expected(params), parts.expected(params)
    for one, other in zip(counts[:3], counts_of_parts[:3], strict=True):
        np.testing.assert_allclose(other, one)


@pytest.fixture(scope="module")
def sampled():
    model = CONFIGS["hmm with clusters"]
    return promptdyn.fit(model, HISTORY, "nuts", observed="all", num_warmup=60, num_samples=60, seed=3)


@pytest.mark.filterwarnings("ignore:Estimated shape parameter")  # few draws
def test_draws_as_arviz_data(sampled):
    idata = sampled.idata
    assert {"posterior", "prior", "sample_stats", "log_likelihood", "observed_data"} <= set(idata.groups())
    posterior = idata.posterior
    assert posterior["transition"].dims == ("chain", "draw", "exposure", "cluster", "state", "next_state")
    assert posterior["initial"].dims == ("chain", "draw", "cluster", "state")
    assert posterior["success_rates"].dims == ("chain", "draw", "state")
    assert list(posterior["exposure"].values) == ["idle", "trained"]
    assert list(posterior["cluster"].values) == ["c0", "c1"]
    assert idata.prior["transition"].shape[:2] == (1, 500)
    np.testing.assert_allclose(idata.prior["initial"].mean(("chain", "draw")), 0.5, atol=0.05)
    assert idata.log_likelihood["history"].dims == ("chain", "draw", "prompt")
    observed, given = idata.observed_data, idata.constant_data
    assert observed["num_successes"].dims == ("group",)
    found = {
        (str(prompt), int(step)): (int(n), int(k))
        for prompt, step, n, k in zip(
            *(given[name].values for name in ("prompt_id", "at_step", "num_rollouts")),
            observed["num_successes"].values,
            strict=True,
        )
    }
    rows = zip(HISTORY.prompt, HISTORY.step, HISTORY.num_rollouts, HISTORY.num_successes, strict=True)
    assert found == {(str(HISTORY.prompt_ids[i]), step): (n, k) for i, step, n, k in rows}
    made = density(sampled.model, HISTORY, "numpyro")
    second = {name: value[1, 7] for name, value in sampled.draws.items()}
    likelihood = idata.log_likelihood["history"].isel(chain=1, draw=7)
    np.testing.assert_allclose(likelihood, made.log_marginals(second))
    assert np.isfinite(arviz.loo(idata, var_name="history").elpd_loo)


def test_a_point_is_arviz_data_of_one_draw():
    fit = promptdyn.fit(OwnSpeed(), HISTORY, observed="all")
    with pytest.warns(
        PromptdynWarning, match="not for arviz.loo or arviz.compare: em finds one point and no posterior"
    ):
        posterior = fit.idata.posterior
    assert posterior["speed"].dims == ("chain", "draw", "prompt")
    assert posterior["speed"].shape == (1, 1, 30)


@pytest.mark.parametrize("backend", ["numpyro", pytest.param("pyro", marks=pytest.mark.long)])
def test_counts_are_drawn_for_predictive_checks(backend):
    fit = promptdyn.fit(CONFIGS["hmm with clusters"], HISTORY, observed="all", backend=backend)
    with pytest.warns(PromptdynWarning, match="one point"):
        idata = fit.inference_data(posterior_predictive=True, prior_predictive=True)
    shown, before = (idata[name]["num_successes"] for name in ("posterior_predictive", "prior_predictive"))
    assert (shown.dims, shown.shape) == (("chain", "draw", "group"), (1, 100, len(HISTORY)))
    assert before.shape == (1, 500, len(HISTORY))
    n, k = idata.constant_data["num_rollouts"].values, idata.observed_data["num_successes"].values
    assert ((shown >= 0) & (shown <= n)).all()
    assert (shown.values != k).any()  # what was logged would look perfect
    assert abs(float(shown.sum()) / 100 / n.sum() - k.sum() / n.sum()) < 0.05
    # Before anything was observed, whole histories differ more from one another.
    assert before.sum("group").std() > 2 * shown.sum("group").std()
    arviz.plot_ppc(idata, num_pp_samples=20)
    arviz.plot_ppc(idata, group="prior", num_pp_samples=20)
    plt.close("all")


def test_counts_of_a_loaded_fit_are_drawn_for_a_history_that_is_given(tmp_path):
    drawn = promptdyn.fit(
        DiscreteHMM(num_states=2), HISTORY, "svi", observed="all", backend="pyro", num_steps=40, num_samples=10
    )
    drawn.save(tmp_path / "fit.npz")
    loaded = promptdyn.Fit.load(tmp_path / "fit.npz")
    with pytest.raises(InputError, match="no history to draw counts for: give one"):
        loaded.inference_data(posterior_predictive=True)
    shown = loaded.inference_data(HISTORY, posterior_predictive=True).posterior_predictive["num_successes"]
    assert shown.shape == (1, 10, len(HISTORY))
    assert shown.equals(drawn.inference_data(posterior_predictive=True).posterior_predictive["num_successes"])


def test_prompts_with_parameters_of_their_own_need_not_be_observed():
    part = HISTORY.select(HISTORY.prompt != 3)
    fit = promptdyn.fit(OwnSpeed(), part, "svi", num_steps=40, num_samples=5)
    with pytest.warns(PromptdynWarning, match="conditional on each prompt's own parameters"):
        idata = fit.idata
    prompts = [str(i) for i in HISTORY.prompt_ids]
    assert list(idata.posterior["prompt"].values) == list(idata.log_likelihood["prompt"].values) == prompts
    assert idata.posterior["speed"].dims == ("chain", "draw", "prompt")
    assert (idata.log_likelihood["history"].sel(prompt=prompts[3]) == 0).all()


def test_a_likelihood_given_each_prompts_own_effect_is_told():
    fit = promptdyn.fit(OwnSpeed(), HISTORY, "svi", observed="all", num_steps=40, num_samples=5)
    with pytest.warns(
        PromptdynWarning, match=r"not for arviz.loo .*: it is conditional on each prompt's own parameters"
    ):
        assert fit.idata.log_likelihood["history"].dims == ("chain", "draw", "prompt")


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


def test_a_fit_that_is_cut_short_says_so():
    for engine, words in [
        (EM(max_iterations=1), r"not converged: 1 iterations, the last gained .*; raise max_iterations"),
        (MAP(max_iterations=2), r"not converged: 2 iterations, the last gained .*; raise max_iterations"),
        (
            SVI(num_steps=40, num_samples=5),
            r"not converged: the ELBO rose by .* in the last quarter of 40 steps; raise num_steps",
        ),
        (NUTS(num_warmup=4, num_samples=8, num_chains=1), r"not converged: .* raise num_samples"),
    ]:
        model = OneRate() if engine.name == "nuts" else CONFIGS["hmm"]
        with pytest.warns(ConvergenceWarning, match=words):
            fit = promptdyn.fit(model, HISTORY, engine, observed="all", backend="pyro")
        assert not fit.converged
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert promptdyn.fit(CONFIGS["own program"], HISTORY, observed="all").converged


def test_a_verdict_says_no_number_is_above_itself():
    """1.0103 and 99.7 look like 1.010 and 100 where numbers are rounded to the nearest."""
    converged, verdict, _ = judge({"rate": 1.0103, "gap": 1.001}, {"rate": 99.7, "gap": 400.0}, 0, num_chains=2)
    assert not converged
    assert "R-hat of rate is 1.011, above 1.01" in verdict
    assert "rate has 99 effective draws, below 100" in verdict
    converged, verdict, _ = judge({"rate": 1.0099}, {"rate": 100.2}, 0, num_chains=2)
    assert converged
    assert verdict == "converged: R-hat at most 1.010, at least 100 effective draws, no divergence"
    assert "no draw moved" in judge({}, {}, 0, num_chains=1)[1]


def test_progress_tells_what_one_watches(capsys):
    for method, watched in [
        ("em:max_iterations=3", {"log joint"}),
        ("em", {"log joint"}),  # which ends before its last iteration
        ("map:max_iterations=3", {"log joint"}),
        ("svi:num_steps=40", {"ELBO"}),
        ("nuts:num_warmup=10,num_samples=10", {"log density", "diverged", "chain"}),
    ]:
        seen: list[Any] = []
        promptdyn.fit(
            OneRate(),
            HISTORY,
            method,
            observed="all",
            backend="pyro",
            progress=lambda *told, seen=seen: seen.append(told),
        )
        done, totals, watch = zip(*seen, strict=True)
        assert list(done) == sorted(done)
        assert done[-1] == totals[-1]
        assert set(watch[-1]) == watched
    promptdyn.fit(OneRate(), HISTORY, observed="all", progress=True)
    assert "em: one_rate" in capsys.readouterr().err


def test_pyro_leaves_the_users_parameters_and_generator_alone():
    pyro.clear_param_store()
    pyro.param("mine", torch.tensor(1.0))
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    promptdyn.fit(OneRate(), HISTORY, "svi", observed="all", backend="pyro", num_steps=40)
    promptdyn.fit(OneRate(), HISTORY, "nuts", observed="all", backend="pyro", num_warmup=5, num_samples=8, num_chains=1)
    assert torch.rand(1) == expected
    assert list(pyro.get_param_store().keys()) == ["mine"]
    pyro.clear_param_store()
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize(
    ("backend", "guide"),
    [
        pytest.param("numpyro", "AutoDelta", marks=pytest.mark.long),
        pytest.param("numpyro", "AutoLowRankMultivariateNormal", marks=pytest.mark.long),
        pytest.param("pyro", "AutoDelta", marks=pytest.mark.long),
        ("pyro", "AutoMultivariateNormal"),
    ],
)
def test_guides_by_name(backend, guide):
    fit = promptdyn.fit(
        CONFIGS["own program"],
        HISTORY,
        "svi",
        observed="all",
        backend=backend,
        guide=guide,
        num_steps=60,
        num_samples=20,
    )
    assert set(fit.draws) == set(fit.params)
    assert np.isfinite(fit.log_marginal)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("map", {"max_iterations": 0}, "map: max_iterations=0 must be at least 1"),
        ("em", {"tolerance": float("nan")}, "tolerance=nan is not a finite number"),
        ("svi", {"guide": "AutoMagic"}, "guide='AutoMagic' is none of AutoDelta"),
        ("svi", {"num_steps": 10}, "svi: num_steps=10 must be at least 40"),
        ("svi", {"num_steps": 50.5}, "num_steps=50.5 is not a whole number"),
        ("svi", {"learning_rate": 0.0}, "svi: learning_rate=0.0 must be finite and above 0"),
        ("svi:batch_size=0", {}, "svi: batch_size=0 must be at least 1"),
        ("nuts", {"num_chains": 0}, "nuts: num_chains=0 must be at least 1"),
        ("nuts", {"target_accept": 1.0}, r"nuts: target_accept=1.0 is outside \(0, 1\)"),
        ("nuts", {"warmup": 3}, "'nuts' has no setting 'warmup'; it has num_warmup"),
        ("gibbs", {}, "method 'gibbs' is none of em, map, svi, nuts"),
    ],
)
def test_bad_settings_are_named(method, options, message):
    with pytest.raises(InputError, match=message):
        promptdyn.fit(OneRate(), HISTORY, method, observed="all", **options)


def test_what_cannot_be_fitted_is_named():
    class Nameless:
        program = OneRate.program

    models: list[tuple[Any, str]] = [
        (Nameless(), "Nameless has a program and no name: give the class one, name = 'nameless'"),
        (OneRate, r"OneRate is a class: give a model made of it, OneRate\(\)"),
        (DPS(), r"DPS has no program, nothing to fit .*: it learns online, by .online\(prompts\)"),
        ("hmm", "'hmm' is no dynamics model: give one with a program"),
    ]
    for model, message in models:
        with pytest.raises(InputError, match=message):
            promptdyn.fit(model, HISTORY, observed="all")


def test_a_fit_that_ends_nowhere_is_told():
    @dataclass(frozen=True)
    class Nowhere(OneRate):
        def m_step(self, statistics, params):
            return {name: value * np.nan for name, value in params.items()}

    with pytest.raises(InputError, match=r"em of 'one_rate' found parameters at which .* log density nan"):
        promptdyn.fit(Nowhere(), HISTORY, "em", observed="all")


def test_bad_backends_and_histories_are_named(sampled):
    with pytest.raises(InputError, match="backend='stan' is none of numpyro, pyro"):
        promptdyn.fit(OneRate(), HISTORY, observed="all", backend="stan")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"the ELBO is .*: lower learning_rate"):
        promptdyn.fit(CONFIGS["own program"], HISTORY, "svi", observed="all", learning_rate=1e6, num_steps=40)
    other = RewardHistory.from_columns([0], ["a"], num_successes=[2], num_rollouts=[4], columns={"family": ["c9"]})
    with pytest.raises(InputError, match="the history has clusters c9, the fit c0, c1"):
        sampled.inference_data(other)
    own = promptdyn.Fit(OwnSpeed(), {"speed": np.zeros(1)}, ("all",), prompt_ids=("b",))
    with pytest.raises(InputError, match="the history's prompts are not the 1 of the fit"):
        own.inference_data(other)


def test_a_fit_and_a_program_observe_the_rows_that_were_trained_on_by_default():
    model, trained = CONFIGS["hmm with clusters"], HISTORY.observed("trained")
    assert 0 < len(trained) < len(HISTORY)
    fit, same = (promptdyn.fit(model, history, max_iterations=3) for history in (HISTORY, trained))
    every = promptdyn.fit(model, HISTORY, observed="all", max_iterations=3)
    assert (fit.num_observed, every.num_observed) == (len(trained), len(HISTORY))
    assert fit.log_marginal == same.log_marginal != every.log_marginal
    program, same_program = (promptdyn.program(model, history, backend="pyro") for history in (HISTORY, trained))
    shown, as_trained = (
        poutine.trace(run).get_trace().nodes["num_successes"]["value"] for run in (program, same_program)
    )
    np.testing.assert_array_equal(np.asarray(shown), np.asarray(as_trained))
