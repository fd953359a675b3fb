"""One history that the tests of several files look at."""

from __future__ import annotations

import pytest

from promptdyn.history import RewardHistory


@pytest.fixture
def history() -> RewardHistory:
    return RewardHistory.from_columns(
        step=[5, 0, 0, 2, 5],
        prompt_id=["b", "a", "b", "a", "c"],
        num_rollouts=[8, 4, 8, 4, 8],
        num_successes=[8, 0, 1, 2, 3],
        trained=[True, False, True, True, False],
        columns={"task": ["mul", "add", "mul", "add", "mul"], "level": [1, 2, 1, 2, 10]},
    )
