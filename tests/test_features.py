"""Features of prompts from columns of a dataset."""

import numpy as np
import pytest

from promptdyn import features
from promptdyn.errors import InputError


def test_features_from_columns():
    found = features.from_columns(
        {"length": [1, 2, 3, 4], "kind": ["a", "b", "a", "b"], "vector": np.arange(12.0).reshape(4, 3).tolist()},
        num_components=2,
    )
    assert found.shape == (4, 1 + 2 + 2)
    np.testing.assert_allclose(found[:, 0], np.array([-3, -1, 1, 3]) / np.sqrt(5), rtol=1e-6)
    np.testing.assert_allclose(found[:, 1], [1, -1, 1, -1])
    np.testing.assert_allclose(np.abs(found[:, 3]), np.abs(found[:, 0]), rtol=1e-5)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, "no column to take features from"),
        ({"x": [1.0, None]}, "'x' has a gap in row 1"),
        ({"x": [1.0, float("inf")]}, "'x' holds a number that is not finite in row 1"),
        ({"x": [[1.0], [1.0, 2.0]]}, "'x' holds neither words, numbers, nor vectors of one length"),
        ({"x": ["a", "b", "c"]}, "'x' has 3 words for 3 prompts"),
        ({"x": np.zeros((2, 2, 2)).tolist()}, "'x' holds arrays of shape"),
    ],
)
def test_bad_columns_are_named(columns, message):
    with pytest.raises(InputError, match=message):
        features.from_columns(columns)
