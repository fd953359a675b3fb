"""Reader of the folder of a run of this package: the history that it recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from promptdyn.history import RewardHistory
from promptdyn.readers.files import Paths, expand
from promptdyn.readers.table import read_table

__all__ = ["read", "read_run", "recognises"]

HISTORY_FILE = "history.parquet"


def recognises(path: Path, _: Mapping[str, Any] | None = None) -> bool:
    """Whether `path` is a folder with a run's history, and not itself one of TRL's completions."""
    return (path / HISTORY_FILE).is_file() and not any(path.glob("completions_*.parquet"))


def read_run(
    path: Paths, drop: Sequence[str] = (), cluster_columns: Sequence[str] | None = None, skip_bad: bool = False
) -> RewardHistory:
    """Read the history that a run recorded in its folder.

    Args:
        path: the folder.
        drop, cluster_columns, skip_bad: of `promptdyn.readers.table.read_table`.

    Raises:
        InputError: none there, or as `RewardHistory.from_parquet`.
    """
    histories = [folder / HISTORY_FILE for folder in expand(path)]
    return read_table(histories, drop=drop, cluster_columns=cluster_columns, skip_bad=skip_bad)


read = read_run
