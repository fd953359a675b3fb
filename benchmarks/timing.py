"""How everything here is timed: one call to warm up (compilation), then the median of several."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
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


def memory_before() -> float:
    """MB that this process holds; the peak counts from here. Of Linux."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return _memory("VmRSS")


def peak_memory() -> float:
    """MB that this process has held at most since `memory_before`."""
    return _memory("VmHWM")


def _memory(what: str) -> float:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition(f"{what}:")[2].split()[0]) / 1024
