"""`promptdyn demo`: four selectors and their forecasts, on the embedded policy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from promptdyn.cli.options import JsonPath
from promptdyn.cli.process import check_targets
from promptdyn.cli.race_bar import RaceBar
from promptdyn.cli.tables import console, print_table, table_console, write_json

__all__ = ["demo"]


def demo(
    out: Annotated[Path, typer.Option(help="Folder for runs and report.")] = Path("runs/demo"),
    budget: Annotated[int, typer.Option(help="Rollouts of each run.")] = 19_200,
    seed: Annotated[int, typer.Option(help="Random seed of pool, sampling and selection.")] = 0,
    json_path: JsonPath = None,
) -> None:
    """Train with four selectors (uniform, dynamic sampling, DPS, auto), then compare forecasters on the history."""
    from promptdyn.training.demo import demo as run_demo
    from promptdyn.training.demo import demo_race
    from promptdyn.training.race import total_rollouts

    check_targets(json_path, out / "report.html")
    with RaceBar(total_rollouts(demo_race(budget, seed))) as bar:
        result = run_demo(
            out, budget, seed, lambda run, spent: bar.update(f"{run.entrant}, seed {run.seed}", spent), bar.stage
        )
    runs = [standing.record() for standing in result.standings]
    write_json(json_path, {"budget": budget, "seed": seed, "runs": runs, "forecasts": result.comparison.to_records()})
    console_of_tables = table_console(json_path)
    for title, rows in result.tables.items():
        console_of_tables.print(title)
        print_table(console_of_tables, rows)
    console_of_tables.print("One-step-ahead forecasts of the second half of the uniform run")
    print_table(console_of_tables, result.comparison.table())
    console.print(f"report: {result.report}, plot: {result.plot}")
