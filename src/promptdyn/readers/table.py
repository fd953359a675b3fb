"""Reader of histories kept as one table: Parquet, CSV or JSON lines.

The columns are `step, prompt_id, num_rollouts, num_successes`, optionally `trained`, and any others as cluster columns.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from promptdyn.errors import InputError
from promptdyn.history import RewardHistory

__all__ = ["read", "read_table", "recognises"]

INTEGERS = ("step", "num_rollouts", "num_successes")


def recognises(path: Path) -> bool:
    """Whether `path` is a file of one of the three kinds, by its content or its suffix."""
    return path.is_file() and _kind(path) is not None


def read_table(path: str | Path) -> RewardHistory:
    """Read a history from a Parquet, CSV (with a header) or JSONL (one object a line) file.

    Errors name Parquet rows from 0, and lines of CSV and JSONL files from 1.

    Raises:
        InputError: no such file, none of the three kinds, damaged, or as `RewardHistory.from_table`.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file: give a Parquet, CSV or JSONL file")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty: give at least one rolled-out prompt")
    kind = _kind(path)
    if kind == "parquet":
        return RewardHistory.from_parquet(path)
    if kind is None:
        raise InputError(f"{path}: neither Parquet nor CSV nor JSONL: give one of them, with the suffix of its kind")
    try:
        return _read_csv(path) if kind == "csv" else _read_jsonl(path)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8: save the file in that encoding") from None


read = read_table


def _kind(path: Path) -> str | None:
    with path.open("rb") as file:
        head = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(b"{"):
        return "jsonl"
    header = head.partition(b"\n")[0]
    if b"prompt_id" in header and b"," in header:
        return "csv"
    return {".parquet": "parquet", ".csv": "csv", ".jsonl": "jsonl"}.get(path.suffix.lower())


def _read_csv(path: Path) -> RewardHistory:
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    _, header = next(_csv_records(path), (1, []))
    for name in header:
        if header.count(name) > 1:
            raise InputError(f"{path} line 1: {header.count(name)} columns {name!r}: keep one")
    # Ids and labels stay as written, "007" too.
    as_text = {name: pa.string() for name in header if name not in (*INTEGERS, "trained")}
    try:
        table = arrow_csv.read_csv(
            path,
            parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
            convert_options=arrow_csv.ConvertOptions(column_types=as_text),
        )
    except pa.ArrowInvalid as error:
        for line, record in _csv_records(path):
            if len(record) != len(header):
                raise InputError(
                    f"{path} line {line}: {len(record)} values for {len(header)} columns: give one a column"
                ) from None
        raise InputError(f"{path}: not a CSV file ({' '.join(str(error).split())}): write it again") from None

    def place(row: int) -> str:
        # Looked up only for an error: values with line breaks and blank lines make lines and rows differ.
        lines = (line for line, _ in _csv_records(path))
        return f"{path} line {next(line for number, line in enumerate(lines) if number == row + 1)}"

    columns = {name: table[name].to_numpy() for name in table.column_names}
    for name in INTEGERS:
        # One value that is no number makes text of a whole column.
        if name in columns and pa.types.is_string(table[name].type):
            columns[name] = np.fromiter(map(_integer, columns[name]), object)
    return RewardHistory.from_table(columns, source=str(path), place=place)


def _integer(text: str) -> int | str | None:
    """What the text says, if it is an integer; None if nothing."""
    try:
        return int(text)
    except ValueError:
        return text or None


def _csv_records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(first line from 1, values) of each record, the header's included, blank lines skipped."""
    csv.field_size_limit(2**31 - 1)  # prompts that serve as ids may be longer than the default of 128 KiB
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader, line = csv.reader(file), 1
        for record in reader:
            if record:
                yield line, record
            line = reader.line_num + 1


def _read_jsonl(path: Path) -> RewardHistory:
    records: list[dict[str, Any]] = []
    lines: list[int] = []
    with path.open(encoding="utf-8-sig") as file:
        for line, text in enumerate(file, 1):
            if text.isspace():
                continue
            try:
                record = json.loads(text)
            except (ValueError, RecursionError):  # no JSON, a number of thousands of digits, or nested as deep
                record = None
            if not isinstance(record, dict):
                found = text.strip()[:60]
                raise InputError(f"{path} line {line}: {found!r} is no JSON object: give one object a line")
            records.append(record)
            lines.append(line)
    return RewardHistory.from_records(records, source=str(path), place=lambda row: f"{path} line {lines[row]}")
