"""Reader of histories kept as one table: Parquet, CSV (comma, semicolon or tab), JSON lines or a JSON array.

The columns are `step, prompt_id, num_rollouts, num_successes`, optionally `trained, reward_mean, reward_std`, and any
others as cluster columns; `columns` says which they are in a file that calls them otherwise.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from promptdyn._columns import INTEGERS, REWARDS
from promptdyn.errors import InputError
from promptdyn.history import RewardHistory

__all__ = ["read", "read_table", "recognises"]

DELIMITERS = ",;\t"
SUFFIXES = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".json": "json",
}


def recognises(path: Path) -> bool:
    """Whether `path` is a file of one of the kinds, by its content or its suffix."""
    return path.is_file() and _kind(path) is not None


def read_table(path: str | Path, columns: Mapping[str, str] | None = None) -> RewardHistory:
    """Read a history from a Parquet, CSV (with a header), JSONL (one object a line) or JSON (array of objects) file.

    Errors name Parquet rows and items of a JSON array from 0, and lines of CSV and JSONL files from 1.

    Args:
        path: the file.
        columns: name of a history's column -> the file's name for it, as in {"step": "global_step"}.

    Raises:
        InputError: no such file, none of the kinds, damaged, or as `RewardHistory.from_table`.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file: give a Parquet, CSV or JSONL file")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty: give at least one rolled-out prompt")
    kind = _kind(path)
    if kind == "parquet":
        return RewardHistory.from_parquet(path, columns)
    if kind is None:
        raise InputError(f"{path}: neither Parquet nor CSV nor JSONL: give one of them, with the suffix of its kind")
    try:
        return {"csv": _read_csv, "jsonl": _read_jsonl, "json": _read_json}[kind](path, columns or {})
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
    if head.startswith(b"[") and head[1:].lstrip()[:1] in (b"{", b"]"):
        return "json"
    header = head.partition(b"\n")[0].decode(errors="replace")
    if "prompt_id" in header and any(delimiter in header for delimiter in DELIMITERS):
        return "csv"
    return SUFFIXES.get(path.suffix.lower())


def _read_csv(path: Path, columns: Mapping[str, str]) -> RewardHistory:
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    delimiter = _delimiter(path)
    _, header = next(_csv_records(path, delimiter), (1, []))
    for name in header:
        if header.count(name) > 1:
            raise InputError(f"{path} line 1: {header.count(name)} columns {name!r}: keep one")
    # Ids and labels stay as written, "007" too.
    integers, floats = ({columns.get(name, name) for name in names} for names in (INTEGERS, REWARDS))
    own = integers | floats | {columns.get("trained", "trained")}
    as_text = {name: pa.string() for name in header if name not in own}
    try:
        table = arrow_csv.read_csv(
            path,
            parse_options=arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=arrow_csv.ConvertOptions(column_types=as_text),
        )
    except pa.ArrowInvalid as error:
        for line, record in _csv_records(path, delimiter):
            if len(record) != len(header):
                raise InputError(
                    f"{path} line {line}: {len(record)} values for {len(header)} columns: give one a column"
                ) from None
        raise InputError(f"{path}: not a CSV file ({' '.join(str(error).split())}): write it again") from None

    def place(row: int) -> str:
        # Looked up only for an error: values with line breaks and blank lines make lines and rows differ.
        lines = (line for line, _ in _csv_records(path, delimiter))
        return f"{path} line {next(line for number, line in enumerate(lines) if number == row + 1)}"

    values = {name: table[name].to_numpy() for name in table.column_names}
    for name in integers | floats:
        # One value that is no number makes text of a whole column.
        if name in values and pa.types.is_string(table[name].type):
            values[name] = np.fromiter(map(_number(int if name in integers else float), values[name]), object)
    return RewardHistory.from_table(values, source=str(path), place=place, columns=columns)


def _delimiter(path: Path) -> str:
    """What separates the values: of the usual ones, that which is most often in the first line."""
    with path.open(encoding="utf-8-sig") as file:
        header = next((line for line in file if not line.isspace()), "")
    return max(DELIMITERS, key=header.count)


def _number(kind: type) -> Callable[[str], Any]:
    """What says which number a text is: the text itself where it is none of the kind, None where it is empty."""

    def read(text: str) -> Any:
        try:
            return kind(text)
        except ValueError:
            return text or None

    return read


def _csv_records(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(first line from 1, values) of each record, the header's included, blank lines skipped."""
    csv.field_size_limit(2**31 - 1)  # prompts that serve as ids may be longer than the default of 128 KiB
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader, line = csv.reader(file, delimiter=delimiter), 1
        for record in reader:
            if record:
                yield line, record
            line = reader.line_num + 1


def _read_json(path: Path, columns: Mapping[str, str]) -> RewardHistory:
    try:
        records = json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise
    except (ValueError, RecursionError) as error:  # no JSON, a number of thousands of digits, or nested as deep
        raise InputError(f"{path}: no JSON ({' '.join(str(error).split())[:200]}): write it again") from None
    if not isinstance(records, list):
        raise InputError(f"{path}: a JSON {type(records).__name__}: give an array of objects, one a group of rollouts")
    for item, record in enumerate(records):
        if not isinstance(record, dict):
            raise InputError(f"{path} item {item}: {str(record)[:60]!r} is no JSON object: give one an item")
    return RewardHistory.from_records(
        records, source=str(path), place=lambda row: f"{path} item {row}", columns=columns
    )


def _read_jsonl(path: Path, columns: Mapping[str, str]) -> RewardHistory:
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
    return RewardHistory.from_records(
        records, source=str(path), place=lambda row: f"{path} line {lines[row]}", columns=columns
    )
