"""Print results: tables for people, JSON for programs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from promptdyn.storage import atomic

__all__ = ["console", "print_table", "show", "table_console", "write_json"]

# Progress and messages go to stderr; tables and JSON, which may be piped, go to stdout. Markup is off, because names of
# files and prompts may hold "[...]".
console = Console(stderr=True, markup=False)


def show(records: list[dict[str, Any]], json_path: Path | None, value: Any = None) -> None:
    """Print records as a table, and write `value` (default: the records) as JSON if `json_path` is set."""
    print_table(table_console(json_path), records)
    write_json(json_path, records if value is None else value)


def table_console(json_path: Path | None) -> Console:
    """Return the console for tables: stdout, or stderr with "--json -", where stdout holds the JSON alone."""
    return Console(stderr=str(json_path) == "-", markup=False)


def _as_table(records: list[dict[str, Any]]) -> Table:
    """Make a table with a row for each record; a single record has a row for each of its fields."""
    cells = [{name.replace("_", " "): _cell(cell) for name, cell in record.items()} for record in records]
    if len(cells) == 1:
        table = Table.grid(padding=(0, 2))
        for fact in cells[0].items():
            table.add_row(*fact)
        return table
    # Only headers may break, between words; no cell is cut.
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in cells[0]:
        parts = [*name.split(), *(record[name] for record in cells)]
        table.add_column(name, min_width=max(map(len, parts)))
    for record in cells:
        table.add_row(*record.values())
    return table


def print_table(target: Console, records: list[dict[str, Any]]) -> None:
    """Print records as a table, wider than the terminal if necessary."""
    table = _as_table(records)
    least_width = target.measure(table, options=target.options.update(width=10_000)).minimum
    target.print(table, width=max(target.width, least_width), crop=False)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def _without_nan(value: Any) -> Any:
    """Replace NaN and infinities, which JSON does not have, by None."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path | None, value: Any) -> None:
    """Write a value as JSON to a file, to stdout if the path is "-", or nowhere if it is None."""
    if path is None:
        return
    text = json.dumps(_without_nan(value), indent=2, allow_nan=False)
    if str(path) == "-":
        print(text)
        return
    with atomic(path) as part:
        part.write_text(text + "\n", encoding="utf-8")
