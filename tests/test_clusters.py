"""Clusters of prompts: labels crossed, bins, k-means, and which columns to cross."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histories import texts
from promptdyn import clusters
from promptdyn.clusters import cross, uncross
from promptdyn.errors import InputError


@given(st.lists(st.tuples(texts | st.just(""), texts, texts), min_size=1, max_size=5))
def test_crossed_labels_are_told_apart_whatever_they_hold(rows):
    assert [tuple(uncross(label)) for label in cross(list(zip(*rows, strict=True)))] == rows


def test_clusters_of_numbers_and_features():
    assert clusters.quantile_bins([5, 1, 3, 2, 4, 6], 3) == ["q2", "q0", "q1", "q0", "q1", "q2"]
    assert set(clusters.quantile_bins([7.0] * 5, 4)) == {"q0"}
    x = np.concatenate([np.random.default_rng(0).normal(at, 0.1, (20, 2)) for at in (0.0, 5.0, 9.0)])
    found = clusters.kmeans(x, 3)
    assert sorted(found.count(label) for label in set(found)) == [20, 20, 20]
    assert found == clusters.kmeans(x, 3)
    with pytest.raises(InputError, match="num_bins=4 for 3 prompts"):
        clusters.quantile_bins([1, 2, 3], 4)
    with pytest.raises(InputError, match="num_clusters=4 for 3 prompts"):
        clusters.kmeans(x[:3], 4)
    with pytest.raises(InputError, match="prompt 1 has the value nan"):
        clusters.quantile_bins([1.0, float("nan")], 2)
    with pytest.raises(InputError, match="need one row of numbers per prompt"):
        clusters.kmeans([1.0, 2.0], 2)


def test_columns_of_few_levels_are_crossed_first():
    columns = {"level": [i % 4 for i in range(64)], "id": list(range(64)), "one": [1] * 64, "task": ["a", "b"] * 32}
    assert clusters.few_levels_first(columns) == ("level", "task")
    assert clusters.few_levels_first({"level": list(range(8))}) == ()
    json.dumps(clusters.few_levels_first(columns))
