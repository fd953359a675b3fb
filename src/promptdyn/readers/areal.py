"""Read the rollouts that AReaL dumps with `rollout.dump_to_file=true`: `LOG/rollout/{version}/{task id}.jsonl`.

A line is a rollout: `task_id`, `sample_idx`, `tail_version` (the version of the weights that ended it), `reward`,
`prompt` and `completion` as text with special tokens. AReaL writes a group before it accepts or rejects it, and does
not mark which it rejected. Files of `LOG/eval-rollout` look the same.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptdyn.history import RewardHistory
from promptdyn.readers.files import files_in, in_order
from promptdyn.readers.log import Parser, Rollout, RolloutLog

__all__ = ["ARealRollouts"]

logger = logging.getLogger(__name__)

EVALUATION = "eval-rollout"


@dataclass(frozen=True)
class ARealRollouts(RolloutLog):
    """Counts the successes of each prompt and version of the weights in AReaL's dump of rollouts.

    A step is a version (`tail_version`), a prompt its text. All rows are `trained`, those of groups that the run
    rejected too, since the log does not tell them apart; rows of an evaluation are not.

    Attributes:
        prompt_key, reward, reward_weights, success, label_columns, skip_bad, keep_superseded: as in
            `promptdyn.readers.RolloutReader`. The default reward is `reward`.

    Example:
        >>> history = promptdyn.read_history("logs/root/exp/trial/rollout")  # doctest: +SKIP
    """

    name = "areal"
    title = "AReaL"
    layout = "AReaL's LOG/rollout (rollout.dump_to_file=true), or a folder or file of it"
    keys = (frozenset({"task_id", "tail_version", "reward", "prompt"}),)

    def files(self, path: Path) -> list[Path]:
        """Return the files of tasks in a folder of versions, in a version's folder, or in the run's."""
        if path.is_file():
            return files_in(path)
        folders = [path, *(path / "rollout" if (path / "rollout").is_dir() else path).glob("*/")]
        return in_order(
            file
            for folder in folders
            if folder.name.isdecimal()
            for file in files_in(folder)
            if file.suffix == ".jsonl" and file.stem.isdecimal()
        )

    def parser(self, file: Path) -> Parser:
        """Return the function that turns a line into a rollout."""
        trained = EVALUATION not in file.parts

        def parse(record: dict[str, Any]) -> Iterator[Rollout]:
            yield Rollout(
                record["tail_version"], record["prompt"], {"reward": record["reward"]}, record, trained=trained
            )

        return parse

    def read(self, paths: Sequence[Path], source: str) -> RewardHistory:
        """Count the successes, and say what the log does not tell.

        Raises:
            InputError: as in `RolloutLog.read`.
        """
        history = super().read(paths, source)
        if history.trained.any():
            logger.warning("%s: AReaL does not mark the groups that a run rejected: all count as trained", source)
        return history
