"""One text, every interpreter: NumPyro, Pyro, NumPy, the kernel and the enumerated path tell the same density."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
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
from promptdyn.errors import InputError
from promptdyn.models import DPS, Chain, DiscreteHMM, Pool, emissions
from promptdyn.models.base import cluster_of
from promptdyn.ppl import BACKENDS, chain_at, load_backend, program
from promptdyn.ppl.sites import around, check_sites

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


@dataclass(frozen=True)
class Wrong:
    """Programs that break the contract, each in one way."""

    how: str = ""

    name = "wrong"

    def program(self, ppl, pool):
        xp = ppl.xp
        initial, transition = np.array([[0.4, 0.6]]), np.array([[[[0.9, 0.1], [0.2, 0.8]]]])
        emission = emissions.Binomial(xp.asarray(np.array([0.1, 0.9])))
        ppl.sample("rate", ppl.dist.Beta(1.0, 1.0))
        if self.how == "twice":
            ppl.sample("rate", ppl.dist.Beta(1.0, 1.0))
        if self.how == "plate":
            with ppl.plate("rate", 2):
                ppl.sample("odd", ppl.dist.Beta(1.0, 1.0))
        if self.how == "no mean":
            ppl.sample("odd", ppl.dist.HalfCauchy(1.0))
        if self.how == "outside":
            ppl.sample("odd", ppl.dist.Beta(1.0, 1.0), init=2.0)
        if self.how == "init shape":
            ppl.sample("odd", ppl.dist.Dirichlet(xp.asarray(np.ones(3))), init=np.array([0.5, 0.5]))
        if self.how == "discrete":
            ppl.sample("odd", ppl.dist.Bernoulli(0.5))
        if self.how == "sum":
            transition = transition * np.array([1.0, 1.5])
        if self.how == "negative":
            initial = np.array([[1.4, -0.4]])
        if self.how == "nan":
            initial = np.array([[np.nan, 0.5]])
        if self.how == "states":
            initial = np.array([[0.2, 0.3, 0.5]])
        if self.how == "clusters":
            initial = np.repeat(initial, 2, axis=0)
        if self.how == "exposures":
            transition = np.repeat(transition, 4, axis=0)
        if self.how == "other means":
            dist = numpyro.distributions if xp is jnp else ppl.dist
            (numpyro if xp is jnp else pyro).sample("odd", dist.Beta(1.0, 1.0))
        if self.how == "other packages":
            rate = ppl.sample("odd", ppl.dist.Beta(1.0, 1.0))
            emission = emissions.Binomial(xp.asarray(xp.stack([rate, jnp.sqrt(rate)])))
        if self.how == "torch":
            rate = ppl.sample("odd", ppl.dist.Beta(1.0, 1.0))
            emission = emissions.Binomial(xp.stack([rate, torch.sqrt(rate)]))
        if self.how == "off the start":
            rate = ppl.sample("odd", ppl.dist.Normal(0.5, 0.2))
            emission = emissions.Binomial(xp.stack([rate, rate]))
        if self.how == "above a bound":
            rate = ppl.sample("odd", ppl.dist.Gamma(2.0, 8.0).expand([2]).to_event(1))
            emission = emissions.Binomial(rate)
        if self.how == "taken":
            ppl.sample("draw", ppl.dist.Beta(1.0, 1.0))
        if self.how == "prompts as clusters":
            with ppl.plate("cluster", pool.num_prompts):
                ppl.sample("odd", ppl.dist.Beta(1.0, 1.0))
        if self.how == "rates":
            emission = emissions.Binomial(xp.asarray(np.array([0.1, 0.9, 1.5])))
        if self.how == "rate above 1":
            emission = emissions.Binomial(xp.asarray(np.array([0.1, 1.5])))
        if self.how == "nothing":
            return None
        if self.how == "axis":
            return Chain(xp.asarray(initial), xp.asarray(transition), emission, axis="rows")
        return Chain(xp.asarray(initial), xp.asarray(transition), emission)


WRONGS = {
    "twice": "samples a site twice: .*rate",
    "plate": "'rate' names a plate and a site of the program",
    "no mean": "site 'odd' has no finite mean to start from: give ppl.sample an init",
    "outside": r"site 'odd' starts at 2\., outside its support",
    "init shape": r"site 'odd' has shape \(3,\), its init \(2,\)",
    "discrete": "site 'odd' is discrete",
    "sum": r"transition\[0, 0, 0\] is \[0\.9 .*0\.15\]: a row must hold probabilities that add up to 1",
    "negative": r"initial\[0\] is \[ ?1\.4 -0\.4\]: a row must hold",
    "nan": r"initial\[0\] is \[nan",
    "states": r"transition has shape \(1, 1, 2, 2\): need .* 1 x 3 x 3",
    "clusters": r"initial has shape \(2, 2\): need \(cluster state\), with 1 or 1 rows",
    "exposures": r"transition has shape \(4, 1, 2, 2\): need \(exposure cluster state state\), 1 to 3",
    "rates": r"emission gives log_prob of shape \(3, \d+\): need \(state symbol\) = \(2, \d+\)",
    "rate above 1": r"emission gives log P\(0 of 0\) = nan in state 1",
    "other means": "draws 'odd' by other means than ppl.sample: draw with ppl.sample and ppl.dist",
    "other packages": "its program calls jax directly: .*compute with ppl.xp",
    "torch": "its program calls torch directly: .*compute with ppl.xp",
    "off the start": r"emission gives log P\(0 of 0\) = nan .* allow \(.*odd=1.1.*\): give sites a support",
    "above a bound": r"emission gives log P\(0 of 0\) = nan .* allow \(.*odd=\[2. 2.\]",
    "taken": "'draw' is a fit's name of an axis or of counts: give the site or plate another name",
    "prompts as clusters": r"plate 'cluster' has \d+ entries, and the pool 1 clusters: give it pool.num_clusters",
    "nothing": r"result is a NoneType: return a Chain",
    "axis": "axis='rows'",
}


@pytest.mark.filterwarnings("ignore:invalid value encountered")
@pytest.mark.parametrize("how", WRONGS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_programs_that_break_the_contract_are_told_how(how, backend):
    with pytest.raises(InputError, match=WRONGS[how]):
        program(Wrong(how), HISTORY, observed="all", backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_faults_in_the_text_of_a_program_keep_their_traceback(backend):
    class Faulty:
        name = "faulty"

        def program(self, ppl, pool):
            assert pool.num_prompts > 100, "too small a pool"

    with pytest.raises(AssertionError, match="too small a pool"):
        program(Faulty(), HISTORY, observed="all", backend=backend)


def test_what_cannot_be_a_program_is_named():
    with pytest.raises(InputError, match="backend='stan' is none of numpyro, pyro"):
        program(CONFIGS["hmm"], HISTORY, observed="all", backend="stan")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="enumerated=True with condition=False"):
        program(CONFIGS["hmm"], HISTORY, observed="all", enumerated=True, condition=False)
    with pytest.raises(InputError, match="DPS has no program"):
        program(DPS(), HISTORY, observed="all")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="has no rows"):
        program(CONFIGS["hmm"], HISTORY.select(np.zeros(len(HISTORY), bool)))
    pool = Pool.from_dense(HISTORY.dense())
    params = {"initial": np.ones((1, 2)) / 2, "transition": np.ones(1)}
    with pytest.raises(InputError, match="parameter 'gaps' is missing"):
        chain_at(DiscreteHMM(num_states=2), params, pool)


def test_sites_are_tried_inside_of_their_supports():
    @dataclass(frozen=True)
    class Every:
        name = "every"

        def program(self, ppl, pool):
            dist, xp = ppl.dist, ppl.xp
            ppl.sample("real", dist.Normal(xp.zeros(3), 2.0).to_event(1))
            ppl.sample("wide", dist.Cauchy(0.0, 1.0), init=0.5)
            ppl.sample("positive", dist.Gamma(2.0, 1.0))
            ppl.sample("share", dist.Beta(2.0, 6.0))
            ppl.sample("interval", dist.Uniform(-3.0, 5.0))
            ppl.sample("rows", dist.Dirichlet(xp.asarray(np.ones((2, 4)))).to_event(1))
            return Wrong().program(ppl, pool)

    for backend in BACKENDS:
        made = load_backend(backend).Program(Every(), a_pool(Every()))
        spreads = {name: 4.0 if name == "real" else np.nan for name in made.start}
        points = around(made.start, made._supports, spreads)
        assert len(points) == 4
        up, down = points[:2]
        assert (up["real"], down["real"]) == (pytest.approx(6.0), pytest.approx(-6.0))
        assert (up["wide"], up["positive"], down["positive"]) == (1.5, 16.0, 0.25)
        assert (up["share"], down["interval"]) == (pytest.approx(0.925), pytest.approx(-2.6))
        for point in points:
            assert all((point[name] != made.start[name]).all() for name in made.start)
            given = point if backend == "numpyro" else {name: torch.as_tensor(at) for name, at in point.items()}
            checked = check_sites("every", given, made._supports)
            np.testing.assert_allclose(checked["rows"].sum(axis=-1), 1.0)
