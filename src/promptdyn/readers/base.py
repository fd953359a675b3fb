"""The base class of a log format. This module knows no format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from promptdyn.history import RewardHistory
from promptdyn.success import AUTO, Success

__all__ = ["Reader", "RolloutReader"]


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


@dataclass(frozen=True)
class RolloutReader(Reader):
    """A format that holds single rollouts, whose rewards are graded; with the options of all such formats.

    Attributes:
        prompt_key: column that identifies prompts. Default: as the format does.
        reward: column(s) of the reward functions. Default: those of the format.
        reward_weights: weights of the reward functions in the folded reward. Default: those that the log tells, or 1.
        success: what a success is, see `promptdyn.success`. Default "auto": found from the first rewards.
        label_columns: columns with a label for each prompt; a missing one is the label "(none)". Default: none.
        skip_bad: leave out bad lines and rollouts, with a warning, instead of raising.
        keep_superseded: True keeps files of an earlier run that ended later in the same folder. False (default) leaves
            them out with a warning; the times of the files tell them.
    """

    prompt_key: str | None = None
    reward: str | Sequence[str] | None = None
    reward_weights: float | Sequence[float] | None = None
    success: Success = AUTO
    label_columns: str | Sequence[str] = ()
    skip_bad: bool = False
    keep_superseded: bool = False
