"""A selector that has seen something, for tests of what it chooses."""

from promptdyn.models import DPS
from promptdyn.selection import Selector

IDS = [f"p{i}" for i in range(12)]


def taught(model=None, **settings) -> Selector:
    """A selector that has seen p0-p3 partly solved, p4-p7 failed; p8-p11 were never rolled out."""
    selector = Selector((model or DPS()).online(IDS), **settings)
    for _ in range(3):
        selector.observe(IDS[:8], [[1, 0, 1, 0, 0, 0, 0, 1]] * 4 + [[0.0] * 8] * 4)
    return selector
