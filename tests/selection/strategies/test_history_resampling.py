"""History resampling: what a pass leaves out."""

import numpy as np

from promptdyn.models import InformativeRate
from promptdyn.selection import HistoryResampling, Selector

IDS = [f"p{i}" for i in range(8)]


def test_history_resampling_leaves_out_for_one_pass_what_was_solved():
    selector = Selector(InformativeRate().online(IDS), strategy="history_resampling", success=1.0, seed=3)
    solved = {"p1", "p4"}
    passes = []
    for size in (8, 6, 8, 6):
        seen: list[str] = []
        while len(seen) < size:
            chosen = selector.select(2)
            selector.observe(chosen, [[1, 1] if i in solved else [0, 1] if i < "p6" else [0, 0] for i in chosen])
            seen += chosen
        passes.append(seen)
    for whole in passes[::2]:
        assert sorted(whole) == IDS
    for without in passes[1::2]:
        assert sorted(without) == sorted(set(IDS) - solved)
    strategy, every = HistoryResampling(), np.full(8, 8)
    state = strategy.step(strategy.init(8), np.arange(8), every, every, every > 0)
    assert state.waiting.all()  # all solved: none is left out
