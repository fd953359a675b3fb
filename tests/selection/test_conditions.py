"""Conditions on forecasts choose prompts by what the filter says of each."""

import numpy as np
import pytest

from promptdyn import InputError, models
from promptdyn.selection import meets
from promptdyn.selection.scores import entropy


def pool_with_beliefs():
    online = models.BetaBernoulli().online(["solved", "half", "never", "unknown"])
    for _ in range(5):
        online.step(["solved", "half", "never"], [8, 4, 0], 8)
    return online


def test_conditions_read_forecasts():
    online = pool_with_beliefs()
    assert meets("informative>=0.9", online, 8).tolist() == [False, True, False, False]
    assert meets("success_rate<=0.2 or success_rate>=0.8", online, 8).tolist() == [True, False, True, False]
    unsure = entropy(online.outcome(8))
    bound = float(np.sort(unsure)[-2:].mean())
    assert meets(f"entropy>={bound}", online, 8).tolist() == (unsure >= bound).tolist()
    assert (
        meets("informative>=0.5 and half_solved<=0.9", online, 8).tolist()
        == ((online.informative(8) >= 0.5) & (1 - abs(2 * online.success_rate() - 1) <= 0.9)).tolist()
    )


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("informative", "write SCORE>=NUMBER"),
        ("0.5", "write SCORE>=NUMBER"),
        ("auto", "write SCORE>=NUMBER"),
        ("entropy>=much", "where='entropy>=much': 'much' is no number"),
        ("entropie>=1", "score 'entropie' is none of"),
    ],
)
def test_bad_conditions(condition, message):
    with pytest.raises(InputError, match=message):
        meets(condition, pool_with_beliefs(), 8)
