"""Make cluster labels for models that pool over clusters: from columns of labels, from numbers, or from features.

Each function returns (prompt,) labels, for a column of the pool (`Prompts(ids, {"kind": labels})`) or of a dataset.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from promptdyn.errors import InputError

__all__ = [
    "LABEL_COLUMNS",
    "PROMPTS_PER_CLUSTER",
    "cross",
    "few_levels_first",
    "kmeans",
    "quantile_bins",
    "uncross",
]

# Usual names of dataset columns that tell the kind of a prompt, or how hard it is.
LABEL_COLUMNS = (
    *["task", "difficulty", "level", "data_source", "category", "subject", "topic", "ability"],
    "environment",  # by which TRL finds a prompt's environment
)
# Clusters that are chosen automatically have at least so many prompts on average.
PROMPTS_PER_CLUSTER = 8


def cross(columns: Sequence[Sequence[Any] | NDArray]) -> NDArray[np.object_]:
    r"""Return (prompt,) labels of one column as strings, or of several joined by "|"; a "|" in a label becomes "\|"."""
    texts = [[str(label) for label in column] for column in columns]
    if len(texts) == 1:
        return np.fromiter(texts[0], object, len(texts[0]))
    escaped = [[label.replace("\\", r"\\").replace("|", r"\|") for label in column] for column in texts]
    return np.fromiter(map("|".join, zip(*escaped, strict=True)), object, len(texts[0]))


def uncross(label: str) -> list[str]:
    """Return the (column,) labels that `cross` joined into one label."""
    parts = [""]
    for token in re.findall(r"\\.|[^\\]", label, re.DOTALL):
        if token == "|":
            parts.append("")
        else:
            parts[-1] += token[-1]
    return parts


def few_levels_first(columns: Mapping[str, Any]) -> tuple[str, ...]:
    """Choose columns to cross into clusters, those with few levels first, while clusters have 8 prompts on average.

    A column with a single level, or with almost as many levels as prompts, is left out.

    Args:
        columns: name -> (prompt,) labels.

    Returns:
        Names of the chosen columns, in the order of `columns`; empty if none is suitable.
    """
    labels = {name: [str(label) for label in column] for name, column in columns.items()}
    chosen: list[str] = []
    for name in sorted(labels, key=lambda name: len(set(labels[name]))):
        crossed = set(zip(*(labels[each] for each in (*chosen, name)), strict=True))
        if len(set(labels[name])) > 1 and len(crossed) * PROMPTS_PER_CLUSTER <= len(labels[name]):
            chosen.append(name)
    return tuple(name for name in labels if name in chosen)


def quantile_bins(values: ArrayLike, num_bins: int = 8) -> list[str]:
    """Label prompts by bins of one number each, such as their lengths, with about as many prompts in every bin.

    Args:
        values: (prompt,) finite numbers.
        num_bins: largest number of bins; default 8. Fewer are made if many prompts have the same number.

    Returns:
        (prompt,) labels such as "q03", in the order of the numbers.

    Raises:
        InputError: values that are not one finite number per prompt, or fewer prompts than bins.
    """
    numbers = _finite(values, ndim=1)
    if not 1 <= num_bins <= len(numbers):
        raise InputError(f"num_bins={num_bins} for {len(numbers)} prompts: give 1 to {len(numbers)}")
    bounds = np.unique(np.quantile(numbers, np.linspace(0.0, 1.0, num_bins + 1)[1:-1]))
    digits = len(str(num_bins - 1))
    return [f"q{code:0{digits}d}" for code in np.searchsorted(bounds, numbers, side="left")]


def kmeans(features: ArrayLike, num_clusters: int = 32, seed: int = 0) -> list[str]:
    """Label prompts by k-means on their features, from a k-means++ start (SciPy).

    Args:
        features: (prompt feature) finite numbers on one scale.
        num_clusters: largest number of clusters; default 32.
        seed: seed of the start; default 0.

    Returns:
        (prompt,) labels such as "k07".

    Raises:
        InputError: features that are not rows of finite numbers, or fewer prompts than clusters.
    """
    from scipy.cluster.vq import kmeans2

    points = _finite(features, ndim=2)
    if not 1 <= num_clusters <= len(points):
        raise InputError(f"num_clusters={num_clusters} for {len(points)} prompts: give 1 to {len(points)}")
    _, codes = kmeans2(points, num_clusters, iter=25, minit="++", rng=np.random.default_rng(seed), missing="warn")
    digits = len(str(num_clusters - 1))
    return [f"k{code:0{digits}d}" for code in codes]


def _finite(values: ArrayLike, ndim: int) -> NDArray[np.float64]:
    array = np.asarray(values)
    if array.dtype.kind not in "biuf" or array.ndim != ndim or not len(array):
        need = "one number per prompt" if ndim == 1 else "one row of numbers per prompt"
        raise InputError(f"values of shape {array.shape} and type {array.dtype}: need {need}")
    array = array.astype(np.float64)
    for index in np.argwhere(~np.isfinite(array))[:1]:
        raise InputError(f"prompt {index[0]} has the value {array[tuple(index)]}: give finite numbers")
    return array
