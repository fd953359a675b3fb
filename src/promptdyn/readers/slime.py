"""Read the rollouts that slime saves with `--save-debug-rollout-data` or `--dump-details`: `{rollout id}.pt` a step.

A file holds `samples`, each with `group_index`, `prompt`, `label` (the right answer), `reward`, `status`, `metadata`
and `remove_sample`. It holds what was trained on: groups that dynamic sampling dropped are not in it. Files `eval_N.pt`
are evaluations, and left out. Files are loaded without code (torch's `weights_only`).
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptdyn.errors import InputError, install_hint
from promptdyn.readers.files import files_in
from promptdyn.readers.log import Parser, Rollout, RolloutLog

__all__ = ["SlimeRollouts"]

GRADED = ("completed", "truncated")
# The key of the metadata that holds a prompt's id; selection writes it there.
PROMPT_ID = "prompt_id"


@dataclass(frozen=True)
class SlimeRollouts(RolloutLog):
    """Counts the successes of each prompt and rollout id in slime's debug data. Needs torch.

    A step is a rollout id. A prompt is known by the `prompt_id` in its metadata, else by its text. A sample that was
    aborted or failed has no reward. A row is `trained` unless all of its samples were removed (`remove_sample`).

    Attributes:
        prompt_key, reward, reward_weights, success, label_columns, skip_bad, keep_superseded: as in
            `promptdyn.readers.RolloutReader`. The default reward is `reward`; if that is a dict, `reward` names one or
            several of its keys. Fields of the metadata may be named too.

    Example:
        >>> history = promptdyn.read_history("debug/rollout_data", label_columns="task")  # doctest: +SKIP
    """

    name = "slime"
    title = "slime"
    layout = "slime's folder of {rollout id}.pt (--save-debug-rollout-data, --dump-details), or a file of it"
    keys = ()
    unit = "sample"

    def files(self, path: Path) -> list[Path]:
        """Return the files of a folder, or of its `rollout_data`, that a rollout id names."""
        folder = path / "rollout_data" if (path / "rollout_data").is_dir() else path
        return [file for file in files_in(folder) if file.suffix == ".pt" and file.stem.isdecimal()]

    def recognizes(self, path: Path) -> bool:
        """Whether a path has such files, and the first is one that torch saved."""
        files = self.files(path)
        return bool(files) and files[0].read_bytes()[:2] == b"PK"

    def records(self, file: Path) -> Iterator[tuple[int, str, Any]]:
        """Yield (number, counted from 0; text; sample) of each sample of a file.

        Raises:
            InputError: the file is damaged, or none of slime's.
            ModuleNotFoundError: torch is missing; the message says what to install.
        """
        with install_hint():
            import torch
        try:
            samples = torch.load(file, map_location="cpu", weights_only=True)["samples"]
        except Exception:  # torch raises errors of many kinds
            raise InputError(f"{file}: no rollouts of slime, or damaged: leave the file out") from None
        for number, sample in enumerate(samples):
            yield number, reprlib.repr(sample), sample

    def parser(self, file: Path) -> Parser:
        """Return the function that turns a sample into a rollout, of the step in the file's name.

        Raises:
            InputError: the file has another name.
        """
        if not file.stem.isdecimal():
            raise InputError(f"{file}: its name is no rollout id: give files {{rollout id}}.pt")
        step = int(file.stem)

        def parse(sample: Mapping[str, Any]) -> Iterator[Rollout]:
            metadata, reward = sample["metadata"] or {}, sample["reward"]
            parts = reward if isinstance(reward, dict) else {"reward": reward}
            if sample["status"] not in GRADED:
                parts = dict.fromkeys(parts)
            known = PROMPT_ID in metadata
            yield Rollout(
                step,
                metadata[PROMPT_ID] if known else sample["prompt"],
                parts,
                fields={**sample, **metadata, **parts},
                answer=None if known else sample["label"],
                trained=not sample["remove_sample"],
            )

        return parse
