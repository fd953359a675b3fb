"""Read a file's columns: Parquet, CSV (comma, semicolon or tab), JSON lines, or a JSON array of objects.

This module does not know what the columns mean; the modules `groups` and `rollouts` do.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from promptdyn._columns import Fault, as_array, merge_faults
from promptdyn.errors import InputError
from promptdyn.history.parquet import read_parquet
from promptdyn.readers.files import head, is_compressed, json_lines, open_text, stream
from promptdyn.readers.fold import as_key

__all__ = ["FileColumns", "column_names_in", "concatenate", "kind_of", "read_columns"]

DELIMITERS = ",;\t"
SUFFIXES = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".json": "json"}
COMPRESSED = (".gz", ".zst")


class FileColumns(NamedTuple):
    """The columns of one file, or of several joined."""

    names: list[str]  # names of all columns, those that were not read included
    columns: Mapping[str, NDArray]  # name -> (row,) values
    row_name: Callable[[int], str]  # name of a row in errors, from its number (counted from 0)
    faults: list[Fault]  # lines that could not be read as rows
    metadata: Mapping[bytes, str]  # a Parquet file's metadata; empty for other kinds


def kind_of(path: Path) -> str | None:
    """Return a file's kind, by its content or its suffix: "parquet", "csv", "jsonl" or "json"; None for others."""
    first = head(path).removeprefix(b"\xef\xbb\xbf").lstrip()
    if first.startswith(b"PAR1"):
        return "parquet"
    if first.startswith(b"{"):
        return "jsonl"
    if first.startswith(b"[") and first[1:].lstrip()[:1] in (b"{", b"]"):
        return "json"
    header = first.partition(b"\n")[0].decode(errors="replace")
    if "prompt_id" in header and any(delimiter in header for delimiter in DELIMITERS):
        return "csv"
    name = path.with_suffix("") if path.suffix.lower() in COMPRESSED else path
    return SUFFIXES.get(name.suffix.lower())


def read_columns(
    path: Path,
    integers: Collection[str] = (),
    floats: Collection[str] = (),
    booleans: Collection[str] = (),
    choose: Callable[[list[str], set[str]], Collection[str]] | None = None,
    only: Collection[str] | None = None,
) -> FileColumns:
    """Read a file's columns.

    Args:
        path: the file.
        integers, floats, booleans: names of columns of these types. In a CSV file all other columns stay text.
        choose: function of (names of all columns, names of those that hold lists or structs) that returns the columns
            to read of a Parquet file. Default: all.
        only: the columns to read, those of them that the file has; lists and objects in JSON lines become what
            `as_key` makes of them. Default: all.

    Raises:
        InputError: the file does not exist, has another kind, is empty, or damaged.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file: give a Parquet, CSV or JSONL file")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty: give at least one rolled-out prompt")
    kind = kind_of(path)
    if kind == "parquet":
        if is_compressed(path):
            raise InputError(f"{path}: unpack it: a Parquet file is compressed by itself, and is read from its end")
        names, columns, metadata = read_parquet(path, choose or (None if only is None else _among(only)))
        return FileColumns(names, columns, lambda row: f"{path} row {row}", [], metadata)
    if kind == "csv":
        return _read_csv(path, set(integers), set(floats), set(booleans), only)
    if kind == "jsonl":
        return _read_jsonl(path, only)
    if kind == "json":
        return _read_json(path)
    raise InputError(f"{path}: neither Parquet nor CSV nor JSONL: give one of them, with the suffix of its kind")


def _among(only: Collection[str]) -> Callable[[list[str], set[str]], list[str]]:
    return lambda names, _: [name for name in names if name in only]


def column_names_in(path: Path) -> list[str]:
    """Return the names of a file's columns, read from its beginning; none if it has another kind or is damaged."""
    kind = kind_of(path)
    try:
        if kind == "parquet":
            return read_parquet(path, lambda *_: ())[0]
        if kind == "csv":
            return next(_csv_records(path, _delimiter(path)), (1, []))[1]
        if kind == "jsonl":
            with open_text(path) as file:
                record = json.loads(next((line for line in file if not line.isspace()), "{}"))
        elif kind == "json":
            start = head(path, 2**20).decode("utf-8-sig", errors="ignore").lstrip()[1:].lstrip()
            record = json.JSONDecoder().raw_decode(start)[0] if start.startswith("{") else {}
        else:
            return []
    except (InputError, ValueError, RecursionError):
        return []
    return list(record) if isinstance(record, dict) else []


def concatenate(parts: list[FileColumns]) -> FileColumns:
    """Join the columns of files, one after another. A column that a file lacks is missing in its rows."""
    if len(parts) == 1:
        return parts[0]
    sizes = [len(next(iter(part.columns.values()), ())) for part in parts]
    ends = np.cumsum(sizes)

    def row_name(row: int) -> str:
        index = int(np.searchsorted(ends, row, side="right"))
        return parts[index].row_name(row - int(ends[index]) + sizes[index])

    names = list(dict.fromkeys(chain.from_iterable(part.names for part in parts)))
    columns = {}
    for name in dict.fromkeys(chain.from_iterable(part.columns for part in parts)):
        values = [
            part.columns[name] if name in part.columns else np.full(size, None)
            for part, size in zip(parts, sizes, strict=True)
        ]
        plain = all(array.dtype.kind in "biuf" for array in values)
        columns[name] = np.concatenate(values if plain else [array.astype(object) for array in values])
    faults = merge_faults(chain.from_iterable(part.faults for part in parts))
    shared = dict.fromkeys(chain.from_iterable(part.metadata for part in parts))
    metadata = {key: parts[0].metadata[key] for key in shared if len({part.metadata.get(key) for part in parts}) == 1}
    return FileColumns(names, columns, row_name, faults, metadata)


def _read_csv(
    path: Path, integers: set[str], floats: set[str], booleans: set[str], only: Collection[str] | None
) -> FileColumns:
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    delimiter = _delimiter(path)
    _, header = next(_csv_records(path, delimiter), (1, []))
    for name in header:
        if header.count(name) > 1:
            raise InputError(f"{path} line 1: {header.count(name)} columns {name!r}: keep one")
    # Ids and labels stay as written, "007" too.
    as_text = {name: pa.string() for name in header if name not in integers | floats | booleans}

    # Lines are counted for errors only. Line breaks in values, and blank lines, make line and row numbers differ.
    def lines(whole: bool) -> Iterator[tuple[int, int]]:
        for line, record in _csv_records(path, delimiter):
            if (len(record) == len(header)) == whole:
                yield line, len(record)

    def row_name(row: int) -> str:
        return f"{path} line {next(line for number, (line, _) in enumerate(lines(True)) if number == row + 1)}"

    def table_of(**options: Any) -> pa.Table:
        with stream(path) as content:
            return arrow_csv.read_csv(
                content,
                parse_options=arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, **options),
                convert_options=arrow_csv.ConvertOptions(column_types=as_text),
            )

    faults = []
    try:
        try:
            table = table_of()
        except pa.ArrowInvalid:
            uneven = list(lines(False))
            if not uneven:
                raise
            line, size = uneven[0]
            problem = f"{size} values for {len(header)} columns"
            faults.append(Fault(f"{path} line {line}", "", problem, "give one a column", len(uneven)))
            table = table_of(invalid_row_handler=lambda _: "skip")
    except pa.ArrowInvalid as error:
        raise InputError(f"{path}: not a CSV file ({' '.join(str(error).split())}): write it again") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8: save the file in that encoding") from None

    chosen = [name for name in table.column_names if only is None or name in only]
    values = {name: table[name].to_numpy() for name in chosen}
    for name in integers | floats:
        # A single value that is no number turns the whole column into text.
        if name in values and pa.types.is_string(table[name].type):
            values[name] = np.fromiter(map(_number(int if name in integers else float), values[name]), object)
    return FileColumns(header, values, row_name, faults, {})


def _delimiter(path: Path) -> str:
    """Return the usual delimiter that occurs most often in a file's first line."""
    with open_text(path) as file:
        header = next((line for line in file if not line.isspace()), "")
    return max(DELIMITERS, key=header.count)


def _number(kind: type) -> Callable[[str], Any]:
    """Return a function that reads a text as a number; text that is none stays text, empty text becomes None."""

    def read(text: str) -> Any:
        try:
            return kind(text)
        except ValueError:
            return text or None

    return read


def _csv_records(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (first line, counted from 1; values) of each record, the header included; blank lines are skipped."""
    csv.field_size_limit(2**31 - 1)  # a prompt that serves as its own id may be longer than the default of 128 KiB
    with open_text(path) as file:
        reader, line = csv.reader(file, delimiter=delimiter), 1
        for record in reader:
            if record:
                yield line, record
            line = reader.line_num + 1


def _read_json(path: Path) -> FileColumns:
    items = _json_array(path)
    numbers = [item for item, value in enumerate(items) if isinstance(value, dict)]
    others = [(item, str(value)) for item, value in enumerate(items) if not isinstance(value, dict)]
    records = [items[item] for item in numbers]
    names = list(dict.fromkeys(chain.from_iterable(records)))
    return _columns_of(path, "item", names, numbers, records, others, "give one an item")


def _json_array(path: Path) -> list[Any]:
    with open_text(path) as file:
        try:
            content = json.loads(file.read())
        except UnicodeDecodeError:
            raise
        except (ValueError, RecursionError) as error:  # no JSON, a number of thousands of digits, or nested as deep
            raise InputError(f"{path}: no JSON ({' '.join(str(error).split())[:200]}): write it again") from None
    if not isinstance(content, list):
        raise InputError(f"{path}: a JSON {type(content).__name__}: give an array of objects, one a row")
    return content


def _read_jsonl(path: Path, only: Collection[str] | None) -> FileColumns:
    """Read JSON lines one by one, so that columns which are not asked for take no memory."""
    names: dict[str, None] = {}
    texts: dict[str, str] = {}  # prompts repeat: each text is kept once
    records: list[dict[str, Any]] = []
    numbers: list[int] = []
    others: list[tuple[int, str]] = []
    for line, text, record in json_lines(path):
        if record is None:
            others.append((line, text))
            continue
        names |= dict.fromkeys(record)
        if only is not None:
            kept = {name: as_key(record[name]) for name in only if name in record}
            record = {name: texts.setdefault(v, v) if isinstance(v, str) else v for name, v in kept.items()}
        records.append(record)
        numbers.append(line)
    return _columns_of(path, "line", list(names), numbers, records, others, "give one object a line")


def _columns_of(
    path: Path,
    unit: str,
    names: list[str],
    numbers: list[int],
    records: list[dict[str, Any]],
    others: list[tuple[int, str]],
    mend: str,
) -> FileColumns:
    """Return the columns of JSON objects.

    Args:
        path: their file.
        unit: what the file counts, for errors: "line" or "item".
        names: names of all their columns.
        numbers: (row,) number of each object's line or item.
        records: (row,) the objects.
        others: (number, text) of each line or item that is no object.
        mend: the mend for these.
    """
    faults = []
    if others:
        number, text = others[0]
        problem = f"{text.strip()[:60]!r} is no JSON object"
        faults.append(Fault(f"{path} {unit} {number}", "", problem, mend, len(others)))
    read = dict.fromkeys(chain.from_iterable(records))
    columns = {name: as_array([record.get(name) for record in records]) for name in read}
    return FileColumns(names, columns, lambda row: f"{path} {unit} {numbers[row]}", faults, {})
