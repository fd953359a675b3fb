"""Scores of a belief."""

import pytest

from promptdyn.models import BetaBernoulli
from promptdyn.selection import SCORES


def test_scores_of_a_beta_posterior():
    online = BetaBernoulli().online(["a"])
    online.step(["a"], [6], [8])
    alpha, beta = 7.0, 3.0
    variance = alpha * beta / ((alpha + beta) * (alpha + beta + 1))  # E[p (1 - p)]
    assert SCORES["reward_variance"](online, 8, None)[0] == pytest.approx(variance)
    assert SCORES["half_solved"](online, 8, None)[0] == pytest.approx(0.6)
