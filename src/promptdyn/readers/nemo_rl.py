"""Read the rollouts that NeMo-RL logs: `LOG_DIR/exp_XXX/train_data_step{N}.jsonl`, a file for each step.

A line is a rollout, each of its values a list of one: `token_ids`, `token_loss_mask`, `rewards`, `content` and more.
With dynamic sampling `rewards` are those of the last whole batch and do not belong to the line's rollout;
`filtered_rewards` do. Groups that dynamic sampling dropped are not in the log.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptdyn.errors import InputError
from promptdyn.readers.files import files_in
from promptdyn.readers.log import Parser, Rollout, RolloutLog

__all__ = ["NeMoRLRollouts"]

FILE = re.compile(r"train_data_step(\d+)\.jsonl(?:\.gz|\.zst)?")


@dataclass(frozen=True)
class NeMoRLRollouts(RolloutLog):
    """Counts the successes of each prompt and step in NeMo-RL's training data.

    The text of a line has no boundary between prompt and answer. So a prompt is the tokens before the first one that is
    learned from, and its id a hash of them, of 16 hexadecimal digits. All rows are `trained`.

    Attributes:
        prompt_key, reward, reward_weights, success, label_columns, skip_bad, keep_superseded: as in
            `promptdyn.readers.RolloutReader`. The default reward is `filtered_rewards`, or else `rewards`.

    Example:
        >>> history = promptdyn.read_history("logs/exp_001")  # doctest: +SKIP
    """

    name = "nemo-rl"
    title = "NeMo-RL"
    layout = "NeMo-RL's LOG_DIR/exp_XXX with train_data_step{N}.jsonl, or a file of it"
    keys = (frozenset({"token_ids", "token_loss_mask", "rewards"}),)

    def files(self, path: Path) -> list[Path]:
        """Return the files of training data in a folder."""
        return [file for file in files_in(path) if FILE.fullmatch(file.name)]

    def parser(self, file: Path) -> Parser:
        """Return the function that turns a line into a rollout, of the step in the file's name.

        Raises:
            InputError: the file has another name.
        """
        name = FILE.fullmatch(file.name)
        if name is None:
            raise InputError(f"{file}: its name tells no step: give files train_data_step{{N}}.jsonl")
        step = int(name[1])

        def parse(record: Mapping[str, Any]) -> Iterator[Rollout]:
            fields = {key: value[0] if isinstance(value, list) else value for key, value in record.items()}
            tokens, mask = fields["token_ids"], fields["token_loss_mask"]
            prompt = tokens[: mask.index(1)] if 1 in mask else tokens
            reward = "filtered_rewards" if "filtered_rewards" in fields else "rewards"
            yield Rollout(step, _hash(prompt), {reward: fields[reward]}, fields)

        return parse


def _hash(tokens: list[int]) -> str:
    return hashlib.blake2b(array("q", tokens).tobytes(), digest_size=8).hexdigest()
