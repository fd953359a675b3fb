"""Several generations joined into one batch."""

from __future__ import annotations

import pytest
import torch

from promptdyn.training.dynamic_sampling import AtCap
from promptdyn.training.trl.batch import Batch

ONE = {
    "prompt_ids": torch.tensor([[1, 2], [3, 4], [6, 7]]),
    "completion_mask": torch.ones(3, 1),
    "advantages": torch.ones(3),
    "old_logps": torch.ones(3),
}
OTHER = {
    "prompt_ids": torch.tensor([[5]]),
    "completion_mask": torch.ones(1, 3),
    "advantages": torch.zeros(1),
    "old_logps": torch.ones(1),
}


def test_groups_that_teach_are_joined_with_padding_on_their_own_side() -> None:
    batch = Batch(size=2, group_size=1, pad_token_id=9)
    batch.add(["a", "b", "c"], ONE, teaches=[False, True, False], varies=[False, True, False])
    assert batch.missing == 1
    batch.add(["d"], OTHER, teaches=[True], varies=[True])
    tensors, trained = batch.joined("train")
    assert trained == batch.prompt_ids == ["b", "d"]
    assert (batch.missing, batch.rounds, batch.num_rolled_out) == (0, 2, 4)
    assert tensors["prompt_ids"].tolist() == [[3, 4], [9, 5]]
    assert tensors["completion_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert tensors["advantages"].tolist() == [1, 0]


@pytest.mark.parametrize(("at_cap", "trained", "mask"), [("train", ["b", "c"], 1), ("drop", ["b"], 0)])
def test_what_is_missing_comes_of_the_first_generation_and_what_varies_of_it_first(
    at_cap: AtCap, trained: list[str], mask: int
) -> None:
    batch = Batch(size=2, group_size=1, pad_token_id=9)
    batch.add(["a", "b", "c"], ONE, teaches=[False, True, False], varies=[False, True, True])
    batch.add(["d"], {**OTHER, "completion_mask": torch.ones(1, 1)}, teaches=[False], varies=[True])
    tensors, ids = batch.joined(at_cap)
    assert ids == trained
    assert tensors["prompt_ids"].tolist() == [[3, 4], [6, 7]]
    assert tensors["completion_mask"].tolist() == [[1], [mask]]
    assert tensors["old_logps"].tolist() == [1, mask]
