"""Rewards compared within rounding, and the moments of groups."""

import math

import numpy as np
import pytest

from promptdyn.success import moments, spread


def test_spread_is_of_what_is_there_and_above_rounding() -> None:
    groups = np.array(
        [
            [1.0, 1.0, math.nan],
            [1.0, 0.0, math.nan],
            [math.nan, math.nan, math.nan],
            [1.0, 0.9999999, 1.0],
            [1e4, 1e4 + 0.01, 1e4],
        ]
    )
    assert spread(groups).tolist() == [0.0, 1.0, 0.0, 0.0, 0.0]
    assert spread(np.zeros((0, 4))).tolist() == []


def test_moments_of_groups() -> None:
    folded, group = np.array([0.5, 1.5, np.nan, 3.0, np.nan]), np.array([0, 0, 0, 1, 2])
    mean, std = moments(folded, group, 4)
    np.testing.assert_array_equal(mean, np.array([1.0, 3.0, np.nan, np.nan], np.float32))
    np.testing.assert_allclose(std, np.array([np.std([0.5, 1.5], ddof=1), 0.0, np.nan, np.nan], np.float32))
    for huge in (1e39, 1e160):
        np.testing.assert_array_equal(moments(np.array([huge, 0, 0.5]), np.array([0, 0, 1]), 2)[0], [np.nan, 0.5])
    many = 1e6 + np.array([0.25, 0.5, 1.0])  # far from 0
    assert moments(many, np.zeros(3, int), 1)[1][0] == pytest.approx(np.std(many, ddof=1))
