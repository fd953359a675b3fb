"""What is fitted, to which rows, and what cannot be."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from pyro import poutine

import promptdyn
from configs import CONFIGS, HISTORY, OneRate, OwnSpeed
from promptdyn.errors import InputError
from promptdyn.history import RewardHistory
from promptdyn.models import DPS


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
