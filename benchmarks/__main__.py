"""Run every benchmark and print what this run measured, in tables of at most 80 columns."""

from __future__ import annotations

import argparse
import json
import os
import platform
import textwrap
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import engines, filtering, fitting, kernels, models, online, reading

# What fits say of themselves: below the table, since sentences make no column.
VERDICT = "verdict"
HEADING = 7  # headings that are longer, and longer than their column, break between words


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the rows here")
    arguments = parser.parse_args()
    console = Console()
    console.print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; medians")
    results = {}
    for module in (filtering, kernels, fitting, engines, models, online, reading):
        with console.status(module.__name__):
            rows = results[module.__name__.rpartition(".")[2]] = module.run()
        console.print("\n" + " ".join(str(module.__doc__).split()))
        cells = [{name: str(value) for name, value in row.items() if name != VERDICT} for row in rows]
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
        for name in cells[0]:
            width = max(HEADING, *map(len, [*name.split(), *(row[name] for row in cells)]))
            table.add_column(textwrap.fill(name, width), no_wrap=True)
        for row in cells:
            table.add_row(*row.values())
        console.print(table)
        for row in rows:
            if VERDICT in row:
                console.print(f"{next(iter(row.values()))}: {row[VERDICT]}")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
