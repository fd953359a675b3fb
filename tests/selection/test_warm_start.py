"""A selector that starts with what is known: the same beliefs as one that saw it, whatever the pool has besides."""

import logging

import numpy as np
import pytest

import promptdyn
from promptdyn import InputError, RewardHistory, Selector, models
from promptdyn.selection import warm_start


def earlier_run():
    return RewardHistory.from_columns(
        [0, 0, 3, 3],
        ["a", "b", "a", "gone"],
        num_successes=[0, 4, 8, 1],
        num_rollouts=[8, 8, 8, 8],
        trained=[True, False, True, True],
    )


@pytest.mark.parametrize(
    "model", [models.DPS(), models.BetaBernoulli(), models.InformativeRate()], ids=lambda m: m.name
)
def test_beliefs_are_those_of_a_filter_that_saw_the_steps(model, caplog):
    warm, watched = model.online(["new", "b", "a"]), model.online(["new", "b", "a"])
    with caplog.at_level(logging.WARNING):
        warm_start(warm, earlier_run(), "before.parquet")
    watched.step(["a", "b"], [0, 4], [8, 8], np.array([True, False]))
    watched.step(["a"], [8], [8], np.array([True]))
    assert np.array_equal(warm.outcome(8), watched.outcome(8))
    assert warm.steps == 2
    assert "before.parquet: 2 of the pool's 3 prompts are known, by 3 groups of 8 rollouts in 2 steps" in caplog.text


def test_a_history_of_other_prompts_is_refused():
    with pytest.raises(InputError, match="none of the pool's 2 prompts"):
        warm_start(models.DPS().online(["x", "y"]), earlier_run())


def test_a_rule_that_is_found_later_keeps_what_was_known():
    online = models.BetaBernoulli(decay=1.0).online(["a", "b", "c"])
    warm_start(online, earlier_run())
    selector = Selector(online, seed=0)
    for step in range(2):  # rewards of many values: no rule before 200 rollouts
        selector.observe(["c"], [np.linspace(0, 1, 120) + step])
    assert selector.success is not None
    # a: 8 of 16 by the earlier run, and a prior of one success and one failure.
    assert online.success_rate()[0] == pytest.approx(9 / 18)
    assert promptdyn.models.BetaBernoulli(decay=1.0).online(["a"]).success_rate()[0] == 0.5
