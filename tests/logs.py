"""Logs for readers to read, and what they read from them."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from promptdyn.errors import InputError
from promptdyn.history import RewardHistory
from promptdyn.readers import read_history

LOGS = Path(__file__).parent / "data" / "logs"  # what trainers wrote themselves
COLUMNS = ("step", "prompt_id", "num_rollouts", "num_successes")
HEADER = ",".join(COLUMNS)


def groups(steps=range(4), prompts=5, **extra) -> list[dict]:
    """Rows of a table of groups; an `extra` column is a function of step and prompt."""
    return [
        {"step": step, "prompt_id": f"q{p}", "num_rollouts": 8, "num_successes": (step * p) % 9, "task": "ab"[p % 2]}
        | {name: value(step, p) for name, value in extra.items()}
        for step in steps
        for p in range(prompts)
    ]


def jsonl(path: Path, records: list[dict]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def rows(history: RewardHistory) -> list[tuple]:
    """(step, prompt_id, n, k) of every row."""
    ids = history.prompt_ids[history.prompt]
    return list(
        zip(history.step.tolist(), ids, history.num_rollouts.tolist(), history.num_successes.tolist(), strict=True)
    )


def bad(path: Path, **options) -> str:
    """The message with which a path is refused."""
    with pytest.raises(InputError) as error:
        read_history(path, **options)
    message = str(error.value)
    assert message.startswith(str(path.parent))
    assert "\n" not in message
    return message.replace(f"{path.parent}/", "")


def trl_log(
    folder: Path, step: int, prompts: list, rewards: list, completions: list[str] | None = None, **extras: list
) -> Path:
    """Write a step's completions as trl.GRPOTrainer.log does: a data frame of these columns in this order."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"completions_{step:05d}.parquet"
    columns = {
        "step": [step] * len(prompts),
        "prompt": prompts,
        "completion": completions or [f"answer {step}.{i}" for i in range(len(prompts))],
        "correct": rewards,
        **extras,
        "advantage": [0.0] * len(prompts),
    }
    pd.DataFrame(columns).to_parquet(path)
    return path
