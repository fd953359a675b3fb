"""Shuffled passes through the pool."""

import numpy as np
from scipy.stats import chisquare

from promptdyn.models import DPS
from promptdyn.selection import Selector
from taught import IDS


def test_uniform_goes_through_the_pool_in_shuffled_passes():
    firsts = np.zeros(12)
    for seed in range(300):
        selector = Selector(DPS().online(IDS), strategy="uniform", seed=seed)
        seen = []
        for _ in range(3):
            chosen = selector.select(8)
            selector.observe(chosen, [[0.0, 1.0]] * 8)
            seen += chosen
        assert sorted(seen[:12]) != seen[:12]
        assert sorted(seen) == sorted(IDS * 2)
        assert len(set(seen[:8])) == 8
        assert set(IDS) - set(seen[:8]) <= set(seen[8:16])
        firsts[[IDS.index(i) for i in seen[:3]]] += 1
    assert chisquare(firsts).pvalue > 1e-3
