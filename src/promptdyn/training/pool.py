"""What a dataset tells of its prompts, labels and features, and the filter that a model makes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from promptdyn._columns import NO_LABEL
from promptdyn.clusters import LABEL_COLUMNS, few_levels_first
from promptdyn.errors import InputError
from promptdyn.evaluation.forecast import online_filter
from promptdyn.features import from_columns
from promptdyn.history import cross
from promptdyn.inference import Fit, Refitted
from promptdyn.models import MODELS, FeatureRate, InformativeRate
from promptdyn.models.base import Dynamics, cluster_of
from promptdyn.online import OnlineFilter

__all__ = ["AUTO", "dynamics", "label_columns", "labels", "make_filter", "reads_policy"]

AUTO = "auto"
# What `FeatureRate.features` says where the policy is to read the prompts.
POLICY = "policy"


def label_columns(dataset: Dataset) -> list[str]:
    """Columns of the dataset that by their names hold what kind of prompt a row is, or how hard."""
    return [column for column in LABEL_COLUMNS if column in dataset.column_names]


def labels(dataset: Dataset, column: str) -> list[str]:
    """(prompt,) labels of a column as text, "(none)" where there is none; InputError where there is no such column."""
    if column not in dataset.column_names:
        there = ", ".join(dataset.column_names)
        raise InputError(f"cluster column {column!r} is not in the dataset: it has {there}")
    return [NO_LABEL if label is None else str(label) for label in dataset[column]]


def dynamics(text: str, dataset: Dataset, refit_every: int = 0) -> tuple[Any, str]:
    """The model that a text names, for a dataset, and what it goes by in words.

    Args:
        text: "auto", or a model as in "dps:decay=0.7", "rate:cluster=task", "features"; or a fit (.npz).
        dataset: whose label columns "auto" takes, and those of models with cluster="auto".
        refit_every: steps after which a program is fitted again on the run; 0: never.

    Raises:
        InputError: an unknown name or setting, a file that is no fit, or a program without `refit_every`.
    """
    there = {column: labels(dataset, column) for column in label_columns(dataset)}
    found = few_levels_first(there)
    if text == AUTO:
        if found:
            size = len(set(zip(*(there[column] for column in found), strict=True)))
            kinds = f"prompts of like {' and '.join(found)} ({size} kinds)"
            return InformativeRate(cluster=found), f"how often {kinds} teach"
        return FeatureRate(), f"the policy's reading of each, since no column ({', '.join(LABEL_COLUMNS)}) tells kinds"
    model = MODELS.parse_one(text, load=Fit.load)
    if cluster_of(model) == "auto" and (refit_every or not isinstance(model, Dynamics)):
        model = replace(model, cluster=found or None)
    return (Refitted(model, every=refit_every) if refit_every else model), text


def reads_policy(model: Any) -> bool:
    """Whether a model's features are the policy's own reading of the prompts."""
    return getattr(model, "features", None) == POLICY


def make_filter(
    model: Any, prompt_ids: list[str], dataset: Dataset, read: Callable[[], NDArray[np.float32]] | None = None
) -> OnlineFilter:
    """A fresh filter over a dataset's prompts.

    Args:
        model: what filters: a `Fit`, a `Refitted`, or a model that learns online.
        prompt_ids: (prompt,) of the rows.
        dataset: which has the columns that the model is clustered by, or reads.
        read: gives (prompt feature), the policy's reading, where the model goes by it.

    Raises:
        InputError: a column that the dataset has not, or that cannot be used, or as the model's filter raises.
    """
    if reads_policy(model):
        assert read is not None
        return online_filter(model, prompt_ids, features=read())
    if (named := getattr(model, "features", None)) is not None:
        columns = _columns(dataset, named, model)
        return online_filter(model, prompt_ids, features=from_columns({column: dataset[column] for column in columns}))
    cluster = cluster_of(model.model if isinstance(model, Fit) else model)
    if cluster is None:
        return online_filter(model, prompt_ids)
    columns = _columns(dataset, cluster, model)
    return online_filter(model, prompt_ids, cross([labels(dataset, column) for column in columns]))


def _columns(dataset: Dataset, named: str | tuple[str, ...], model: Any) -> list[str]:
    columns = [named] if isinstance(named, str) else list(named)
    for column in columns:
        if column not in dataset.column_names:
            raise InputError(
                f"the model needs the column {column!r}, the dataset has {', '.join(dataset.column_names)}: name "
                f"another, as in {'features' if hasattr(model, 'features') else 'cluster'}=COLUMN"
            )
    return columns
