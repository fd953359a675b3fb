"""One table that the tests of several files write."""

from __future__ import annotations

import pandas as pd
import pytest


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "step": [0, 0, 1],
            "prompt_id": ["007", "b", "007"],
            "num_rollouts": [8, 8, 4],
            "num_successes": [1, 8, 0],
            "trained": [True, False, True],
            "level": ["01", "two, or\nmore", "01"],
        }
    )
