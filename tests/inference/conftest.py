"""What the tests of several files fit."""

import pytest

import promptdyn
from configs import CONFIGS, HISTORY


@pytest.fixture(scope="session")
def sampled():
    model = CONFIGS["hmm with clusters"]
    return promptdyn.fit(model, HISTORY, "nuts", observed="all", num_warmup=60, num_samples=60, seed=3)
