"""A pool of prompts as a table: what every model is told of the prompts that it forecasts."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from promptdyn._columns import NO_LABEL, is_missing, short
from promptdyn.clusters import cross, few_levels_first
from promptdyn.errors import InputError
from promptdyn.features import as_features, from_columns

__all__ = ["AUTO", "POLICY", "PROMPT_ID", "Column", "Columns", "Ids", "Prompts", "column_names"]

Columns = str | tuple[str, ...]
Ids = Sequence[str] | NDArray[Any]
"""(prompt,) ids. What is no text becomes one."""
Column = Sequence[Any] | NDArray[Any]
"""(prompt,) labels, numbers or vectors of numbers."""
# Columns of no table: those that tell kinds of prompts, the policy's reading of each, and the ids themselves.
AUTO, POLICY, PROMPT_ID = "auto", "policy", "prompt_id"


def column_names(columns: Columns | Sequence[str] | None) -> tuple[str, ...]:
    """Names of columns, of which a model may give none, one, or several."""
    return (columns,) if isinstance(columns, str) else tuple(columns or ())


@dataclass(frozen=True, eq=False, repr=False)
class Prompts:
    """A pool of prompts: their ids, and columns of what else is known of each.

        pool = Prompts(["a", "b"], {"task": ["sums", "sorting"], "length": [12, 80]})
        online = DPS(cluster="task").online(pool)

    A history has its own (`history.prompts`), and so has a dataset (`promptdyn.training.pool.prompts`). Where a model
    asks for no column, a list of ids stands for a pool: `DPS().online(["a", "b"])`.

    Args:
        ids: (prompt,) unique ids; their order is that of every (prompt, ...) array. What is no text becomes one.
        columns: name -> (prompt,) labels, numbers, or vectors of numbers (embeddings). Default none. A mapping may read
            a column when it is asked for. The column "policy" holds the policy's own reading of each prompt, features
            as they stand (`promptdyn.features.PolicyReader`).
        label_columns: names of the columns that "auto" chooses from. Default: all with one text or number a prompt.

    Raises:
        InputError: an id appears twice, the ids are one text, or a column has not one value per prompt.
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
        if isinstance(self.columns, dict):  # any other may read a column only when it is asked for
            for name in self.columns:
                self.column(name)

    @classmethod
    def of(cls, prompts: Prompts | Ids) -> Prompts:
        """A pool as it is, or one of ids without columns."""
        return prompts if isinstance(prompts, Prompts) else cls(cast("Sequence[str]", prompts))

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"Prompts({len(self):,} ids, columns {', '.join(self.columns) or 'none'})"

    def with_column(self, name: str, values: Column) -> Prompts:
        """The same pool with one more column, or with other values in one; raises as `column`."""
        pool = replace(self, columns=ChainMap({name: values}, cast("dict[str, Column]", self.columns)))
        pool.column(name)
        return pool

    def select(self, rows: Iterable[int]) -> Prompts:
        """The pool of some rows, in their order, with all columns."""
        rows = list(rows)
        columns = {name: [self.column(name)[row] for row in rows] for name in self.columns}
        return replace(self, ids=[self.ids[row] for row in rows], columns=columns)

    def column(self, name: str) -> Column:
        """(prompt,) values of a column.

        Raises:
            InputError: there is no such column, or it has not one value per prompt.
        """
        if name not in self.columns:
            there = ", ".join(self.columns)
            mend = f"give one of {there}, or add it" if there else "the prompts have none: add it to them"
            if name == POLICY:
                mend = f"it is the policy's own reading, which a trainer adds: {mend}"
            raise InputError(f"there is no column {name!r}: {mend}")
        values = self.columns[name]
        if isinstance(values, str) or not hasattr(values, "__len__"):
            raise InputError(f"column {name!r} is {short(values)}: give {len(self)} values, one per prompt")
        if len(values) != len(self):
            raise InputError(f"column {name!r} has {len(values)} values for {len(self)} prompts: give one per prompt")
        return values

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """What "auto" stands for: label columns that, crossed, put at least eight prompts into a cluster on average.

        See `promptdyn.clusters.few_levels_first`. Empty where no column will do.
        """
        if self.label_columns is None:
            names = [name for name in self.columns if len(self) and np.ndim(self.column(name)[0]) == 0]
        else:
            names = list(self.label_columns)
        return few_levels_first({name: self.labels(name) for name in names})

    def named(self, columns: Columns | None) -> Columns | None:
        """Columns by their names: those of `kinds` for "auto", None where there are none; others as they are."""
        return self.kinds or None if columns == AUTO and AUTO not in self.columns else columns

    def labels(self, columns: Columns | Sequence[str]) -> NDArray[np.object_]:
        """(prompt,) labels of one column, or of several crossed; "(none)" where a prompt has none.

        The column "prompt_id" is the ids. Labels are crossed as by `promptdyn.clusters.cross`.

        Raises:
            InputError: as `column`.
        """
        return cross([self.ids if name == PROMPT_ID else _labels(self.column(name)) for name in column_names(columns)])

    def features(self, columns: Columns | Sequence[str]) -> NDArray[np.float32]:
        """(prompt feature) of one column or of several, as by `promptdyn.features.from_columns`; "policy" as it stands.

        Raises:
            InputError: as `column`; or a column that no features can be made of.
        """
        parts = [
            as_features(self.column(name), self.ids) if name == POLICY else from_columns({name: self.column(name)})
            for name in column_names(columns)
        ]
        return np.concatenate(parts, axis=1)


def _labels(values: Iterable[Any]) -> list[str]:
    """Values as text, "(none)" for those that are missing or empty."""
    return [
        # Most are text, and quickly told.
        value if type(value) is str and value else NO_LABEL if is_missing(value) or value == "" else str(value)
        for value in values
    ]
