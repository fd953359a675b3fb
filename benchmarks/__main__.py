"""Run every benchmark and print what this run measured."""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import engines, filtering, fitting, kernels, models, online


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the rows here")
    arguments = parser.parse_args()
    console = Console()
    console.print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; medians")
    results = {}
    for module in (filtering, kernels, fitting, engines, models, online):
        with console.status(module.__name__):
            rows = results[module.__name__.rpartition(".")[2]] = module.run()
        table = Table(*rows[0])
        for row in rows:
            table.add_row(*map(str, row.values()))
        console.print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
