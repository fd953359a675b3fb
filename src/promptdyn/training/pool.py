"""What a dataset tells of its prompts: ids, labels and features, and the filter that a model makes of them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from promptdyn._columns import NO_LABEL, is_missing
from promptdyn.clusters import LABEL_COLUMNS, few_levels_first
from promptdyn.errors import InputError
from promptdyn.evaluation.forecast import check_filters, online_filter
from promptdyn.features import from_columns
from promptdyn.history import cross
from promptdyn.inference import Fit, Refitted
from promptdyn.models import MODELS, FeatureRate, InformativeRate
from promptdyn.models.base import DynamicsLike, cluster_of
from promptdyn.online import OnlineFilter
from promptdyn.training.content import content_ids, values

__all__ = ["AUTO", "dynamics", "label_columns", "labels", "make_filter", "prompt_ids", "prompt_rows", "reads_policy"]

AUTO = "auto"
# What `FeatureRate.features` says where the policy is to read the prompts.
POLICY = "policy"

logger = logging.getLogger(__name__)


def prompt_ids(dataset: Any, id_column: str = "prompt_id") -> list[str]:
    """Ids of a dataset's prompts, as the selector and the trainer know them: the keys of `prompt_rows`, see there."""
    return list(prompt_rows(dataset, id_column))


def prompt_rows(dataset: Any, id_column: str = "prompt_id") -> dict[str, int]:
    """The prompts of a dataset: id -> row, in row order.

    Rows that repeat another in every column are the same prompt, and the first stands for all. Rows of one prompt that
    differ in any other column, as in the answer or a picture, are prompts of their own. Where there are such, a line is
    logged.

    Args:
        dataset: a `datasets.Dataset`.
        id_column: the column that holds the ids. Where the dataset has none, an id is a hash of the row's "prompt",
            and of the whole row for rows of one prompt that differ: the same in every run, whatever the rows' order.

    Raises:
        InputError: no dataset that can be indexed, no column "prompt", an empty id, an id of two rows that differ, or
            a file, such as a picture, that is needed to tell rows apart and cannot be read.
    """
    if not isinstance(dataset, Dataset):
        raise InputError(
            f"the training data is of type {type(dataset).__name__}, which has no rows to choose from: give "
            "a datasets.Dataset (of a stream, Dataset.from_list(list(stream)))"
        )
    if "prompt" not in dataset.column_names:
        raise InputError(f"the dataset has no column 'prompt': it has {', '.join(dataset.column_names) or 'none'}")
    given = id_column in dataset.column_names
    if given:
        ids = ["" if is_missing(prompt_id) else str(prompt_id) for prompt_id in values(dataset, id_column)]
        if "" in ids:
            raise InputError(f"row {ids.index('')} of the dataset has an empty {id_column!r}: give every row an id")
    else:
        logger.warning("the dataset has no column %r: ids are hashes of the prompts", id_column)
        ids = content_ids(dataset, ["prompt"])
    # Rows are read whole only where an id repeats.
    repeated = {prompt_id for prompt_id, count in Counter(ids).items() if count > 1}
    several = [row for row, prompt_id in enumerate(ids) if prompt_id in repeated]
    content = dict(zip(several, content_ids(dataset, dataset.column_names, several), strict=True))
    contents: dict[str, dict[str, int]] = {}  # of an id: those of its rows, and the first row of each
    for row in several:
        contents.setdefault(ids[row], {}).setdefault(content[row], row)
    rows: dict[str, int] = {}
    apart = 0
    for row, prompt_id in enumerate(ids):
        if len(contents.get(prompt_id, ())) > 1:
            if given:
                first, second, *_ = contents[prompt_id].values()
                raise InputError(
                    f"prompt id {prompt_id!r} is that of rows {first} and {second}, which differ: make the ids unique"
                )
            prompt_id = content[row]
            apart += prompt_id not in rows
        rows.setdefault(prompt_id, row)
    if len(rows) < len(ids):
        logger.warning("%d of %d rows of the dataset repeat others and are left out", len(ids) - len(rows), len(ids))
    if apart:
        logger.warning(
            "%d rows share their prompt with others and differ in another column: each is a prompt of its own", apart
        )
    return rows


def label_columns(dataset: Dataset) -> list[str]:
    """Columns of the dataset that by their names hold what kind of prompt a row is, or how hard."""
    return [column for column in LABEL_COLUMNS if column in dataset.column_names]


def labels(dataset: Dataset, column: str) -> list[str]:
    """(prompt,) labels of a column as text, "(none)" where it is empty; InputError where there is no such column."""
    if column not in dataset.column_names:
        there = ", ".join(dataset.column_names)
        raise InputError(f"cluster column {column!r} is not in the dataset: it has {there}")
    return [NO_LABEL if is_missing(label) or label == "" else str(label) for label in values(dataset, column)]


def dynamics(text: str, dataset: Dataset, refit_every: int = 0) -> tuple[Any, str, bool]:
    """The model that a text names, for a dataset, what it goes by in words, and whether that was found in the dataset.

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
            return InformativeRate(cluster=found), f"how often {kinds} teach", True
        words = f"the policy's reading of each, since no column ({', '.join(LABEL_COLUMNS)}) tells kinds"
        return FeatureRate(), words, True
    model = MODELS.parse_one(text, load=Fit.load)
    is_program = isinstance(model, DynamicsLike)
    cluster = cluster_of(model) if is_program else model.cluster
    automatic = cluster == "auto" and bool(refit_every or not is_program)
    if automatic:
        model = replace(model, cluster=found or None)
    if refit_every:
        model = Refitted(model, every=refit_every)
    check_filters(model)
    return model, text, automatic


def reads_policy(model: Any) -> bool:
    """Whether a model's features are the policy's own reading of the prompts."""
    return bool(model.features == POLICY)


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
    if model.features is not None:
        columns = _columns(dataset, model.features, "features")
        return online_filter(
            model, prompt_ids, features=from_columns({column: values(dataset, column) for column in columns})
        )
    if model.cluster is None:
        return online_filter(model, prompt_ids)
    columns = _columns(dataset, model.cluster, "cluster")
    return online_filter(model, prompt_ids, cross([labels(dataset, column) for column in columns]))


def _columns(dataset: Dataset, named: str | tuple[str, ...], setting: str) -> list[str]:
    columns = [named] if isinstance(named, str) else list(named)
    for column in columns:
        if column not in dataset.column_names:
            raise InputError(
                f"the model needs the column {column!r}, the dataset has {', '.join(dataset.column_names)}: name "
                f"another, as in {setting}=COLUMN"
            )
    return columns
