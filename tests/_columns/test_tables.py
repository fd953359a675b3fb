"""Tables of the usual kinds."""

from __future__ import annotations

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from logs import groups, rows
from promptdyn.errors import InputError
from promptdyn.history import RewardHistory


class Exported:
    """A table of another library, which hands itself over as Arrow."""

    def __init__(self, table: pa.Table) -> None:
        self.__arrow_c_stream__ = table.__arrow_c_stream__


def test_tables_of_every_usual_kind():
    columns = {name: [row[name] for row in groups()] for name in groups()[0]}
    expected = RewardHistory.from_table(columns)
    chosen = (
        datasets.Dataset.from_dict({**columns, "note": [[1]] * 20}).select(range(19, -1, -1)).remove_columns("note")
    )
    for table in (
        pd.DataFrame(columns),
        pd.DataFrame(columns).set_index("prompt_id"),
        pd.DataFrame(columns).astype({"task": "category", "step": "Int64"}),
        pa.table(columns),
        pa.table(columns).set_column(4, "task", pa.array(columns["task"]).dictionary_encode()),
        Exported(pa.table(columns)),
        datasets.Dataset.from_dict(columns),
        datasets.Dataset.from_dict(columns).with_format("numpy"),
        chosen,
    ):
        history = RewardHistory.from_table(table)
        assert sorted(rows(history)) == sorted(rows(expected))
        assert dict(zip(history.prompt_ids, history.prompts.labels("task"), strict=True)) == dict(
            zip(expected.prompt_ids, expected.prompts.labels("task"), strict=True)
        )
    for thing in (groups(), 3, "log.csv", datasets.DatasetDict(train=chosen), np.zeros(3)):
        with pytest.raises(InputError, match="history: "):
            RewardHistory.from_table(thing)
    with pytest.raises(InputError, match=r"a list is no table: give a dict of columns, .* rows as dicts go to from_"):
        RewardHistory.from_table(groups())
