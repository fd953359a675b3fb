"""Read the history that a run of this package recorded in its folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from promptdyn.errors import InputError
from promptdyn.history import RewardHistory
from promptdyn.readers.base import Reader
from promptdyn.readers.groups import GroupTable

__all__ = ["HISTORY_FILE", "RunFolder"]

HISTORY_FILE = "history.parquet"


@dataclass(frozen=True)
class RunFolder(Reader):
    """Reads the history that a run recorded in its folder.

    Attributes:
        drop, label_columns, skip_bad: as in `promptdyn.readers.GroupTable`.
    """

    drop: str | Sequence[str] = ()
    label_columns: str | Sequence[str] | None = None
    skip_bad: bool = False

    name = "run"
    layout = "the folder of a run of this package, with its history"

    def recognizes(self, path: Path) -> bool:
        """Whether `path` is a folder with a run's history, and not a folder of TRL's completions."""
        return (path / HISTORY_FILE).is_file() and not any(path.glob("completions_*.parquet"))

    def read(self, paths: Sequence[Path], source: str) -> RewardHistory:
        """Read the histories of the folders.

        Raises:
            InputError: a folder has no history, or as in `GroupTable.read`.
        """
        for path in paths:
            if not (path / HISTORY_FILE).is_file():
                raise InputError(f"{path}: no folder of a run: there is no {HISTORY_FILE} in it")
        table = GroupTable(drop=self.drop, label_columns=self.label_columns, skip_bad=self.skip_bad)
        return table.read([folder / HISTORY_FILE for folder in paths], source)
