"""A pool of prompts as a table: what models know about the prompts that they forecast."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from promptdyn._columns import NO_LABEL, is_missing, quote
from promptdyn.clusters import cross, few_levels_first
from promptdyn.errors import InputError
from promptdyn.features import as_features, from_columns

__all__ = ["AUTO", "POLICY", "PROMPT_ID", "Column", "Columns", "Ids", "Prompts", "column_names"]

Columns = str | tuple[str, ...]
Ids = Sequence[str] | NDArray[Any]
"""(prompt,) ids. Ids that are no text are converted to text."""
Column = Sequence[Any] | NDArray[Any]
"""(prompt,) labels, numbers or vectors of numbers."""
# Names with a meaning of their own: an automatic choice of columns, the policy's reading of each prompt, and the ids.
AUTO, POLICY, PROMPT_ID = "auto", "policy", "prompt_id"


def column_names(columns: Columns | Sequence[str] | None) -> tuple[str, ...]:
    """Return a tuple of column names, from none, one, or several."""
    return (columns,) if isinstance(columns, str) else tuple(columns or ())


@dataclass(frozen=True, eq=False, repr=False)
class Prompts:
    """A pool of prompts: their ids, and columns of what else is known about each.

        pool = Prompts(["a", "b"], {"task": ["sums", "sorting"], "length": [12, 80]})
        online = DPS(cluster="task").online(pool)

    `history.prompts` is the pool of a history, `promptdyn.training.dataset.prompts(dataset)` that of a dataset. For a
    model that needs no column, a list of ids will do: `DPS().online(["a", "b"])`.

    Args:
        ids: (prompt,) unique ids, in the order of every (prompt, ...) array. Ids that are no text are converted to
            text.
        columns: name -> (prompt,) labels, numbers, or vectors of numbers (embeddings). Default none. The mapping may
            read a column only when it is asked for. The column "policy" holds the policy's reading of each prompt,
            whose features are used unchanged (`promptdyn.training.reading.PolicyReader`).
        label_columns: names of the columns from which "auto" chooses. Default: all with one text or number per prompt.

    Raises:
        InputError: an id appears twice; `ids` is a single text; a column does not have one value per prompt.
    """

    ids: Sequence[str]
    columns: Mapping[str, Column] = field(default_factory=dict)
    label_columns: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.ids, str | bytes | Prompts):
            raise InputError(f"ids={self.ids!r} is no list of ids: give one, as in Prompts(['a', 'b'])")
        ids = tuple(map(str, self.ids))
        object.__setattr__(self, "ids", ids)
        if len(set(ids)) < len(ids):
            seen: set[str] = set()
            twice = next(i for i in ids if i in seen or seen.add(i))  # type: ignore[func-returns-value]
            raise InputError(f"prompt id {twice!r} is in the pool twice: ids must be unique")
        if isinstance(self.columns, dict):  # another mapping may read a column only when it is asked for
            for name in self.columns:
                self.column(name)

    @classmethod
    def of(cls, prompts: Prompts | Ids) -> Prompts:
        """Return a pool unchanged, or make one from ids, without columns."""
        return prompts if isinstance(prompts, Prompts) else cls(cast("Sequence[str]", prompts))

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"Prompts({len(self):,} ids, columns {', '.join(self.columns) or 'none'})"

    def with_column(self, name: str, values: Column) -> Prompts:
        """Return the pool with a column added or replaced. Raises as `column` does."""
        pool = replace(self, columns=ChainMap({name: values}, cast("dict[str, Column]", self.columns)))
        pool.column(name)
        return pool

    def select(self, rows: Iterable[int]) -> Prompts:
        """Return the pool of the prompts with these indices, in this order, with all columns."""
        rows = list(rows)
        columns = {name: [self.column(name)[row] for row in rows] for name in self.columns}
        return replace(self, ids=[self.ids[row] for row in rows], columns=columns)

    def column(self, name: str) -> Column:
        """Return a column's (prompt,) values.

        Raises:
            InputError: there is no such column, or it does not have one value per prompt.
        """
        if name not in self.columns:
            available = ", ".join(self.columns)
            mend = f"give one of {available}, or add it" if available else "the prompts have none: add it to them"
            if name == POLICY:
                mend = f"it is the policy's own reading, which a trainer adds: {mend}"
            raise InputError(f"there is no column {name!r}: {mend}")
        values = self.columns[name]
        if isinstance(values, str) or not hasattr(values, "__len__"):
            raise InputError(f"column {name!r} is {quote(values)}: give {len(self)} values, one per prompt")
        if len(values) != len(self):
            raise InputError(f"column {name!r} has {len(values)} values for {len(self)} prompts: give one per prompt")
        return values

    @cached_property
    def auto_columns(self) -> tuple[str, ...]:
        """The columns that "auto" stands for, as `promptdyn.clusters.few_levels_first` chooses them; may be empty."""
        if self.label_columns is None:
            names = [name for name in self.columns if len(self) and np.ndim(self.column(name)[0]) == 0]
        else:
            names = list(self.label_columns)
        return few_levels_first({name: self.labels(name) for name in names})

    def resolve(self, columns: Columns | None) -> Columns | None:
        """Return `columns` with "auto" replaced by `auto_columns`, or by None if there are none."""
        return self.auto_columns or None if columns == AUTO and AUTO not in self.columns else columns

    def labels(self, columns: Columns | Sequence[str]) -> NDArray[np.object_]:
        """Return the (prompt,) labels of one column, or of several crossed; "(none)" for a prompt without a label.

        The column "prompt_id" holds the ids. Labels are crossed by `promptdyn.clusters.cross`.

        Raises:
            InputError: as in `column`.
        """
        return cross([self.ids if name == PROMPT_ID else _labels(self.column(name)) for name in column_names(columns)])

    def features(self, columns: Columns | Sequence[str]) -> NDArray[np.float32]:
        """Return (prompt feature) features of one or several columns, made by `promptdyn.features.from_columns`.

        The column "policy" holds features already, which are used unchanged.

        Raises:
            InputError: as in `column`, or a column from which no features can be made.
        """
        parts = [
            as_features(self.column(name), self.ids) if name == POLICY else from_columns({name: self.column(name)})
            for name in column_names(columns)
        ]
        return np.concatenate(parts, axis=1)


def _labels(values: Iterable[Any]) -> list[str]:
    """Return values as text, "(none)" for missing and empty ones."""
    return [
        # Most values are text, which this first test finds quickly.
        value if type(value) is str and value else NO_LABEL if is_missing(value) or value == "" else str(value)
        for value in values
    ]
