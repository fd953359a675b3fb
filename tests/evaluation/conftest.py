"""One history that models are compared on."""

import numpy as np
import pytest

from promptdyn.history import RewardHistory


@pytest.fixture(scope="module")
def history() -> RewardHistory:
    """60 prompts, 40 steps, all rolled out, a quarter trained on; success rates rise at their own pace."""
    rng = np.random.default_rng(0)
    step, prompt = (grid.ravel() for grid in np.meshgrid(np.arange(40), np.arange(60), indexing="ij"))
    rate = 1 / (1 + np.exp(4 - 0.15 * step - 0.1 * (prompt % 30)))
    return RewardHistory.from_columns(
        step,
        [f"p{i}" for i in prompt],
        num_successes=rng.binomial(8, rate),
        num_rollouts=np.full(len(step), 8),
        trained=rng.random(len(step)) < 0.25,
        columns={"half": [str(i // 30) for i in prompt]},
    )
