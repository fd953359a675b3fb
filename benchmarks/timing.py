"""How everything here is timed: one call to warm up (compilation), then the median of several."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple


class Timing(NamedTuple):
    first: float  # seconds of the first call, compilation included
    median: float  # seconds of the others


def timed(function: Callable[[], object], repeats: int = 7) -> Timing:
    """Time `function`, which must return only once its result is there."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return Timing(seconds[0], statistics.median(seconds[1:]))
