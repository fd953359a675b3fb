"""Find the tables of completions that TRL logs: Parquet files, tables of Weights & Biases, and trackio's database.

All hold the same columns, a row per rollout. Weights & Biases keeps a JSON file for each time that TRL logged, trackio
a row of its database; both keep the last step twice, since TRL logs it again at its end.
"""

from __future__ import annotations

import json
import re
import sqlite3
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptdyn.errors import InputError, PromptdynWarning
from promptdyn.readers.files import files_in, in_order

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

__all__ = ["Table", "columns_in", "files_of", "run_of", "tables_of"]

WANDB_TABLE = re.compile(r"completions_(\d+)_[0-9a-f]+\.table\.json")
WANDB_FOLDER = "media/table"
# Rows of trackio's database that hold a table of completions: their number and the table's rows.
COMPLETIONS = (
    "id, json_extract(metrics, '$.completions._value') FROM metrics "
    "WHERE json_extract(metrics, '$.completions._type') = 'trackio.table'"
)


@dataclass(frozen=True, eq=False)
class Table:
    """The rollouts that TRL logged at once.

    Attributes:
        name: where they are, in errors.
        file: the file that holds them.
        schema: names and types of all columns.
        num_rows: number of rollouts.
        read: function of names of columns that reads them.
    """

    name: str
    file: Path
    schema: pa.Schema
    num_rows: int
    read: Callable[[Sequence[str]], pa.Table]


def files_of(path: Path) -> list[Path]:
    """Return the files at a path that may hold TRL's tables, by their names.

    A folder may be one of completions, a run's, or that of Weights & Biases.
    """
    if path.is_file():
        return [path]
    folder = path / "completions" if (path / "completions").is_dir() else path
    files = files_in(folder)
    files = [file for file in files if file.suffix in (".parquet", ".db") or WANDB_TABLE.fullmatch(file.name)]
    for runs in ("", "*run-*/", "wandb/*run-*/"):
        logged = path.glob(f"{runs}files/{WANDB_FOLDER}/*")
        files = files or in_order(file for file in logged if WANDB_TABLE.fullmatch(file.name))
    return files


def run_of(file: Path) -> Path | None:
    """Return the folder of the run of Weights & Biases that wrote a file; None if it is no such file."""
    return file.parents[3] if file.parent.as_posix().endswith(f"files/{WANDB_FOLDER}") else None


def columns_in(file: Path) -> set[str]:
    """Return the names of the columns of a file's first table; none if it holds no table.

    Raises:
        InputError: a damaged file.
    """
    kind = _kind(file)
    if kind != "trackio":
        return {name for table in tables_of(file) for name in table.schema.names}
    try:
        with closing(_connect(file)) as database:
            first = database.execute(f"SELECT {COMPLETIONS} LIMIT 1").fetchone()
    except sqlite3.Error:
        return set()
    return {name for row in json.loads(first[1]) for name in row} if first else set()


def _kind(file: Path) -> str | None:
    with file.open("rb") as content:
        first = content.read(16)
    if first.startswith(b"PAR1"):
        return "parquet"
    if first.startswith(b"SQLite format 3"):
        return "trackio"
    return "wandb" if WANDB_TABLE.fullmatch(file.name) else None


def tables_of(file: Path, run: str | None = None) -> list[Table]:
    """Return the tables in a file, in the order in which TRL logged them; none if it is a file of another kind.

    Args:
        file: a file.
        run: name of the run, if the file is a database that holds several.

    Raises:
        InputError: a damaged file; a database with several runs and no name, or without the run.
    """
    kind = _kind(file)
    if kind == "trackio":
        return _trackio(file, run)
    return [] if kind is None else [_parquet(file) if kind == "parquet" else _wandb(file)]


@contextmanager
def _open(file: Path) -> Iterator[pq.ParquetFile]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as parquet:
            yield parquet
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{file}: not a Parquet file, or damaged ({reason}): remove or replace it") from None


def _parquet(file: Path) -> Table:
    def read(columns: Sequence[str]) -> pa.Table:
        with _open(file) as parquet:
            return parquet.read(columns=list(columns))

    with _open(file) as parquet:
        return Table(str(file), file, parquet.schema_arrow, parquet.metadata.num_rows, read)


def _wandb(file: Path) -> Table:
    try:
        table = json.loads(file.read_bytes())
        names, rows = table["columns"], table["data"]
        columns = {name: [row[place] for row in rows] for place, name in enumerate(names)}
    except (ValueError, RecursionError, KeyError, TypeError, IndexError):
        raise InputError(f"{file}: no table of Weights & Biases, or damaged: remove or replace it") from None
    return _in_memory(str(file), file, columns)


def _connect(file: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)


def _trackio(file: Path, run: str | None) -> list[Table]:
    try:
        with closing(_connect(file)) as database:
            names = database.execute("SELECT run_name FROM metrics GROUP BY run_name ORDER BY min(id)")
            runs = [name for (name,) in names]
            if run is None and len(runs) > 1:
                raise InputError(f"{file}: {len(runs)} runs, {', '.join(runs)}: name one, as run={runs[-1]}")
            if run is not None and run not in runs:
                raise InputError(f"{file}: no run {run!r} among {', '.join(runs) or 'none'}")
            chosen = run or (runs or [""])[0]
            tables = database.execute(f"SELECT {COMPLETIONS} AND run_name = ? ORDER BY id", (chosen,))
            found = [_of_rows(f"{file} row {row}", file, json.loads(text)) for row, text in tables]
    except sqlite3.Error as error:
        raise InputError(f"{file}: no database of trackio, or damaged ({error}): leave it out") from None
    return _without_steps_done_again(file, found)


def _without_steps_done_again(file: Path, tables: list[Table]) -> list[Table]:
    """Return tables, in the order of logging, without those of steps that were logged again later.

    Warns:
        PromptdynWarning: steps went back, as where a run started again.
    """
    kept: list[Table] = []
    steps: list[int] = []
    left_out = 0
    for table in tables:
        step = table.read(["step"])["step"][0].as_py() if table.num_rows and "step" in table.schema.names else None
        while isinstance(step, int) and steps and steps[-1] >= step:
            left_out += steps[-1] > step
            kept.pop()
            steps.pop()
        kept.append(table)
        steps.append(step if isinstance(step, int) else -1)
    if left_out:
        warnings.warn(
            f"{file}: left out {left_out} of {len(tables)} tables, since the run started again from an earlier step",
            PromptdynWarning,
            stacklevel=5,
        )
    return kept


def _of_rows(name: str, file: Path, rows: list[dict[str, Any]]) -> Table:
    names = dict.fromkeys(column for row in rows for column in row)
    return _in_memory(name, file, {column: [row.get(column) for row in rows] for column in names})


def _in_memory(name: str, file: Path, columns: dict[str, list[Any]]) -> Table:
    import pyarrow as pa

    try:
        table = pa.table({column: _numbers(values) for column, values in columns.items()})
    except pa.ArrowException as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{name}: a column holds values of several types ({reason}): leave the file out") from None
    return Table(name, file, table.schema, table.num_rows, lambda names: table.select(list(names)))


def _numbers(values: list[Any]) -> list[Any]:
    """Return values in which "NaN", as trackers write a missing number among numbers, is None."""
    if any(isinstance(value, float) for value in values):
        return [None if value == "NaN" else value for value in values]
    return values
