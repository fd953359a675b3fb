"""Progress bars on stderr, with the numbers that one watches: of engines, comparisons, reports and training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

__all__ = ["Report", "Tell", "bars"]

Report = Callable[[int, int, Mapping[str, float]], None]
"""Called while something runs with what is done, of how much, and the numbers that one watches."""
Tell = Callable[[str, int, int, Mapping[str, float]], None]
"""As `Report`, with what it is that runs in front."""


@contextmanager
def bars() -> Iterator[Tell]:
    """Yield what is to be called; each thing that runs has a bar of its own, and they stay when the block ends."""
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
        TextColumn("{task.description}", markup=False),  # names of models and files may hold "[...]"
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[numbers]}", markup=False),
    )
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=Console(stderr=True)) as progress:

        def tell(words: str, done: int, total: int, watch: Mapping[str, float]) -> None:
            if words not in tasks:
                tasks[words] = progress.add_task(words, total=total, numbers="")
            numbers = "  ".join(f"{name} {_shown(value)}" for name, value in watch.items())
            progress.update(tasks[words], completed=done, total=total, numbers=numbers)

        yield tell


def _shown(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:,.6g}" if abs(value) >= 100 else f"{value:.3g}"
