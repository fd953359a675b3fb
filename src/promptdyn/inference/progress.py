"""A progress bar for engines, on stderr, with the numbers that one watches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from promptdyn.inference.engine import Report

__all__ = ["bar"]


@contextmanager
def bar(words: str) -> Iterator[Report]:
    """Yield what an engine is to call; the bar stays until the block ends."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[numbers]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(words, total=None, numbers="")

        def report(done: int, total: int, watch: Mapping[str, float]) -> None:
            numbers = "  ".join(f"{name} {value:,.6g}" for name, value in watch.items())
            progress.update(task, completed=done, total=total, numbers=numbers)

        yield report
