"""Progress bars on stderr for fits, comparisons, reports and training, each with the numbers that one watches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

__all__ = ["Report", "Tell", "bars"]

Report = Callable[[int, int, Mapping[str, float]], None]
"""A function of (done, total, numbers to watch by name), which long work calls while it runs."""
Tell = Callable[[str, int, int, Mapping[str, float]], None]
"""A function of (name of the work, done, total, numbers to watch by name)."""


@contextmanager
def bars() -> Iterator[Tell]:
    """Yield a `Tell` that draws bars. Each work, known by its name, has a bar of its own; the bars stay at the end."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),  # names of models and files may contain "[...]"
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[numbers]}", markup=False),
    )
    tasks: dict[str, TaskID] = {}
    progress = Progress(*columns, console=Console(stderr=True))

    def show(work: str, done: int, total: int, watch: Mapping[str, float]) -> None:
        if not tasks:  # work that ends before its first bar prints nothing, not even an empty line
            progress.start()
        if work not in tasks:
            tasks[work] = progress.add_task(work, total=total, numbers="")
        numbers = "  ".join(f"{name} {_short(value)}" for name, value in watch.items())
        progress.update(tasks[work], completed=done, total=total, numbers=numbers)

    try:
        yield show
    finally:
        if tasks:
            progress.stop()


def _short(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:,.6g}" if abs(value) >= 100 else f"{value:.3g}"
