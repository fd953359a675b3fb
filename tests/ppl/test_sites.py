"""Programs that break the contract, and how that is told."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import numpyro
import pyro
import pytest
import torch

from configs import CONFIGS, small_history
from promptdyn.errors import InputError
from promptdyn.models import DPS, Chain, DiscreteHMM, Pool, emissions
from promptdyn.ppl import BACKENDS, chain_at, load_backend, program
from promptdyn.ppl.sites import around, check_sites

HISTORY = small_history()


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
        made = load_backend(backend).Program(Every(), Pool.from_dense(HISTORY.dense()))
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
