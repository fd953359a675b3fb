"""The tables of completions that TRL logs to Weights & Biases and to trackio."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from logs import LOGS, rows
from promptdyn.errors import InputError, PromptdynWarning
from promptdyn.readers import TRLCompletions, read_history

WANDB = LOGS / "trl" / "wandb"


def table(step: int, rewards: list[Any]) -> list[dict[str, Any]]:
    """The rows of a table of completions: groups of two rollouts."""
    return [
        {"step": step, "prompt": f"p{i // 2}", "completion": f"{step}.{i}", "correct": reward, "advantage": 0.0}
        for i, reward in enumerate(rewards)
    ]


def trackio(path: Path, *logged: tuple[str, list[dict[str, Any]]]) -> Path:
    """Write a database as trackio does: each time that something is logged, a row with the run's name and a JSON."""
    with sqlite3.connect(path) as database:
        database.execute(
            "CREATE TABLE metrics (id INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL, "
            "timestamp TEXT NOT NULL, run_name TEXT NOT NULL, step INTEGER NOT NULL, metrics TEXT NOT NULL, "
            "log_id TEXT, space_id TEXT)"
        )
        for step, (run, content) in enumerate(logged):
            for metrics in ({"train/loss": 0.5}, {"completions": {"_type": "trackio.table", "_value": content}}):
                database.execute(
                    "INSERT INTO metrics (run_id, timestamp, run_name, step, metrics) VALUES (?, ?, ?, ?, ?)",
                    ("1", "2026-01-01", run, step, json.dumps(metrics).encode()),
                )
    database.close()
    return path


def wandb_tables() -> list[list[dict[str, Any]]]:
    """The tables of the log of Weights & Biases, in the order of logging, as rows."""
    files = sorted((WANDB / "offline-run-1/files/media/table").iterdir(), key=lambda file: int(file.name.split("_")[1]))
    tables = [json.loads(file.read_text()) for file in files]
    return [[dict(zip(each["columns"], row, strict=True)) for row in each["data"]] for each in tables]


def test_trackers_hold_what_the_files_hold(tmp_path: Path) -> None:
    expected = rows(read_history(LOGS / "trl" / "completions"))
    assert len(expected) == 12
    for path in (WANDB.parent, WANDB, WANDB / "offline-run-1"):
        shutil.copytree(path, tmp_path / path.name, ignore=shutil.ignore_patterns("completions", "*.parquet"))
        assert rows(read_history(tmp_path / path.name)) == expected
    database = trackio(tmp_path / "project.db", *(("run", each) for each in wandb_tables()))
    assert rows(read_history(database)) == expected


def test_runs_that_share_a_folder_or_a_database(tmp_path: Path) -> None:
    shutil.copytree(WANDB, tmp_path / "wandb")
    shutil.copytree(WANDB / "offline-run-1", tmp_path / "wandb" / "offline-run-2")
    with pytest.raises(InputError, match=r"wandb: 2 runs, offline-run-1, offline-run-2: give the folder of one, or of"):
        read_history(tmp_path / "wandb")
    database = trackio(tmp_path / "p.db", ("a", table(1, [0, 1])), ("b", table(1, [1, 1])))
    with pytest.raises(InputError, match=r"p\.db: 2 runs, a, b: name one, as run=b"):
        read_history(database)
    assert rows(read_history(database, run="a")) == [(1, "p0", 2, 1)]
    assert rows(read_history(database, "trl:run=b")) == [(1, "p0", 2, 2)]
    with pytest.raises(InputError, match=r"p\.db: no run 'c' among a, b"):
        read_history(database, run="c")


def test_a_run_that_started_again_in_a_database(tmp_path: Path) -> None:
    steps = [(1, [0, 0]), (2, [0, 1]), (3, [1, 1]), (2, [1, 1]), (3, [0, 1]), (3, [0, 1])]
    database = trackio(tmp_path / "p.db", *(("a", table(*each)) for each in steps))
    with pytest.warns(PromptdynWarning, match=r"left out 1 of 6 tables, since the run started again from an earlier"):
        assert rows(read_history(database)) == [(1, "p0", 2, 0), (2, "p0", 2, 2), (3, "p0", 2, 1)]


def test_one_rollout_a_prompt_is_told(tmp_path: Path) -> None:
    database = trackio(tmp_path / "p.db", ("a", table(1, [0, 1, 1])[1:]), ("a", table(2, [0, 1, 1])[1:]))
    with pytest.warns(PromptdynWarning, match=r"p\.db: one rollout a prompt, as log_unique_prompts=True leaves"):
        assert rows(read_history(database)) == [(1, "p0", 1, 1), (1, "p1", 1, 1), (2, "p0", 1, 1), (2, "p1", 1, 1)]


def test_missing_rewards_and_damage(tmp_path: Path) -> None:
    database = trackio(tmp_path / "p.db", ("a", table(1, [0.0, "NaN", 1.0, 0.5])))
    assert rows(read_history(database, success=1.0)) == [(1, "p0", 1, 0), (1, "p1", 2, 1)]
    database = trackio(tmp_path / "q.db", ("a", table(1, [0.0, "high"])))
    with pytest.raises(InputError, match=r"q\.db row 2: a column holds values of several types"):
        read_history(database)
    (tmp_path / "r.db").write_bytes(b"SQLite format 3\0 and nothing else")
    assert not TRLCompletions().recognizes(tmp_path / "r.db")
    with pytest.raises(InputError, match=r"r\.db: no database of trackio, or damaged \(.*\): leave it out"):
        read_history(tmp_path / "r.db", "trl")
    file = tmp_path / "completions_7_0f.table.json"
    file.write_text('{"columns": ["step"], "data": [[1')
    with pytest.raises(InputError, match=r"completions_7_0f\.table\.json: no table of Weights & Biases, or damaged"):
        read_history(file)
