"""One text, every interpreter: NumPyro, Pyro, NumPy, the kernel and the enumerated path tell the same density."""

from functools import cache
from typing import Any

import jax
import numpy as np
import numpyro
import pyro
import pytest
import torch
from arviz_base.io_numpyro import infer_dims
from jax.flatten_util import ravel_pytree
from numpyro.infer import MCMC, NUTS, Predictive
from numpyro.infer.util import log_density
from pyro import poutine

import promptdyn
from brute_force import path_sums
from configs import CONFIGS, OwnSpeed, in_brief, small_history
from promptdyn.models import DiscreteHMM, Pool
from promptdyn.models.base import cluster_of
from promptdyn.ppl import BACKENDS, chain_at, load_backend, program

HISTORY = small_history()
PROGRAMS = {**CONFIGS, "a chain per prompt": OwnSpeed()}


def a_pool(model) -> Pool:
    return Pool.from_dense(HISTORY.dense(cluster_of(model)))


@cache
def somewhere(model) -> dict[str, np.ndarray]:
    """Parameters off the start of a fit."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        made = load_backend("numpyro").Program(model, a_pool(model))
        values = jax.jit(made.unconstrain)(made.start)
        moved = {name: value + 0.3 * rng.standard_normal(value.shape) for name, value in values.items()}
        return {name: np.array(value) for name, value in jax.jit(made.constrain)(moved).items()}


def at(model, params):
    """Beliefs and transitions of the chain at some parameters, and their log prior, by NumPyro."""

    def parts(params):
        chain, log_prior = made.evaluate(params)
        return (chain.initial, chain.transition), log_prior

    with jax.enable_x64(True):
        made = load_backend("numpyro").Program(model, a_pool(model))
        return jax.device_get(jax.jit(parts)(params))


@cache
def by_paths(model) -> float:
    """Log joint somewhere, by a sum over every path, in NumPy."""
    params = somewhere(model)
    dense = HISTORY.dense(cluster_of(model))
    chain = chain_at(model, params, Pool.from_dense(dense))
    cluster_index = chain.cluster_index(Pool.from_dense(dense))
    cluster_index = np.zeros(HISTORY.num_prompts, int) if cluster_index is None else cluster_index
    table = chain.log_emission(dense.counts)
    total = 0.0
    for i, place in enumerate(cluster_index):
        initial = chain.initial[min(place, len(chain.initial) - 1)]
        transition = chain.transition[:, min(place, chain.transition.shape[1] - 1)]
        total += path_sums(initial, transition, table, dense.symbols[:, i], dense.exposure[:, i]).log_marginal
    return total + at(model, params)[1]


@pytest.fixture(params=in_brief(PROGRAMS))
def model(request):
    return request.param


def test_starts_and_chains_are_the_same_in_every_interpreter(model):
    pool = a_pool(model)
    first, second = (load_backend(name).Program(model, pool) for name in BACKENDS)
    assert first.start.keys() == second.start.keys()
    for name, value in first.start.items():
        np.testing.assert_allclose(second.start[name], value, rtol=1e-12)
    params = somewhere(model)
    plain = chain_at(model, params, pool)
    in_jax, prior = at(model, params)
    in_torch, torch_prior = second.evaluate(params)
    np.testing.assert_allclose(float(torch_prior), float(prior), rtol=1e-12)
    for part, value in zip(("initial", "transition"), in_jax, strict=True):
        np.testing.assert_allclose(value, getattr(plain, part), atol=1e-14)
        np.testing.assert_allclose(getattr(in_torch, part), getattr(plain, part), atol=1e-14)
    counts = HISTORY.dense().counts
    np.testing.assert_allclose(
        second.evaluate(params)[0].log_emission(counts, load_backend("pyro").Pyro.xp),
        plain.log_emission(counts),
        rtol=1e-10,
        atol=1e-12,
    )


def test_log_densities_agree(model):
    params = somewhere(model)
    truth = by_paths(model)
    observed = program(model, HISTORY, observed="all")
    with jax.enable_x64(True):
        density = jax.jit(lambda params: log_density(observed, (), {}, params)[0])(params)
    np.testing.assert_allclose(density, truth, rtol=1e-9)

    given = {name: torch.as_tensor(value) for name, value in params.items()}
    trace = poutine.trace(poutine.condition(program(model, HISTORY, observed="all", backend="pyro"), given)).get_trace()
    np.testing.assert_allclose(float(trace.log_prob_sum()), truth, rtol=1e-9)

    enumerated = poutine.condition(program(model, HISTORY, observed="all", backend="pyro", enumerated=True), given)
    loss = pyro.infer.TraceEnum_ELBO(max_plate_nesting=4).loss(enumerated, lambda: None)
    np.testing.assert_allclose(-loss, truth, rtol=1e-9)


# What takes long.
BRIEF = ["own program with clusters", "a chain per prompt"]


@pytest.mark.filterwarnings("ignore")  # funsor's own
@pytest.mark.parametrize("model", in_brief(PROGRAMS, BRIEF[:1]))
def test_numpyro_enumerates_to_the_same(model):
    from numpyro.contrib.funsor import enum
    from numpyro.contrib.funsor import log_density as enumerated_density

    params = somewhere(model)
    with jax.enable_x64(True):
        # Left of the four axes that plates take.
        enumerated = enum(program(model, HISTORY, observed="all", enumerated=True), first_available_dim=-5)
        summed = jax.jit(lambda params: enumerated_density(enumerated, (), {}, params)[0])(params)
    np.testing.assert_allclose(summed, by_paths(model), rtol=1e-9)


@pytest.mark.parametrize("model", in_brief(PROGRAMS, BRIEF))
def test_gradients_equal_finite_differences(model):
    """In the unconstrained space that engines climb in, through both backends."""
    params = somewhere(model)
    with jax.enable_x64(True):
        made = load_backend("numpyro").Program(model, a_pool(model))
        start, unravel = ravel_pytree(made.unconstrain(params))

        observed = program(model, HISTORY, observed="all")

        @jax.jit
        def joint(flat):
            return log_density(observed, (), {}, made.constrain(unravel(flat)))[0]

        slope = jax.grad(joint)(start)
        steps = 1e-5 * np.eye(len(start))
        numeric = [(joint(start + step) - joint(start - step)) / 2e-5 for step in steps]
        np.testing.assert_allclose(slope, numeric, rtol=1e-5, atol=1e-6)
        by_name = unravel(slope)

    made = load_backend("pyro").Program(model, a_pool(model))
    free = {name: value.detach().clone().requires_grad_() for name, value in made.unconstrain(params).items()}
    observed = poutine.condition(program(model, HISTORY, observed="all", backend="pyro"), made.constrain(free))
    torch.as_tensor(poutine.trace(observed).get_trace().log_prob_sum()).backward()
    for name, value in free.items():
        np.testing.assert_allclose(value.grad, by_name[name], rtol=1e-8, atol=1e-9)


def drawn_forward(model, backend, params, num_samples, condition=False) -> np.ndarray:
    """(draw prompt step) counts by the backend's own Predictive."""
    forward = program(model, HISTORY, observed="all", backend=backend, condition=condition)
    if backend == "numpyro":
        with jax.enable_x64(True):
            draws = Predictive(forward, posterior_samples={k: np.stack([v] * num_samples) for k, v in params.items()})
            return np.asarray(draws(jax.random.key(0))["num_successes"])
    pyro.set_rng_seed(0)
    given = {name: torch.as_tensor(np.stack([value] * num_samples)) for name, value in params.items()}
    return (
        pyro.infer.Predictive(forward, given)()["num_successes"].numpy().reshape(num_samples, HISTORY.num_prompts, -1)
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_predictive_of_a_program_that_observes_returns_what_was_logged(backend):
    model: Any = CONFIGS["hmm"]
    dense = HISTORY.dense()
    shown = drawn_forward(model, backend, somewhere(model), 2, condition=True)
    np.testing.assert_array_equal(shown, np.stack([dense.counts.num_successes[dense.symbols].T] * 2))


@pytest.mark.parametrize("backend", BACKENDS)
def test_run_forward_a_group_that_comes_out_without_variance_moves_its_prompt_as_such(backend):
    """As the filter that is run forward in NumPy has it: exposure follows the counts drawn, not those logged."""
    model = DiscreteHMM(num_states=2, num_exposures=3)
    stay, leave = np.array([0.95, 0.05]), np.array([0.1, 0.9])
    transition = np.stack([np.stack([stay, stay[::-1]])] * 2 + [np.stack([leave, leave[::-1]])])[:, None]
    params = {**load_backend(backend).Program(model, a_pool(model)).start, "transition": transition}
    params = {name: np.array(value) for name, value in params.items()}
    fit = promptdyn.Fit(model, params, ("all",))
    num = 100
    expected = np.mean(
        [promptdyn.evaluation.simulate(fit, like=HISTORY, seed=i).history.num_successes for i in range(num)], axis=0
    )
    draws = drawn_forward(model, backend, params, num)
    found = draws.mean(axis=0)[HISTORY.prompt, np.searchsorted(HISTORY.steps, HISTORY.step)]
    spread = np.sqrt(2 * HISTORY.num_rollouts.astype(float) ** 2 * 0.25 / num)
    assert (np.abs(found - expected) < 4.5 * spread).all()
    # So does what a fit draws by.
    made = load_backend(backend).Program(model, a_pool(model))
    again = made.predictive(HISTORY.dense(), {name: np.stack([value] * num) for name, value in params.items()}, 1)
    assert again.shape == draws.shape
    assert (np.abs(again.mean(axis=0) - draws.mean(axis=0)) < 4.5 * np.sqrt(2 * 64 * 0.25 / num)).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_run_forward_it_draws_counts_of_the_groups_that_were_rolled_out(backend):
    model: Any = CONFIGS["hmm with clusters"]
    num_samples = 300
    params = somewhere(model)
    dense = HISTORY.dense("family")
    n = dense.counts.num_rollouts[dense.symbols].T
    draws = drawn_forward(model, backend, params, num_samples)
    assert draws.shape == (num_samples, HISTORY.num_prompts, len(HISTORY.steps))
    assert ((draws >= 0) & (draws <= n)).all()
    chain = chain_at(model, params, a_pool(model))
    rates = np.exp(chain.emission.log_prob(np.array([1]), np.array([1])))[:, 0]
    for i, place in enumerate(dense.cluster):
        belief = chain.initial[place]
        for t, exposure in enumerate(dense.exposure[:, i]):
            expected, size = belief @ rates, n[i, t]
            spread = np.sqrt(size * size * 0.25 / num_samples) + 1e-12
            assert abs(draws[:, i, t].mean() - size * expected) < 5 * spread
            belief = belief @ chain.transition[min(exposure, 1), place]


@pytest.mark.long
def test_a_user_can_run_his_own_nuts():
    model = CONFIGS["own program with clusters"]
    with jax.enable_x64(True):
        mcmc = MCMC(NUTS(program(model, HISTORY, observed="all")), num_warmup=50, num_samples=50, progress_bar=False)
        mcmc.run(jax.random.key(0))
        draws = mcmc.get_samples()
    assert draws["learn"].shape == (50, 2)
    assert np.isfinite(draws["rate"]).all()


def test_arviz_reads_the_axes_of_a_program():
    with jax.enable_x64(True):
        dims = infer_dims(program(CONFIGS["hmm with clusters"], HISTORY, observed="all"))
    assert dims["transition"] == ["exposure", "cluster_2", "state"]
    assert dims["num_successes"] == ["prompt"]


def test_render_model_draws_the_sites():
    assert "num_successes" in numpyro.render_model(program(CONFIGS["hmm"], HISTORY, observed="all")).source
