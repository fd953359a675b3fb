"""Clusters of prompts, for models that pool over them: labels from columns, from numbers, or from features.

Each function gives (prompt,) labels, for a column of the pool (`Prompts(ids, {"kind": labels})`) or of a dataset.
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

# Names under which datasets keep what kind of prompt a row is, and how hard.
LABEL_COLUMNS = ("task", "difficulty", "level", "data_source", "category", "subject", "topic", "ability")
# Prompts that clusters taken of themselves have in the mean, at least.
PROMPTS_PER_CLUSTER = 8


def cross(columns: Sequence[Sequence[Any] | NDArray]) -> NDArray[np.object_]:
    r"""(prompt,) labels of one column as strings, or of several joined by "|", where "\|" is one inside a label."""
    texts = [[str(label) for label in column] for column in columns]
    if len(texts) == 1:
        return np.fromiter(texts[0], object, len(texts[0]))
    escaped = [[label.replace("\\", r"\\").replace("|", r"\|") for label in column] for column in texts]
    return np.fromiter(map("|".join, zip(*escaped, strict=True)), object, len(texts[0]))


def uncross(label: str) -> list[str]:
    """(column,) what `cross` joined, of one prompt."""
    parts = [""]
    for token in re.findall(r"\\.|[^\\]", label, re.DOTALL):
        if token == "|":
            parts.append("")
        else:
            parts[-1] += token[-1]
    return parts


def few_levels_first(columns: Mapping[str, Any]) -> tuple[str, ...]:
    """Columns whose levels, crossed, are clusters: those of few levels first, while eight prompts share one on average.

    A column with one level, or with almost as many as prompts, says nothing and is left out.

    Args:
        columns: name -> (prompt,) labels.

    Returns:
        Names, in the order of `columns`; empty where none will do.
    """
    labels = {name: [str(label) for label in column] for name, column in columns.items()}
    chosen: list[str] = []
    for name in sorted(labels, key=lambda name: len(set(labels[name]))):
        crossed = set(zip(*(labels[each] for each in (*chosen, name)), strict=True))
        if len(set(labels[name])) > 1 and len(crossed) * PROMPTS_PER_CLUSTER <= len(labels[name]):
            chosen.append(name)
    return tuple(name for name in labels if name in chosen)


def quantile_bins(values: ArrayLike, num_bins: int = 8) -> list[str]:
    """Labels of as many bins, about equally filled, of one number a prompt, such as its length.

    Args:
        values: (prompt,) finite numbers.
        num_bins: at most; default 8. Where many prompts have the same number there are fewer.

    Returns:
        (prompt,) labels such as "q03", in the order of the numbers.

    Raises:
        InputError: values that are not one finite number a prompt, or fewer prompts than bins.
    """
    numbers = _finite(values, ndim=1)
    if not 1 <= num_bins <= len(numbers):
        raise InputError(f"num_bins={num_bins} for {len(numbers)} prompts: give 1 to {len(numbers)}")
    bounds = np.unique(np.quantile(numbers, np.linspace(0.0, 1.0, num_bins + 1)[1:-1]))
    digits = len(str(num_bins - 1))
    return [f"q{place:0{digits}d}" for place in np.searchsorted(bounds, numbers, side="left")]


def kmeans(features: ArrayLike, num_clusters: int = 32, seed: int = 0) -> list[str]:
    """Labels by k-means on features, from k-means++ starts (SciPy).

    Args:
        features: (prompt feature) finite numbers, each on the same scale.
        num_clusters: at most; default 32.
        seed: of the starts; default 0.

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
    given = np.asarray(values)
    if given.dtype.kind not in "biuf" or given.ndim != ndim or not len(given):
        need = "one number a prompt" if ndim == 1 else "one row of numbers a prompt"
        raise InputError(f"values of shape {given.shape} and type {given.dtype}: need {need}")
    given = given.astype(np.float64)
    for at in np.argwhere(~np.isfinite(given))[:1]:
        raise InputError(f"prompt {at[0]} has the value {given[tuple(at)]}: give finite numbers")
    return given
