"""Read histories from tables of groups: Parquet, CSV (comma, semicolon or tab), JSON lines or a JSON array.

The columns are `step, prompt_id, num_successes, num_rollouts`, optionally `trained, reward_mean, reward_std`, and any
other columns of labels; `columns` gives a file's own names for them. CSV and JSON files may be compressed (.gz, .zst).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from promptdyn._columns import INTEGERS, REWARDS, Repeated, error_for_no_rows, rename_columns
from promptdyn.errors import PromptdynWarning
from promptdyn.history import RewardHistory
from promptdyn.history.parquet import SUCCESS_KEY, columns_to_read
from promptdyn.prompts import column_names
from promptdyn.readers.base import Reader
from promptdyn.readers.columns import FileColumns, concatenate, kind_of, read_columns
from promptdyn.readers.files import files_in

__all__ = ["GroupTable"]


@dataclass(frozen=True)
class GroupTable(Reader):
    """Reads a history from Parquet, CSV (with a header), JSONL (an object per line) or JSON (array of objects) files.

    Errors count Parquet rows and items of a JSON array from 0, and lines of CSV and JSONL files from 1.

    Attributes:
        columns: a history's name of a column -> the file's name, where they differ, as in {"step": "global_step"}.
        drop: columns to leave out.
        label_columns: columns of labels. Default: all other columns whose values are the same in all rows of a prompt;
            the rest are left out with a warning.
        repeated: what to do with several rows of one prompt and step: "error" (default), "merge", "last" or "apart",
            see `RewardHistory.from_columns`.
        skip_bad: leave out bad lines and rows, with a warning, instead of raising.
    """

    columns: Mapping[str, str] | None = None
    drop: str | Sequence[str] = ()
    label_columns: str | Sequence[str] | None = None
    repeated: Repeated = "error"
    skip_bad: bool = False

    name = "groups"
    layout = "a table with one row a group, or a folder of such"

    def recognizes(self, path: Path) -> bool:
        """Whether `path` is a file of one of these kinds, by its content or its suffix, or a folder with one."""
        return bool(_files(path))

    def read(self, paths: Sequence[Path], source: str) -> RewardHistory:
        """Read the files, one after another.

        Warns:
            PromptdynWarning: columns or rows were left out; files count successes by different rules.

        Raises:
            InputError: a file has another kind or is damaged, or as in `RewardHistory.from_table`.
        """
        files = [file for path in paths for file in _files(path) or [path]]
        source = str(files[0]) if len(files) == 1 else source
        renames, drop = self.columns or {}, column_names(self.drop)
        label_columns = None if self.label_columns is None else column_names(self.label_columns)
        integers, floats = ({renames.get(name, name) for name in names} for names in (INTEGERS, REWARDS))

        def read_file(file: Path) -> FileColumns:
            def choose(names: list[str], nested: set[str]) -> list[str]:
                # One of several files may lack a column. Whether all of them do is checked below.
                dropped = [name for name in drop if len(files) == 1 or name in names]
                labels = (
                    None
                    if label_columns is None
                    else [name for name in label_columns if len(files) == 1 or renames.get(name, name) in names]
                )
                return columns_to_read(str(file), names, nested, self.columns, dropped, labels)

            part = read_columns(file, integers, floats, {renames.get("trained", "trained")}, choose)
            if part.columns:
                choose(part.names, set())
            return part

        parts = [read_file(file) for file in files]
        rules = dict.fromkeys(part.metadata[SUCCESS_KEY] for part in parts if SUCCESS_KEY in part.metadata)
        if len(rules) > 1:
            message = f"{source}: its files count successes by different rules: {', '.join(map(repr, rules))}"
            warnings.warn(message, PromptdynWarning, stacklevel=3)
        table = concatenate(parts)
        if not table.columns:
            raise error_for_no_rows(source, table.faults)
        names = rename_columns(source, table.names, self.columns, drop, label_columns).values()
        return RewardHistory.from_table(
            {name: values for name, values in table.columns.items() if name in names},
            source,
            table.row_name,
            self.columns,
            label_columns=label_columns,
            repeated=self.repeated,
            skip_bad=self.skip_bad,
            faults=table.faults,
        ).with_metadata(table.metadata, source)


def _files(path: Path) -> list[Path]:
    """Return the files of a known kind at a path."""
    return [file for file in files_in(path) if kind_of(file) is not None]
