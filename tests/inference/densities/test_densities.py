"""Densities of long histories."""

import numpy as np
import pytest

from configs import CONFIGS, HISTORY, density


def somewhere(made, seed=0):
    """A point off the start, as real numbers."""
    rng = np.random.default_rng(seed)
    start = made.unconstrain(made.program.start)
    return {name: value + 0.3 * rng.standard_normal(value.shape) for name, value in start.items()}


def test_long_histories_are_summed_chunk_by_chunk(monkeypatch):
    model = CONFIGS["hmm with clusters"]
    whole = density(model, HISTORY, "numpyro")
    monkeypatch.setattr("promptdyn.inference.densities.LARGEST_CHUNK", 100)
    parts = density(model, HISTORY, "numpyro")
    values = somewhere(whole)
    joint, slope = whole.joint(values)
    joint_of_parts, slope_of_parts = parts.joint(values)
    assert joint_of_parts == pytest.approx(joint)
    for name in slope:
        np.testing.assert_allclose(slope_of_parts[name], slope[name], rtol=1e-9)
    params = whole.program.start
    np.testing.assert_allclose(parts.log_marginals(params), whole.log_marginals(params))
    (counts, *_), (counts_of_parts, *_) = whole.expected(params), parts.expected(params)
    for one, other in zip(counts[:3], counts_of_parts[:3], strict=True):
        np.testing.assert_allclose(other, one)
