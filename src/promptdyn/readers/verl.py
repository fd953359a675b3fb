"""Read the rollouts that verl dumps with `trainer.rollout_data_dir`: a file `{step}.jsonl` for each step.

A line has `input`, `output`, `gts` (the right answer), `score` and `step`. Version 1 of the trainer adds `uid`, which
is GROUP_SESSION_OUTPUT; version 0 adds whatever the reward function returned beside the score.

A dump holds only what was trained on: groups that a filter dropped are not in it. Dumps of validation
(`trainer.validation_data_dir`) look the same, and have another folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptdyn.readers.files import files_in
from promptdyn.readers.log import Parser, Rollout, RolloutLog

__all__ = ["VerlRollouts"]

UID = re.compile(r"(?P<session>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}_\d+)_(?P<output>\d+)")
PADDING = re.compile(r"pad[0-9a-f]{32}_.*")  # lines that verl adds to fill a batch


@dataclass(frozen=True)
class VerlRollouts(RolloutLog):
    """Counts the successes of each prompt and step in verl's dump of rollouts.

    A prompt is its text, `input`. Of a session's outputs, in runs with several turns, only the last counts. Padding of
    a batch is left out. All rows are `trained`.

    Attributes:
        prompt_key, reward, reward_weights, success, label_columns, skip_bad, keep_superseded: as in
            `promptdyn.readers.RolloutReader`. The default reward is `score`; a line may have others.

    Example:
        >>> history = promptdyn.read_history("rollouts", success="score>=1")  # doctest: +SKIP
    """

    name = "verl"
    title = "verl"
    layout = "verl's trainer.rollout_data_dir, or a file {step}.jsonl of it"
    keys = (frozenset({"input", "output", "score", "step"}),)

    def files(self, path: Path) -> list[Path]:
        """Return the files of JSON lines in a folder."""
        return [file for file in files_in(path) if ".jsonl" in file.name]

    def parser(self, file: Path) -> Parser:
        """Return the function that turns a line into rollouts: one, or none for padding."""

        def parse(record: dict[str, Any]) -> Iterator[Rollout]:
            uid = str(record.get("uid"))
            if not PADDING.fullmatch(uid):
                output = UID.fullmatch(uid)
                yield Rollout(
                    record["step"],
                    record["input"],
                    {"score": record["score"]},
                    fields=record,
                    answer=record.get("gts"),
                    session=output["session"] if output else None,
                    turn=int(output["output"]) if output else 0,
                )

        return parse
