"""EM, MAP, SVI and NUTS in both backends: modes and posteriors against exact ones, and what is said meanwhile."""

import warnings
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from scipy.stats import beta

import promptdyn
from configs import CONFIGS, HISTORY, OneRate, OwnSpeed, in_brief
from promptdyn.errors import ConvergenceWarning, InputError
from promptdyn.inference import EM, MAP, NUTS, SVI
from promptdyn.models import HierarchicalHMM
from promptdyn.ppl import BACKENDS

MODELS = {**CONFIGS, "a chain per prompt": OwnSpeed()}
QUICK: dict[str, dict[str, Any]] = {
    "em": {},
    "map": {},
    "svi": {"num_steps": 400, "num_samples": 400, "batch_size": 10},
    "nuts": {"num_warmup": 60, "num_samples": 150, "num_chains": 1},
}
OTHER = [("nuts", "pyro")]


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
