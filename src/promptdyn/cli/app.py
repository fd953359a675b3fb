"""The `promptdyn` command and the commands that it has."""

from __future__ import annotations

import typer

from promptdyn.cli.commands.compare import compare
from promptdyn.cli.commands.demo import demo
from promptdyn.cli.commands.fit import fit
from promptdyn.cli.commands.import_logs import FORMATS, import_logs
from promptdyn.cli.commands.race import race
from promptdyn.cli.commands.record import record
from promptdyn.cli.commands.report import report
from promptdyn.cli.commands.simulate import simulate
from promptdyn.cli.commands.train import train
from promptdyn.cli.process import one_line_errors, own_warnings

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Model prompt learning dynamics: forecast which prompts will teach, before rolling them out.",
)

app.command("import", epilog=FORMATS)(import_logs)
for command in (fit, simulate, compare, report, record, train, race, demo):
    app.command()(command)


def main() -> None:
    """Run the `promptdyn` command."""
    with one_line_errors(), own_warnings():
        app()
