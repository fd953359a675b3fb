"""DiscreteHMM: its EM climbs, recovers what it was simulated from, and special cases coincide."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
import pytest
from scipy.stats import betabinom, binom

import promptdyn
from brute_force import path_sums
from promptdyn.errors import InputError
from promptdyn.history import Counts, RewardHistory
from promptdyn.kernels import jax as kernels
from promptdyn.models import Chain, DiscreteHMM, Pool, emissions
from promptdyn.models.discrete_hmm import sticky_walk
from promptdyn.ppl.numpyro import Program
from promptdyn.storage import read_state, write_state


def simulate(initial, transition, rates, num_prompts, num_steps, share_observed, seed, num_rollouts=8):
    """Ancestral simulation; clusters alternate over prompts. transition is (exposure cluster state state)."""
    rng = np.random.default_rng(seed)
    num_exposures, num_clusters, num_states, _ = transition.shape
    cluster = np.arange(num_prompts) % num_clusters
    state = np.array([rng.choice(num_states, p=initial[c]) for c in cluster])
    columns: dict[str, Any] = {"step": [], "prompt_id": [], "num_rollouts": [], "num_successes": []}
    labels = []
    for step in range(num_steps):
        seen = rng.random(num_prompts) < share_observed
        if step == 0:
            seen[:] = True  # every prompt is in the history
        for i in np.flatnonzero(seen):
            columns["step"].append(step)
            columns["prompt_id"].append(f"p{i}")
            columns["num_rollouts"].append(num_rollouts)
            columns["num_successes"].append(rng.binomial(num_rollouts, rates[state[i]]))
            labels.append(f"c{cluster[i]}")
        for prompt in range(num_prompts):
            moves = transition[int(seen[prompt]) % num_exposures, cluster[prompt], state[prompt]]
            state[prompt] = rng.choice(num_states, p=moves)
    return RewardHistory.from_columns(**columns, columns={"family": labels})


TRUE = {
    "initial": np.array([[0.8, 0.15, 0.05], [0.1, 0.3, 0.6]]),
    "transition": np.array(
        [
            [[[0.97, 0.03, 0.0], [0.05, 0.9, 0.05], [0.0, 0.02, 0.98]]] * 2,
            [
                [[0.7, 0.3, 0.0], [0.05, 0.7, 0.25], [0.0, 0.05, 0.95]],
                [[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.0, 0.2, 0.8]],
            ],
        ]
    ),
    "success_rates": np.array([0.03, 0.5, 0.97]),
}


@pytest.fixture(scope="module")
def history():
    return simulate(
        TRUE["initial"],
        TRUE["transition"],
        TRUE["success_rates"],
        num_prompts=400,
        num_steps=60,
        share_observed=0.4,
        seed=0,
    )


@pytest.mark.parametrize(
    "model",
    [
        DiscreteHMM(num_states=3, cluster="family"),
        pytest.param(DiscreteHMM(num_states=3, emission="beta_binomial", num_exposures=2), marks=pytest.mark.long),
        pytest.param(DiscreteHMM(num_states=5, num_exposures=1), marks=pytest.mark.long),
        pytest.param(DiscreteHMM(num_states=3, emission="ternary", noise=0.05), marks=pytest.mark.long),
        pytest.param(DiscreteHMM(num_states=3, emission="ternary"), marks=pytest.mark.long),
    ],
    ids=repr,
)
def test_em_raises_the_log_joint_at_every_iteration(model, history):
    fit = promptdyn.fit(model, history, tolerance=1e-7, max_iterations=60)
    assert len(fit.trace) > 3
    assert np.diff(fit.trace).min() > -1e-6
    assert np.isfinite(fit.log_marginal)
    made = Program(model, Pool.from_dense(history.dense(model.cluster)))
    with jax.enable_x64(True):
        log_prior = jax.jit(lambda params: made.evaluate(params)[1])(fit.params)
    assert fit.trace[-1] == pytest.approx(fit.log_marginal + float(log_prior))


def test_em_recovers_the_simulated_parameters(history):
    fit = promptdyn.fit(DiscreteHMM(num_states=3, cluster="family", num_exposures=2, concentration=0.5), history)
    assert fit.converged
    assert fit.cluster_names == ("c0", "c1")
    np.testing.assert_allclose(fit.success_rates, TRUE["success_rates"], atol=0.02)
    np.testing.assert_allclose(fit.params["initial"], TRUE["initial"], atol=0.1)
    np.testing.assert_allclose(fit.params["transition"], TRUE["transition"], atol=0.1)


def test_fit_beats_the_truth_on_its_own_likelihood(history):
    """The maximum of the likelihood is at least the likelihood of the parameters that made the data."""
    model = DiscreteHMM(num_states=3, cluster="family", num_exposures=2, concentration=1e-3)
    fit = promptdyn.fit(model, history, max_iterations=500)
    dense = history.dense("family")
    with jax.enable_x64(True):
        log_emission = emissions.Binomial(TRUE["success_rates"]).log_prob(*dense.counts)
        truth: Any = TRUE
        markov = kernels.Markov(truth["initial"], truth["transition"], log_emission)
        sequences = kernels.Sequences.packed(dense.symbols, dense.exposure, dense.cluster)
        at_truth = float(kernels.log_marginal(markov, sequences).sum())
    assert fit.log_marginal > at_truth


COUNTS = Counts(*np.array([(0, 0)] + [(k, n) for n in (1, 2, 8) for k in range(n + 1)]).T)


def test_emissions_are_what_they_say():
    k, n = COUNTS
    rates = np.array([0.01, 0.5, 0.9])
    shown = emissions.Binomial(rates).log_prob(*COUNTS)
    np.testing.assert_allclose(shown, binom.logpmf(k, n, rates[:, None]), atol=1e-12)
    varied = emissions.BetaBinomial(rates, 7.0).log_prob(*COUNTS)
    expected = betabinom.logpmf(k, n, 7.0 * rates[:, None], 7.0 * (1 - rates[:, None]))
    np.testing.assert_allclose(varied, expected, atol=1e-10)
    np.testing.assert_allclose(emissions.BetaBinomial(rates, 1e9).log_prob(*COUNTS), shown, atol=1e-5)


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_the_ternary_emission_is_a_distribution_of_counts(noise):
    shown = np.exp(emissions.Ternary(noise).log_prob(*COUNTS))
    np.testing.assert_allclose(shown[:, 0], 1.0)
    for n in (1, 2, 8):
        np.testing.assert_allclose(shown[:, COUNTS.num_rollouts == n].sum(axis=1), 1.0)
    unsolved, partly, solved = shown[:, COUNTS.num_rollouts == 8]
    np.testing.assert_allclose([unsolved[0], partly[1:8].sum(), solved[8]], 1.0 - noise)
    # A single rollout cannot show "some".
    np.testing.assert_allclose(shown[:, list(zip(*COUNTS, strict=True)).index((1, 1))], [noise, 0.5, 1.0 - noise])


def test_log_marginal_of_a_fit_equals_the_sum_over_paths():
    history = RewardHistory.from_records(
        [
            {"step": 0, "prompt_id": "a", "num_rollouts": 4, "num_successes": 1, "trained": True},
            {"step": 0, "prompt_id": "b", "num_rollouts": 8, "num_successes": 0, "trained": False},
            {"step": 1, "prompt_id": "b", "num_rollouts": 8, "num_successes": 7, "trained": True},
            {"step": 3, "prompt_id": "a", "num_rollouts": 2, "num_successes": 2, "trained": False},
        ]
    )
    model = DiscreteHMM(num_states=3)
    fit = promptdyn.fit(model, history, observed="all", max_iterations=5, tolerance=0.0)
    dense = history.dense()
    total = sum(
        path_sums(
            fit.chain.initial[0],
            fit.chain.transition[:, 0],
            fit.chain.log_emission(dense.counts),
            dense.symbols[:, i],
            dense.exposure[:, i],
        ).log_marginal
        for i in range(2)
    )
    assert fit.log_marginal == pytest.approx(total, rel=1e-10)


ODD = {
    "one prompt": ([0, 1, 2], ["a"] * 3, [0, 3, 8], [8] * 3),
    "one step": ([0, 0], ["a", "b"], [0, 3], [8, 8]),
    "one row": ([5], ["a"], [8], [8]),
    "groups of one": ([0, 0, 1, 1], ["a", "b", "a", "b"], [0, 1, 1, 1], [1] * 4),
    "nothing ever solved": ([0, 0, 1, 1], ["a", "b", "a", "b"], [0] * 4, [8] * 4),
}


@pytest.mark.parametrize("emission", ["binomial", "beta_binomial", "ternary"])
@pytest.mark.parametrize("odd", ODD)
def test_odd_histories_give_finite_fits_and_forecasts(odd, emission):
    step, prompt_id, num_successes, num_rollouts = ODD[odd]
    history = RewardHistory.from_columns(step, prompt_id, num_successes=num_successes, num_rollouts=num_rollouts)
    fit = promptdyn.fit(DiscreteHMM(num_states=3, emission=emission), history)
    assert np.isfinite(fit.trace).all()
    online = fit.online(["a", "new"])
    online.step(["a"], [1], 1)
    assert np.isfinite(online.informative(8)).all()
    assert np.isfinite(online.belief).all()


def test_a_prompt_and_a_step_without_any_observation_are_filled_by_the_dynamics(history):
    """Rows of one prompt and of one step taken out: the pool keeps the prompt, and the fit has no NaN."""
    kept = history.select((history.prompt != 3) & (history.step != 7))
    fit = promptdyn.fit(DiscreteHMM(num_states=3, cluster="family"), kept, max_iterations=5)
    assert np.isfinite(fit.trace).all()
    assert "c1" in fit.cluster_names


def test_a_cluster_without_rows_stays_at_its_prior(history):
    model = DiscreteHMM(num_states=3, cluster="family")
    kept = history.select(history.prompt % 2 == 0)
    fit = promptdyn.fit(model, kept, max_iterations=5)
    assert fit.cluster_names == ("c0", "c1")
    np.testing.assert_allclose(fit.chain.transition[1, 1], sticky_walk(3, model.stickiness), atol=1e-9)


def test_states_stay_ordered_by_success_rate(history):
    fit = promptdyn.fit(DiscreteHMM(num_states=6), history, max_iterations=30)
    assert np.all(np.diff(fit.success_rates) >= 0)


def test_save_and_load(history, tmp_path):
    fit = promptdyn.fit(DiscreteHMM(num_states=3, cluster=("family",)), history, max_iterations=3)
    fit.save(tmp_path / "fit.npz")
    again = promptdyn.Fit.load(tmp_path / "fit.npz")
    assert again.model == fit.model
    assert again.cluster_names == fit.cluster_names
    assert again.log_marginal == fit.log_marginal
    for name, array in fit.params.items():
        np.testing.assert_array_equal(again.params[name], array)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_states": 1}, "num_states=1 must be a whole number, at least 2"),
        ({"num_states": 3.0}, "num_states=3.0 must be a whole number"),
        ({"emission": "gaussian"}, "'gaussian'"),
        ({"emission": "ternary", "num_states": 4}, "num_states=4, but the ternary emission has 3"),
        ({"stickiness": 1.0}, "stickiness"),
        ({"num_exposures": 4}, "num_exposures=4 is none of 1, 2, 3"),
        ({"concentration": 0}, "concentration"),
        ({"concentration": float("inf")}, "concentration=inf must be finite"),
        ({"noise": -0.1}, "noise"),
        ({"noise": 0.1}, "only the ternary emission has noise"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        DiscreteHMM(**settings)


def test_bad_fits_are_named(history):
    with pytest.raises(InputError, match="nothing to fit"):
        promptdyn.fit(promptdyn.models.DPS(), history)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="'vi' is none of em, map, svi, nuts"):
        promptdyn.fit(DiscreteHMM(), history, method="vi")
    with pytest.raises(InputError, match="no rows to fit on"):
        promptdyn.fit(DiscreteHMM(), history.select(np.zeros(len(history), bool)))
    with pytest.raises(InputError, match="observed='all' would use the others"):
        promptdyn.fit(DiscreteHMM(), replace(history, trained=np.zeros(len(history), bool)))
    with pytest.raises(InputError, match=r"'em' has no setting 'max_iter'; it has max_iterations, tolerance"):
        promptdyn.fit(DiscreteHMM(), history, max_iter=3)
    with pytest.raises(InputError, match="max_iterations=0"):
        promptdyn.fit(DiscreteHMM(), history, max_iterations=0)
    with pytest.raises(InputError, match="topic"):
        promptdyn.fit(DiscreteHMM(cluster="topic"), history)


@dataclass(frozen=True)
class NeverBack:
    """Success only ever grows, and shows without noise unless told."""

    noise: float = 0.0

    name = "never_back"

    def program(self, ppl, pool):
        xp = ppl.xp
        with ppl.plate("state", 3):
            rows = ppl.sample("rows", ppl.dist.Dirichlet(xp.asarray(np.ones(3))))
        forward = rows * xp.asarray(np.triu(np.ones((3, 3))))
        forward = forward / forward.sum(-1)[:, None]
        return Chain(xp.asarray(np.full((1, 3), 1 / 3)), forward[None, None], emissions.Ternary(self.noise))


def test_prompts_that_the_model_holds_impossible_are_named():
    history = RewardHistory.from_columns(
        [0, 0, 1, 1, 2, 2], list("abcbab"), num_successes=[0, 0, 2, 4, 4, 2], num_rollouts=[4] * 6
    )
    with pytest.raises(InputError, match="prompt 'b' has outcomes that the model holds impossible"):
        promptdyn.fit(NeverBack(), history)
    fit = promptdyn.fit(NeverBack(noise=0.1), history)
    assert np.isfinite(fit.log_marginal)
    assert (np.tril(fit.chain.transition[0, 0], -1) == 0).all()


@dataclass(frozen=True)
class ByGradient:
    """An HMM that declares no M-step of its own."""

    hmm: DiscreteHMM

    name = "by_gradient"

    @property
    def cluster(self):
        return self.hmm.cluster

    def program(self, ppl, pool):
        return self.hmm.program(ppl, pool)


def test_the_gradient_m_step_reaches_the_mode_of_the_closed_form(history):
    model = DiscreteHMM(num_states=3, cluster="family", num_exposures=2)
    closed, climbed = (
        promptdyn.fit(each, history, max_iterations=20, tolerance=1e-9) for each in (model, ByGradient(model))
    )
    assert np.diff(climbed.trace).min() > -1e-6
    assert climbed.trace[-1] == pytest.approx(closed.trace[-1], abs=0.02)  # it climbs most of the way at each step
    for name, value in closed.params.items():
        np.testing.assert_allclose(climbed.params[name], value, atol=1e-3)


def test_fit_files_that_are_not_whole_are_named(history, tmp_path):
    fit = promptdyn.fit(DiscreteHMM(num_states=3), history, max_iterations=2)
    path = tmp_path / "fit.npz"
    fit.save(path)
    values, arrays = read_state(path, "fit")
    for arrays_kept, values_kept in [
        ({k: v for k, v in arrays.items() if k != "trace"}, values),
        ({k: v for k, v in arrays.items() if k != "params/initial"}, values),
        ({**arrays, "model/site": arrays["trace"]}, values),  # of no part that a fit has
        ({**arrays, "params/initial": arrays["params/initial"][:, :2]}, values),
        (arrays, {k: v for k, v in values.items() if k != "model"}),
        (arrays, {k: v for k, v in values.items() if k != "converged"}),
        (arrays, {**values, "model": {**values["model"], "num_states": 1}}),
    ]:
        write_state(path, "fit", values_kept, arrays_kept)
        with pytest.raises(InputError, match=r"fit\.npz: not a whole fit"):
            promptdyn.Fit.load(path)
