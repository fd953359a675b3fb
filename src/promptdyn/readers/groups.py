"""Reader of histories kept as tables of groups: Parquet, CSV (comma, semicolon or tab), JSON lines or a JSON array.

The columns are `step, prompt_id, num_successes, num_rollouts`, optionally `trained, reward_mean, reward_std`, and any
others as label columns; `columns` says which they are in a file that calls them otherwise. CSV and JSON files may be
compressed (.gz, .zst).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from promptdyn._columns import INTEGERS, REWARDS, Repeated, nothing_read, renamed
from promptdyn.errors import PromptdynWarning
from promptdyn.history import RewardHistory
from promptdyn.history.parquet import SUCCESS_KEY, to_read
from promptdyn.prompts import column_names
from promptdyn.readers.base import Reader
from promptdyn.readers.columns import FileColumns, joined, kind_of, read_columns
from promptdyn.readers.files import files_in

__all__ = ["GroupTable"]


@dataclass(frozen=True)
class GroupTable(Reader):
    """Reads a history from Parquet, CSV (with a header), JSONL (one object a line) or JSON (array of objects) files.

    Errors name Parquet rows and items of a JSON array from 0, and lines of CSV and JSONL files from 1.

    Attributes:
        columns: name of a history's column -> the file's name for it, as in {"step": "global_step"}.
        drop: columns to leave out.
        label_columns: columns of labels. Default: all others that are the same in all rows of a prompt; those that
            are not are left out with a warning.
        repeated: what is done with rows of one prompt and step: "error" (default), "merge", "last" or "apart", see
            `RewardHistory.from_columns`.
        skip_bad: leave out lines and rows that are wrong, with a warning, instead of raising.
    """

    columns: Mapping[str, str] | None = None
    drop: str | Sequence[str] = ()
    label_columns: str | Sequence[str] | None = None
    repeated: Repeated = "error"
    skip_bad: bool = False

    name = "groups"

    def recognizes(self, path: Path) -> bool:
        """Whether `path` is a file of one of the kinds, by its content or its suffix, or a folder with some of them."""
        return bool(_files(path))

    def read(self, paths: Sequence[Path], source: str) -> RewardHistory:
        """Read the files, one after another.

        Warns:
            PromptdynWarning: of columns and rows that are left out; of histories that count successes by different
                rules.

        Raises:
            InputError: a file is none of the kinds, or damaged, or as `RewardHistory.from_table`.
        """
        files = [file for path in paths for file in _files(path) or [path]]
        source = str(files[0]) if len(files) == 1 else source
        renames, drop = self.columns or {}, column_names(self.drop)
        clusters = None if self.label_columns is None else column_names(self.label_columns)
        integers, floats = ({renames.get(name, name) for name in names} for names in (INTEGERS, REWARDS))

        def read_file(file: Path) -> FileColumns:
            def wanted(names: list[str], nested: set[str]) -> list[str]:
                # Of several files, some may lack a column; whether all do is checked below.
                dropped = [name for name in drop if len(files) == 1 or name in names]
                labels = (
                    None
                    if clusters is None
                    else [name for name in clusters if len(files) == 1 or renames.get(name, name) in names]
                )
                return to_read(str(file), names, nested, self.columns, dropped, labels)

            part = read_columns(file, integers, floats, {renames.get("trained", "trained")}, wanted)
            if part.columns:
                wanted(part.names, set())
            return part

        parts = [read_file(file) for file in files]
        rules = dict.fromkeys(part.metadata[SUCCESS_KEY] for part in parts if SUCCESS_KEY in part.metadata)
        if len(rules) > 1:
            told = f"{source}: its files count successes by different rules: {', '.join(map(repr, rules))}"
            warnings.warn(told, PromptdynWarning, stacklevel=3)
        found = joined(parts)
        if not found.columns:
            raise nothing_read(source, found.faults)
        names = renamed(source, found.names, self.columns, drop, clusters).values()
        return RewardHistory.from_table(
            {name: values for name, values in found.columns.items() if name in names},
            source,
            found.place,
            self.columns,
            label_columns=clusters,
            repeated=self.repeated,
            skip_bad=self.skip_bad,
            faults=found.faults,
        ).with_metadata(found.metadata, source)


def _files(path: Path) -> list[Path]:
    """The tables at a path."""
    return [file for file in files_in(path) if kind_of(file) is not None]
