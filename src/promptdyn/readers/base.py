"""The base class of a format of logs. Knows no format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from promptdyn.history import RewardHistory

__all__ = ["Reader"]


class Reader(ABC):
    """A format of logs: a frozen dataclass of its options that inherits from this.

        @dataclass(frozen=True)
        class Pairs(Reader):
            separator: str = " "  # options are fields

            name = "pairs"

            def recognizes(self, path):
                return path.suffix == ".pairs"

            def read(self, paths, source):
                lines = [line.split(self.separator) for path in paths for line in path.read_text().splitlines()]
                ...
                return RewardHistory.from_columns(step, prompt_id, num_successes=..., num_rollouts=...)

    Attributes:
        name: what the format is called in texts.
    """

    name: str

    @abstractmethod
    def recognizes(self, path: Path) -> bool:
        """Whether a file or folder, which is there, is of this format, by its name and a glance at its content."""

    @abstractmethod
    def read(self, paths: Sequence[Path], source: str) -> RewardHistory:
        """Read files and folders as one history.

        Args:
            paths: one or more, which are there.
            source: what to call them in messages.

        Raises:
            InputError: what is wrong, with the file and line, and the mend.
        """
