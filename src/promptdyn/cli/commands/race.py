"""`promptdyn race`: selectors compared with one budget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from promptdyn.cli.options import JsonPath
from promptdyn.cli.process import check_targets
from promptdyn.cli.race_bar import RaceBar
from promptdyn.cli.tables import console, print_table, table_console, write_json

__all__ = ["race"]


def race(
    race_file: Annotated[Path, typer.Argument(metavar="RACE", help="YAML file that declares the race.")],
    out: Annotated[Path, typer.Option(help="Folder of results; runs that have a result are not made again.")],
    only: Annotated[str | None, typer.Option(help="Selectors to run now, comma-separated; default all.")] = None,
    json_path: JsonPath = None,
) -> None:
    """Train with each selector from the same start, on several seeds, with one budget; then compare the results."""
    from promptdyn.training.race import Run, read_race, standings, tables, total_rollouts, write_standings
    from promptdyn.training.race import race as run_race

    check_targets(json_path, out / "report.html", sources=[race_file])
    declared = read_race(race_file)
    names = only.split(",") if only else None
    with RaceBar(total_rollouts(declared, names)) as bar:

        def progress(run: Run, spent: int) -> None:
            bar.update(f"{run.entrant}, {run.learning_rate:g}, seed {run.seed}", spent)

        entrants = standings(declared, run_race(declared, out, names, progress))
    page = write_standings(out, f"Race: {race_file.stem}", declared, entrants)
    console_of_tables = table_console(json_path)
    for title, rows in tables(declared, entrants).items():
        console_of_tables.print(title)
        print_table(console_of_tables, rows)
    write_json(json_path, [standing.record() for standing in entrants])
    console.print(f"report {page}")
