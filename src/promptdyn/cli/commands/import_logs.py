"""`promptdyn import`: rollout logs into a history file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from promptdyn.cli.options import JsonPath
from promptdyn.cli.process import check_targets
from promptdyn.cli.tables import console, show
from promptdyn.errors import InputError
from promptdyn.history import Repeated
from promptdyn.readers import READERS, read_history

__all__ = ["FORMATS", "import_logs"]

FORMATS = "\n\n".join(
    ["Formats, of which the one that recognizes the sources is used:"]
    + [f"{name}: {READERS.create(name).layout}" for name in reversed(list(READERS))]
    + ["Not readable: SkyRL's dumps, which are pickles without rewards; OpenRLHF, which logs no rollouts."]
)
"""What `promptdyn import --help` says below the options."""


def import_logs(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="A trainer's log of rollouts, a run's folder, or tables of groups or rollouts (Parquet, CSV, JSONL, "
            "JSON; .gz, .zst): files, folders or globs; several are one history."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="History file to write (Parquet).")],
    reader: Annotated[
        str | None,
        typer.Option(
            help="Format, one of those below, with options (rollouts:reward=score), or your own, FILE.py:NAME; default "
            "the one that recognizes the sources."
        ),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(help="Tables of groups: columns with other names, as in step=global_step,prompt_id=uid."),
    ] = None,
    drop: Annotated[str | None, typer.Option(help="Tables of groups: columns to leave out, comma-separated.")] = None,
    label_columns: Annotated[
        str | None,
        typer.Option(
            help="Label columns to keep, comma-separated; default, in a table of groups: all columns that are the same "
            "in all rows of a prompt; in rollouts: none.",
        ),
    ] = None,
    repeated: Annotated[
        Repeated | None,
        typer.Option(
            parser=str,
            help="Tables of groups: rows of one prompt and step: error (default), merge (add up), last (keep the last) "
            "or apart (steps of their own).",
        ),
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out bad rows, and say how many.")] = False,
    reward: Annotated[
        str | None,
        typer.Option(
            help="Rollouts: column(s) or fields of the reward functions, comma-separated; default those of the format."
        ),
    ] = None,
    reward_weights: Annotated[
        str | None, typer.Option(help="Rollouts: their weights, as in 1,0.2; default those of the log, or 1 each.")
    ] = None,
    success: Annotated[
        str | None,
        typer.Option(
            help="Rollouts: rule of success: 0.5 (threshold on the folded reward), correct, 'correct>=0.8', "
            "FILE.py:FUNCTION; default found from the first rewards (auto)."
        ),
    ] = None,
    prompt_key: Annotated[str | None, typer.Option(help="Rollouts: column that identifies the prompt.")] = None,
    step_key: Annotated[
        str | None, typer.Option(help="Rollouts: column of the step; default 'step', or the number in a file's name.")
    ] = None,
    keep_superseded: Annotated[
        bool,
        typer.Option("--keep-superseded", help="Rollouts: keep files that an earlier run left in the same folder."),
    ] = False,
    json_path: JsonPath = None,
) -> None:
    """Turn rollout logs into a history file."""
    check_targets(out, json_path, sources=[Path(source) for source in sources])
    options = {
        "columns": _pairs(columns) if columns else None,
        "drop": _names(drop),
        "label_columns": _names(label_columns),
        "repeated": repeated,
        "skip_bad": skip_bad or None,
        "reward": _names(reward),
        "reward_weights": _names(reward_weights),
        "success": success,
        "prompt_key": prompt_key,
        "step_key": step_key,
        "keep_superseded": keep_superseded or None,
    }
    reader_options: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    with console.status("reading"):
        history = read_history(sources[0] if len(sources) == 1 else sources, reader, **reader_options)
    history.to_parquet(out)
    summary = history.summary()
    show([{"history": name.replace("_", " "), "": fact} for name, fact in summary.items()], json_path, summary)
    failed, solved = (int((history.num_successes == each).sum()) for each in (0, history.num_rollouts))
    vary = len(history) - failed - solved
    console.print(f"{len(history):,} groups: {failed:,} all failed, {solved:,} all solved, {vary:,} vary")
    console.print(f"wrote {out}")


def _pairs(text: str) -> dict[str, str]:
    """Read "step=global_step,..." as {"step": "global_step", ...}; raise InputError for other text."""
    pairs = [part.partition("=") for part in text.split(",")]
    for name, _, value in pairs:
        if not name or not value or [part[0] for part in pairs].count(name) > 1:
            raise InputError(f"columns {text!r}: write each once, as in step=global_step,prompt_id=uid")
    return {name: value for name, _, value in pairs}


def _names(text: str | None) -> list[str] | None:
    return text.split(",") if text else None
