"""The test kit: models of the package pass it, and what it is for, faults, it finds and names."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from configs import CONFIGS, OneRate, OwnSpeed, TwoState, in_brief, small_history
from promptdyn.errors import InputError
from promptdyn.models import MODELS, BetaBernoulli, Chain, emissions
from promptdyn.testing import check_model, check_online

# The table's others are held to the same by tests of their own.
BRIEF = ["hmm with clusters", "a chain per prompt"]


@pytest.mark.parametrize("model", in_brief({**CONFIGS, "a chain per prompt": OwnSpeed()}, BRIEF))
def test_models_pass(model):
    check_model(model)


@pytest.mark.parametrize("name", [name for name, cls in MODELS.items() if not hasattr(cls, "program")])
def test_registered_models_pass(name):
    check_model(MODELS.create(name))


def test_the_history_may_be_ones_own():
    check_model(TwoState("family"), small_history(3), backends=["pyro"])
    with pytest.raises(InputError, match="there is no column 'family'"):
        check_model(TwoState("family"), replace(small_history(3), columns={}), backends=["pyro"])
    with pytest.raises(InputError, match="no backend is installed"):
        check_model(OneRate(), backends=[])


@dataclass(frozen=True)
class Faulty:
    """A good model, but for one fault."""

    fault: str = ""

    name = "faulty"

    def __post_init__(self):
        if self.fault.startswith("settings"):  # grows each time that it is made
            object.__setattr__(self, "fault", self.fault + "!")

    def program(self, ppl, pool):
        dist, xp = ppl.dist, ppl.xp
        rate = ppl.sample("rate", dist.Beta(2.0, 2.0), init=0.3)
        with ppl.plate("row", 2):
            rows = ppl.sample("rows", dist.Dirichlet(xp.asarray(np.array([2.0, 1.0]))))
        rates = xp.stack([0.1 * rate, 0.5 + 0.5 * rate])
        if self.fault == "numpy" and xp is np:
            rates = 0.9 * rates
        if self.fault == "slope":
            rates = 0.9 * rates + 0.1 * (rates if xp is np else rates.detach())
        initial = xp.asarray(np.array([[0.5, 0.5]]))
        if self.fault == "prior":
            with ppl.plate("first", 1):
                odds = ppl.sample("odds", dist.Normal(0.0, 1.0))
            # As it should be at the start, 0, and three standard deviations off.
            odds = 0.5 + 0.9 * xp.sin(np.pi * odds)
            initial = xp.stack([odds, 1.0 - odds], axis=-1)
        return Chain(initial, rows[None, None], emissions.Binomial(rates))

    def m_step(self, statistics, params):
        rows = statistics.transition[0, 0] + np.array([1.0, 0.0])
        rows = rows / rows.sum(axis=-1, keepdims=True)
        if self.fault == "m_step":
            rows = rows[:, ::-1]
        if self.fault == "site":
            return {"row": rows}
        if self.fault == "shape":
            return {"rows": rows[None]}
        if self.fault == "support":
            return {"rows": 2.0 * rows}
        return {"rows": rows}


FAULTS = {
    "settings": "made again from its settings it is",
    "numpy": r"at its start prompt 'p\d+' has log density .* in pyro, .* in NumPy: compute with ppl.xp alone",
    "slope": "the slope of the log joint along site 'rate' is .* in pyro, finite differences give",
    "prior": r"at a draw of its prior: model 'faulty': its program's initial\[0\] is",
    "m_step": "at its start m_step takes the expected log joint to .*, a climb from there to .*: it is no maximum",
    "site": "m_step gives 'row', the program samples rate, rows",
    "shape": r"m_step gives 'rows' the shape \(1, 2, 2\), the program \(2, 2\)",
    "support": "m_step gives 'rows' outside its support",
}


def test_a_model_without_fault_passes():
    check_model(Faulty(), backends=["pyro"])


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_programs_are_found(fault):
    with pytest.raises(AssertionError, match=f"model 'faulty': {FAULTS[fault]}") as told:
        check_model(Faulty(fault), backends=["pyro"])
    assert "\n" not in str(told.value)


def test_what_is_no_model_is_told():
    @dataclass(frozen=True)
    class Nothing:
        name = "nothing"

    with pytest.raises(InputError, match=r"model .*Nothing is no model: give it program\(self, ppl, pool\), or let"):
        check_model(Nothing())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="Odd: setting start holds a ndarray"):
        check_model(Odd(np.ones(2)))


@dataclass(frozen=True)
class Odd(OneRate):
    start: object = None


@dataclass(frozen=True)
class FaultyOnline(BetaBernoulli):
    """MoPPS's filter, but for one fault."""

    fault: str = ""

    name = "faulty"

    def describe(self):
        return {"name": self.name, "fault": self.fault}

    def init(self, pool):
        state = super().init(pool)
        return state._replace(own=state.own[..., None] + np.zeros(2)) if self.fault == "axis" else state

    def step(self, state, rows, num_successes, num_rollouts, trained):
        state = super().step(state, rows, num_successes, num_rollouts, trained)
        if self.fault == "order":
            state.own[0, 0] += 1.0
        if self.fault == "late":
            state.own[:] += 0.1 * (state.own.shape[1] > 5)
        if self.fault == "empty" and not len(rows):
            state.own[:] = np.nan
        return state

    def outcome(self, state, num_rollouts):
        outcome = super().outcome(state, num_rollouts)
        if self.fault == "sum":
            outcome[0] *= 0.9
        if self.fault == "shape":
            return outcome.T
        return outcome

    def informative(self, state, num_rollouts, rng=None):
        if self.fault == "mixed":
            num_rollouts = np.max(num_rollouts)
        return super().informative(state, num_rollouts, rng) * (0.9 if self.fault == "some" else 1.0)

    def success_rate(self, state, rng=None):
        if self.fault == "draws":
            return super().success_rate(state, rng) * (0.5 if rng else 1.0)
        if self.fault == "above":
            return 1.5 * super().success_rate(state, rng)
        if self.fault == "view":
            return np.minimum(state.own[0], 1.0, out=state.own[0])
        return super().success_rate(state, rng)


FAULTS_ONLINE = {
    "sum": "outcome adds up to .*, not to 1",
    "some": "informative differs by up to .* from the chance of the outcome 'some'",
    "shape": r"outcome has shape \(6, 3\), not \(3, 6\)",
    "mixed": "informative of 2 rollouts is .*, among groups of other sizes",
    "draws": r"success_rate is .*, its draws \(given rng\) average",
    "above": "success_rate holds .*, which is no probability",
    "order": "belief differs with the pool in another order",
    "view": "success_rate is a view of the state and changed with it",
    "empty": "holds .*nan.*, which is no probability",
}


@pytest.mark.parametrize("fault", FAULTS_ONLINE)
def test_faults_of_filters_are_found(fault):
    with pytest.raises(AssertionError, match=f"model 'faulty': .*{FAULTS_ONLINE[fault]}"):
        check_online(FaultyOnline(fault=fault))


def test_a_state_that_is_not_what_the_class_declares_is_told():
    said = r"model 'faulty': field 'own' of its state has shape \(2, 6, 2\) for 6 prompts: its last axis must be prompt"
    with pytest.raises(InputError, match=said):
        check_online(FaultyOnline(fault="axis"))
