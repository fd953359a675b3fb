"""The base class of a log format. This module knows no format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from promptdyn.history import RewardHistory

__all__ = ["Reader"]


class Reader(ABC):
    """A log format. Inherit from this class in a frozen dataclass whose fields are the format's options.

        @dataclass(frozen=True)
        class Pairs(Reader):
            separator: str = " "  # options are fields

            name = "pairs"
            layout = "a step, a prompt, a reward on each line of FILE.pairs"

            def recognizes(self, path):
                return path.suffix == ".pairs"

            def read(self, paths, source):
                lines = [line.split(self.separator) for path in paths for line in path.read_text().splitlines()]
                ...
                return RewardHistory.from_columns(step, prompt_id, num_successes=..., num_rollouts=...)

    Attributes:
        name: name of the format.
        layout: the path that it reads, in a few words, for help and errors; default none.
    """

    name: str
    layout: str = ""

    @abstractmethod
    def recognizes(self, path: Path) -> bool:
        """Whether an existing file or folder has this format, by its name and a glance at its content."""

    @abstractmethod
    def read(self, paths: Sequence[Path], source: str) -> RewardHistory:
        """Read files and folders as one history.

        Args:
            paths: one or more existing files and folders.
            source: their name in messages.

        Raises:
            InputError: a fault in the log; the message names the file, the line and the mend.
        """
