"""Fits as ArviZ data."""

import arviz
import matplotlib.pyplot as plt
import numpy as np
import pytest

import promptdyn
from configs import CONFIGS, HISTORY, OwnSpeed, density
from promptdyn.errors import InputError, PromptdynWarning
from promptdyn.models import DiscreteHMM


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
