"""The progress bar of a race."""

from __future__ import annotations

import logging
import math
import time

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from promptdyn.cli.process import quiet
from promptdyn.cli.tables import console

__all__ = ["RaceBar"]


# Seconds between two lines of a log.
INTERVAL = 60.0


class RaceBar:
    """A progress bar over all the rollouts of a race, with the time left; without a terminal, lines of a log."""

    def __init__(self, rollouts: int) -> None:
        quiet()
        self.logger = logging.getLogger("promptdyn")
        self.level = self.logger.level
        self.done, self.current, self.spent = 0, "", 0
        self.rollouts, self.told = rollouts, -math.inf
        self.progress = Progress(
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.description}", markup=False),
            console=console,
        )
        self.task = self.progress.add_task("", total=rollouts)

    def __enter__(self) -> RaceBar:
        self.logger.setLevel(logging.ERROR)  # else each run logs how its prompts are chosen
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
        self.logger.setLevel(self.level)

    def update(self, name: str, spent: int) -> None:
        """Show the rollouts that the run of this name has spent, on top of those of the runs before it."""
        if name != self.current:
            self.done, self.current = self.done + self.spent, name
        self.spent = spent
        self.progress.update(self.task, completed=self.done + spent, description=name)
        if not console.is_terminal and time.monotonic() - self.told >= INTERVAL:
            self.told = time.monotonic()
            share = (self.done + spent) / self.rollouts
            console.print(f"{share:4.0%}  {name}: {spent:,} rollouts", markup=False, highlight=False)

    def stage(self, text: str) -> None:
        """Print a line above the bar."""
        self.progress.console.print(text)
