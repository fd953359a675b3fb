"""The dense view, against a naive loop over the rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histories import tables
from promptdyn.errors import InputError
from promptdyn.history import RewardHistory


@settings(deadline=None)
@given(tables(), st.sampled_from([None, "family", ("family", "length")]))
def test_dense_view_equals_a_naive_loop(table, cluster):
    history = RewardHistory.from_table(table)
    dense = history.dense(cluster)
    steps = sorted(set(table["step"]))
    assert dense.steps.tolist() == steps
    counts = list(zip(*dense.counts, strict=True))
    assert counts[0] == (0, 0)
    assert len(set(counts)) == len(counts)

    row_of = {cell: row for row, cell in enumerate(zip(table["step"], table["prompt_id"], strict=True))}
    for t, step in enumerate(steps):
        for i, prompt_id in enumerate(dense.prompt_ids):
            row = row_of.get((step, prompt_id))
            expected = (0, 0) if row is None else (table["num_successes"][row], table["num_rollouts"][row])
            assert counts[dense.symbols[t, i]] == expected
            level = 0
            if row is not None and table["trained"][row]:
                level = 1 if 0 < expected[0] < expected[1] else 2
            assert dense.exposure[t, i] == level
    for i, prompt_id in enumerate(dense.prompt_ids):
        row = table["prompt_id"].index(prompt_id)
        labels = {None: "all", "family": table["family"][row]}
        quoted = "".join("\\" * (character in "\\|") + character for character in table["family"][row])
        label = labels.get(cluster, f"{quoted}|{table['length'][row]}")
        assert dense.cluster_names[dense.cluster[i]] == label
    assert list(dense.cluster_names) == sorted(set(dense.cluster_names))


@pytest.mark.parametrize(("n", "dtype"), [(254, np.uint8), (255, np.uint16)])
def test_dense_symbols_are_as_small_as_they_can_be(n, dtype):
    ids = [str(k) for k in range(n + 1)]
    dense = RewardHistory.from_columns(
        [0] * len(ids), ids, num_successes=range(n + 1), num_rollouts=[n] * len(ids)
    ).dense()
    assert dense.symbols.dtype == dtype
    assert dense.counts.num_successes[dense.symbols[0]].tolist() == list(range(n + 1))


def test_groups_too_large_to_tabulate_are_named():
    history = RewardHistory.from_columns([0, 3], ["a", "b"], num_successes=[1, 2], num_rollouts=[900_000, 1_000_000])
    with pytest.raises(InputError, match="step 3, prompt 'b': num_rollouts=1000000 is too large"):
        history.dense()
