"""One test per contract: everything registered satisfies it."""

import json

import numpy as np
import pytest

import promptdyn
from promptdyn.errors import InputError
from promptdyn.models import MODELS, Dynamics
from promptdyn.online import OnlineModel
from promptdyn.registry import describe
from promptdyn.selection import POLICIES, Policy


@pytest.mark.parametrize("name", MODELS)
def test_every_model_meets_one_of_the_two_contracts(name):
    model = MODELS.create(name)
    assert isinstance(model, Dynamics) != isinstance(model, OnlineModel)
    described = model.describe() if isinstance(model, OnlineModel) else describe(model)
    json.dumps(described)
    assert described.pop("name") == name == model.name
    again = MODELS.create(name, described)
    assert (again.describe() if isinstance(model, OnlineModel) else describe(again)) == {"name": name, **described}
    if isinstance(model, OnlineModel):
        features = [np.zeros((3, 2), np.float32)] if hasattr(model, "features") else []
        state = model.init([None] * 3, *features)
        assert all(
            field.shape[-1] == 3 for name, field in state._asdict().items() if name not in getattr(model, "shared", ())
        )


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_meets_its_contract(name):
    assert isinstance(POLICIES.create(name), Policy)


def test_models_are_read_from_text():
    models = MODELS.parse(
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
    made = MODELS.parse_one("hmm:num_exposures=1,cluster=007,num_states=4")
    assert (made.num_exposures, made.cluster, made.num_states) == (1, "007", 4)
    assert MODELS.parse_one("dps:prior_initial=0.5+0.3+0.2").describe()["prior_initial"] == [0.5, 0.3, 0.2]
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
        ("dps:prior_transition=much", "prior_transition='much' is none of uniform"),
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
        _ = promptdyn.selekt
