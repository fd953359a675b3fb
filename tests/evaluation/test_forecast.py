"""Forecasts that never look ahead."""

import numpy as np
import pytest

from promptdyn.evaluation import (
    forecast,
)
from promptdyn.history import RewardHistory
from promptdyn.models import DPS, BetaBernoulli


@pytest.mark.parametrize("model", [DPS(), BetaBernoulli()], ids=lambda model: model.name)
def test_forecasts_use_only_observed_rows_of_past_steps(history, model):
    def run(num_successes):
        changed = RewardHistory.from_columns(
            history.step,
            history.prompt_ids[history.prompt],
            num_successes=num_successes,
            num_rollouts=history.num_rollouts,
            trained=history.trained,
        )
        return forecast(model.online(list(history.prompt_ids)), changed, fit_steps=10)

    base = run(history.num_successes)
    assert (base.step >= 10).all()
    assert len(base.step) == 30 * 60
    np.testing.assert_array_equal(base.informative, history.informative[history.step >= 10])

    hidden = np.where(history.trained, history.num_successes, 8 - history.num_successes)
    np.testing.assert_array_equal(run(hidden).probability, base.probability)

    future = np.where(history.step >= 25, 8 - history.num_successes, history.num_successes)
    changed = run(future).probability
    np.testing.assert_array_equal(changed[base.step <= 25], base.probability[base.step <= 25])
    assert not np.array_equal(changed[base.step > 25], base.probability[base.step > 25])


def test_forecast_equals_stepping_by_hand(history):
    made = forecast(DPS().online(list(history.prompt_ids)), history, fit_steps=0, observed="all")
    online = DPS().online(list(history.prompt_ids))
    for step in history.steps:
        at = history.step == step
        ids = history.prompt_ids[history.prompt[at]]
        np.testing.assert_array_equal(made.probability[at], online.informative(8)[online.rows(ids)])
        online.step(ids, history.num_successes[at], history.num_rollouts[at], history.trained[at])


def test_forecasts_are_made_for_each_rows_own_number_of_rollouts():
    history = RewardHistory.from_columns(
        [0, 0, 1, 1], ["a", "b", "a", "b"], num_successes=[4, 4, 1, 16], num_rollouts=[8, 8, 2, 32]
    )
    made = forecast(BetaBernoulli().online(["a", "b"]), history, fit_steps=1)
    online = BetaBernoulli().online(["a", "b"])
    online.step(["a", "b"], [4, 4], 8)
    assert made.probability.tolist() == pytest.approx([online.informative(2)[0], online.informative(32)[1]])
