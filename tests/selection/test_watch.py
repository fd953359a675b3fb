"""The watch tells where selection sees nothing."""

import warnings

import numpy as np

from promptdyn.errors import PromptdynWarning
from promptdyn.models import DPS
from promptdyn.selection import Selector

IDS = [f"p{i}" for i in range(40)]


def watched(selector: Selector, given, steps: int = 25) -> list[str]:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for step in range(steps):
            selector.observe(selector.select(2), given(np.random.default_rng(step)))
    return [str(warning.message) for warning in told if warning.category is PromptdynWarning]


def test_the_watch_tells_once_where_selection_sees_nothing() -> None:
    def correct(rng):
        return (rng.random((2, 8)) < 0.5).astype(float)

    def both(rng):
        return {"correct": correct(rng), "form": np.ones((2, 8))}

    (line,) = watched(Selector(DPS().online(IDS), success=0.5), both, 60)
    assert "of 40 groups vary, and by success='0.5' 0 of these are informative" in line
    assert line.startswith("step 19: in the last 20 generations")
    assert "success=..." in line
    assert watched(Selector(DPS().online(IDS)), both) == []
    assert watched(Selector(DPS().online(IDS), success="correct"), both) == []
    assert watched(Selector(DPS().online(IDS)), correct) == []

    # Noise in every group, parted in the middle; and no grade for most.
    (line,) = watched(Selector(DPS().online(IDS), success=0.5), lambda rng: np.linspace(0.4, 0.6, 16).reshape(8, 2).T)
    assert "all 40 groups are informative by success='0.5', which tells nothing apart" in line
    (line,) = watched(
        Selector(DPS().online(IDS), success="correct"),
        lambda rng: {"correct": [[None] * 8, [0.0, 1.0] * 4], "form": np.ones((2, 8))},
    )
    assert "20 of 40 groups have rewards and no grade by success='correct>=1'" in line
    (line,) = watched(Selector(DPS().online(IDS)), lambda rng: [[None] * 8] * 2)
    assert "the reward functions gave None for all rollouts of all 40 groups: nothing is learned" in line
