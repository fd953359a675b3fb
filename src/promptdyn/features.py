"""Make features of prompts, for `FeatureRate`, from columns of a dataset: numbers, embeddings and words.

Features are (prompt feature) numbers, each feature with mean 0 and variance 1 over the pool. A policy that reads the
prompts (`promptdyn.training.reading`) gives such numbers too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from promptdyn.errors import InputError

__all__ = ["LEAST_SPREAD", "Floats", "PrincipalAxes", "as_features", "from_columns", "random_functions", "standardize"]

Floats = NDArray[np.float32]
# A feature with a smaller standard deviation than this is not scaled up to variance 1.
LEAST_SPREAD = 1e-6


def standardize(values: ArrayLike) -> Floats:
    """Scale (prompt feature) values to mean 0 and variance 1; a feature that is equal for all prompts becomes 0."""
    array = np.asarray(values, np.float64)
    spread = array.std(axis=0)
    centered = array - array.mean(axis=0)
    return np.divide(centered, spread, out=np.zeros_like(array), where=spread > LEAST_SPREAD).astype(np.float32)


def as_features(values: ArrayLike, prompt_ids: Sequence[str]) -> Floats:
    """Return (prompt feature) numbers as features, unchanged.

    Raises:
        InputError: the numbers are not one row of finite numbers per prompt.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "biuf" or array.ndim != 2 or len(array) != len(prompt_ids) or array.shape[1] == 0:
        raise InputError(
            f"features of shape {array.shape} and type {array.dtype} for {len(prompt_ids)} prompts: need one row "
            "of numbers per prompt"
        )
    features = array.astype(np.float32)
    for i in np.flatnonzero(~np.isfinite(features).all(axis=1))[:1]:
        raise InputError(f"features of prompt {prompt_ids[i]!r} are not all finite: {features[i][:8]}")
    return features


def random_functions(features: Floats, num_functions: int, scale: float, seed: int) -> Floats:
    """Return (function prompt) random Fourier functions of (prompt feature) features (Rahimi & Recht 2007).

    Args:
        features: features of variance 1.
        num_functions: number of functions; the variances of all of them add up to 1 at any prompt.
        scale: length scale: prompts whose features differ by less, in root mean square, have similar values.
        seed: seed of the functions.
    """
    num_features = features.shape[1]
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(num_functions, num_features)) / (scale * np.sqrt(num_features))
    phase = rng.uniform(0.0, 2.0 * np.pi, num_functions)
    angle = directions.astype(np.float32) @ features.T + phase.astype(np.float32)[:, None]
    np.cos(angle, out=angle)
    angle *= np.float32(np.sqrt(2.0 / num_functions))
    return angle


def from_columns(columns: Mapping[str, Sequence[Any] | NDArray[Any]], num_components: int = 16) -> Floats:
    """Make features from columns of a dataset.

    Args:
        columns: name -> (prompt,) numbers; vectors of numbers of one length (an embedding, of which the principal
            components become features); or words (one feature per level).
        num_components: largest number of principal components of a vector; default 16.

    Returns:
        (prompt feature) standardized features.

    Raises:
        InputError: no column; a column with a gap, with numbers that are not finite, or with vectors of several
            lengths.
    """
    if not columns:
        raise InputError("no column to take features from: name one or more")
    return np.concatenate(
        [_column_features(name, list(column), num_components) for name, column in columns.items()], axis=1
    )


def _column_features(name: str, column: list[Any], num_components: int) -> Floats:
    for row in (row for row, value in enumerate(column) if value is None):
        raise InputError(f"feature column {name!r} has a gap in row {row}: fill it, or name another column")
    if any(isinstance(value, str) for value in column):
        levels = sorted({str(value) for value in column})
        if len(levels) * 2 > len(column):
            raise InputError(f"feature column {name!r} has {len(levels)} words for {len(column)} prompts: too many")
        return standardize(np.array([str(value) for value in column])[:, None] == np.array(levels))
    try:
        values = np.asarray(column, np.float64)
    except (TypeError, ValueError):
        raise InputError(f"feature column {name!r} holds neither words, numbers, nor vectors of one length") from None
    for row in np.unique(np.argwhere(~np.isfinite(values))[:, 0])[:1]:
        raise InputError(f"feature column {name!r} holds a number that is not finite in row {row}")
    if values.ndim > 2:
        raise InputError(f"feature column {name!r} holds arrays of shape {values.shape[1:]}: flatten them")
    if values.ndim == 1:
        return standardize(values[:, None])
    return PrincipalAxes.fit(values, num_components).along(values)


class PrincipalAxes(NamedTuple):
    """Principal axes of a cloud of points, and the spread along them."""

    center: NDArray[np.float64]  # (dimension,)
    axes: NDArray[np.float64]  # (dimension component)
    spread: NDArray[np.float64]  # (component,)

    @classmethod
    def fit(cls, points: NDArray, num_components: int) -> PrincipalAxes:
        """Return the axes of most variance of (prompt dimension) points, after each dimension is standardized."""
        from scipy.linalg import eigh

        center, scale = points.mean(axis=0), points.std(axis=0) + LEAST_SPREAD
        cloud = (points - center) / scale
        size = cloud.shape[1]
        num_axes = min(num_components, size, max(len(points) - 1, 1))
        variance, axes = eigh(cloud.T @ cloud / len(cloud), subset_by_index=(size - num_axes, size - 1))
        variance, axes = variance[::-1], axes[:, ::-1]
        # The sign of an axis is arbitrary. Making its largest entry positive gives the same axes on every machine.
        axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(num_axes)])
        return cls(center, axes / scale[:, None], np.sqrt(np.maximum(variance, LEAST_SPREAD)))

    def along(self, points: NDArray) -> Floats:
        """Return the points' (prompt component) coordinates along the axes, in units of the spread."""
        return ((points - self.center) @ self.axes / self.spread).astype(np.float32)
