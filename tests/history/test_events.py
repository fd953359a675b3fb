"""What a step does to a prompt: outcomes and exposures."""

from __future__ import annotations

import numpy as np

from promptdyn.history import Exposure, Outcome, outcome_of
from promptdyn.history.events import exposure_names, exposure_of


def test_what_a_step_does_to_a_prompt():
    k, n = np.array([0, 1, 0, 3, 8, 3]), np.array([1, 1, 8, 8, 8, 8])
    none, some, all_ = Outcome
    assert outcome_of(k, n).tolist() == [none, all_, none, some, all_, some]
    idle, trained, without_variance = Exposure
    expected = [without_variance, without_variance, without_variance, trained, without_variance, idle]
    assert exposure_of(k, n, np.array([True] * 5 + [False])).tolist() == expected
    assert exposure_names(3) == ("idle", "trained", "trained without variance")
    assert exposure_names(2) == ("idle", "trained")
    assert exposure_names(1) == ("any",)
