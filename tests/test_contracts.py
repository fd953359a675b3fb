"""One test per contract: everything registered satisfies it."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import promptdyn
from promptdyn.errors import InputError
from promptdyn.history import Counts
from promptdyn.models import DPS, MODELS, DiscreteHMM, DynamicsLike, InformativeRate, Statistics
from promptdyn.models.base import as_dynamics
from promptdyn.online import OnlineModel, Pool
from promptdyn.registry import describe
from promptdyn.selection import STRATEGIES, Strategy


@pytest.mark.parametrize("name", MODELS)
def test_every_model_meets_one_of_the_two_contracts(name):
    model = MODELS.create(name)
    assert isinstance(model, DynamicsLike) != isinstance(model, OnlineModel)
    described = model.describe() if isinstance(model, OnlineModel) else describe(model)
    json.dumps(described)
    assert described.pop("name") == name == model.name
    again = MODELS.create(name, described)
    assert (again.describe() if isinstance(again, OnlineModel) else describe(again)) == {"name": name, **described}
    if isinstance(model, OnlineModel):
        state = model.init(Pool.of_one_cluster(3, np.zeros((3, 2), np.float32)))
        assert all(field.shape[-1] == 3 for name, field in state._asdict().items() if name not in model.shared)


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_meets_its_contract(name):
    assert isinstance(STRATEGIES.create(name), Strategy)


def test_what_an_online_model_lacks_is_named():
    @dataclass(frozen=True)
    class Half(InformativeRate):
        name = "half"
        belief = OnlineModel.belief
        step = OnlineModel.step

    with pytest.raises(TypeError, match="belief"):
        Half()
    with pytest.raises(InputError, match=r"Half is no model yet: of the methods of OnlineModel it lacks belief, step$"):
        MODELS.register(Half)


@pytest.mark.parametrize("setting", ["cluster", "features"])
def test_a_setting_that_has_the_name_of_another_thing_is_told(setting):
    @dataclass(frozen=True)
    class Mistaken(DPS):
        features: Any = 0

    settings: dict[str, Any] = {"features": None, setting: 3}
    with pytest.raises(InputError, match=f"model 'dps': {setting}=3 must name columns, or be None"):
        Mistaken(**settings).online(["a"])


NO_COUNTS = Statistics(
    np.zeros((1, 2)), np.zeros((1, 1, 2, 2)), np.zeros((2, 1)), Counts(np.zeros(1, np.int32), np.zeros(1, np.int32))
)


def test_a_program_need_not_inherit_what_it_leaves_out():
    plain, own = (as_dynamics(Plain()), as_dynamics(OfItsOwn()))
    assert (plain.name, plain.cluster, plain.fitted_by, plain.m_step(NO_COUNTS, {})) == ("plain", None, "em", {})
    assert (own.cluster, own.fitted_by, own.m_step(NO_COUNTS, {})) == ("task", "map", {"rate": 1.0})
    assert as_dynamics(DiscreteHMM(num_states=4)) == DiscreteHMM(num_states=4)


@dataclass(frozen=True)
class Plain:
    name = "plain"

    def program(self, ppl, pool): ...


@dataclass(frozen=True)
class OfItsOwn(Plain):
    cluster: str = "task"

    fitted_by = "map"

    def m_step(self, statistics, params):
        return {"rate": 1.0}


def test_models_are_read_from_text():
    models: dict[str, Any] = MODELS.parse(
        "dps, mopps:decay=0.5,hmm:num_states=3,emission=ternary,cluster=task+difficulty,dps:decay=1.0"
    )
    assert list(models) == [
        "dps",
        "mopps:decay=0.5",
        "hmm:num_states=3,emission=ternary,cluster=task+difficulty",
        "dps:decay=1.0",
    ]
    assert models["mopps:decay=0.5"].decay == 0.5
    assert list(models.values())[2].cluster == ("task", "difficulty")


def test_settings_are_read_as_what_they_are():
    made: Any = MODELS.parse_one("hmm:num_exposures=1,cluster=007,num_states=4")
    assert (made.num_exposures, made.cluster, made.num_states) == (1, "007", 4)
    made = MODELS.parse_one("dps:prior_initial=0.5+0.3+0.2")
    assert made.describe()["prior_initial"] == [0.5, 0.3, 0.2]
    assert MODELS.parse("dps,some.npz", load=lambda path, cls: (path, cls))["some.npz"] == ("some.npz", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gp", "model 'gp' is none of dps, mopps, rate, features, kgps"),
        ("dps:tau=1", "model 'dps' has no setting 'tau'; it has decay, prior_transition, prior_initial"),
        ("decay=1", "'decay=1' comes before any name"),
        ("dps,dps", "'dps' is given twice"),
        (" ,", "name at least one of dps"),
        ("dps:decay=fast", "model 'dps': decay='fast' is not a finite number"),
        ("dps:decay=0.5,decay=0.7", "'decay' is given twice"),
        ("dps:prior_transition=much", "prior_transition='much' is not a finite number or one of uniform"),
        ("dps:prior_initial=0.5+0.5+0.5", "prior_initial=.* is not 3 probabilities"),
        ("mopps:prior_alpha=inf", "prior_alpha='inf' is not a finite number"),
        ("hmm:num_states=3.5", "num_states=3.5 is not a whole number"),
        ("hmm:num_exposures=4", "num_exposures=4 is none of 1, 2, 3"),
        ("hmm:noise=0.1", "only the ternary emission has noise"),
        ("fit.npz", "model 'fit.npz' is none of"),
    ],
)
def test_bad_model_texts_are_named(text, message):
    with pytest.raises(InputError, match=message):
        MODELS.parse(text)


def test_public_names_exist():
    for name in promptdyn.__all__:
        assert getattr(promptdyn, name) is not None
    assert set(dir(promptdyn)) == set(promptdyn.__all__)
    with pytest.raises(AttributeError, match="no attribute 'selekt'"):
        _ = promptdyn.selekt  # type: ignore[attr-defined]
