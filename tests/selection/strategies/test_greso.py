"""GRESO, by its formulas."""

import numpy as np
from scipy.stats import chisquare

from promptdyn.models import InformativeRate
from promptdyn.selection import GRESO, Selector

IDS = [f"p{i}" for i in range(8)]
SUCCESSES, FAILURES, BOTH = [1.0] * 4, [0.0] * 4, [1.0, 0.0, 0.0, 1.0]


def test_greso_keeps_by_streak_and_moves_its_chances_towards_their_targets():
    strategy = GRESO(keep_easy=0.6, keep_hard=0.4, target_easy=0.25, target_hard=0.5, change=0.1)
    state = strategy.init(8)

    def kept(rows, num_successes):
        nonlocal state
        successes = np.array(num_successes)
        state = strategy.step(state, np.array(rows), successes, np.full(len(rows), 4), np.ones(len(rows), bool))
        return strategy.keep_probability(state)

    assert strategy.keep_probability(state).tolist() == [1.0] * 8
    kept([0, 1, 2], [0, 4, 2])
    np.testing.assert_allclose(kept([0, 1], [0, 4])[:4], [0.4**2, 0.6**2, 1, 1])
    # With these four the first pass is over. One of them is easy (at its target: less), none hard (more).
    np.testing.assert_allclose(kept([0, 1, 2, 3], [1, 4, 3, 2])[:4], [1, 0.5**3, 1, 1])
    np.testing.assert_allclose(kept([4, 5], [0, 0])[[1, 4]], [0.6**3, 0.4])
    for _ in range(20):
        kept([6], [0])
    assert state.keep.tolist() == [0.05, 0.95]


def test_greso_draws_with_odds_of_the_chance_to_be_kept():
    selector = Selector(InformativeRate().online(IDS), strategy="greso", success=1.0, seed=1)
    selector.observe(IDS[:4], [FAILURES, SUCCESSES, SUCCESSES, BOTH])
    selector.observe(IDS[2:4], [SUCCESSES, SUCCESSES])
    kept = np.array([0.5, 0.5, 0.25, 0.5, 1, 1, 1, 1])
    first = np.zeros(8)
    for _ in range(3000):
        first[IDS.index(selector.select(3)[0])] += 1
    assert chisquare(first, 3000 * kept / kept.sum()).pvalue > 1e-3
