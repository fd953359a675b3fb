"""The log of a recording, a line of JSON for each prompt, from which a recording that was cut off goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from promptdyn.errors import InputError

__all__ = ["RolloutLog"]

VERSION = 1
BEGINNING = '{"promptdyn": "rollouts"'


@dataclass
class RolloutLog:
    """The log of a recording, beside its history: HISTORY.parquet has HISTORY.rollouts.jsonl.

    The first line holds the settings that the rollouts depend on. Each further line is a prompt, in the order in which
    prompts are rolled out: its id, {reward function: (rollout,) rewards}, the number of tokens and of rollouts that
    were cut off, and perhaps the completions.

    Attributes:
        path: the file.
        settings: the settings, as JSON has them.
        groups: (prompt,) lines so far.
    """

    path: Path
    settings: Mapping[str, Any]
    groups: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def open(cls, path: Path, settings: Mapping[str, Any], prompt_ids: Sequence[str]) -> RolloutLog:
        """Open a log, and read what it holds. A last line that was cut off is left out.

        Args:
            path: the file, which need not exist.
            settings: the settings on which rewards depend.
            prompt_ids: (prompt,) ids of the prompts to roll out, in order.

        Raises:
            InputError: the file is no log of a recording, or was begun with other settings or prompts.
        """
        log = cls(path, json.loads(json.dumps(settings)))
        if not path.exists():
            return log
        whole, _, cut_off = path.read_text(encoding="utf-8", errors="replace").rpartition("\n")
        if not whole and cut_off.startswith(BEGINNING):  # it died in the first line
            return log
        try:
            header, *lines = [json.loads(line) for line in whole.split("\n")]
            earlier, version = header["settings"], header["version"]
            log.groups = [{**line, "rewards": dict(line["rewards"]), "prompt_id": line["prompt_id"]} for line in lines]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}: is no log of a recording, or damaged ({error}): delete it to record from the start, or name "
                "another history"
            ) from None
        if version != VERSION:
            raise InputError(f"{path}: format version {version} is not the one that this promptdyn reads ({VERSION})")
        mend = "set it as before, record into another history, or delete the file"
        for name in {**earlier, **log.settings}:
            if earlier.get(name) != log.settings.get(name):
                now = log.settings.get(name)
                raise InputError(f"{path}: was begun with {name}={earlier.get(name)!r}, now it is {now!r}: {mend}")
        for number, (group, prompt_id) in enumerate(zip(log.groups, prompt_ids, strict=False)):
            if group["prompt_id"] != prompt_id:
                raise InputError(
                    f"{path} line {number + 2}: has prompt {group['prompt_id']!r}, where the present prompts have "
                    f"{prompt_id!r}: the dataset, the condition or the history of the warm start has changed; record "
                    "into another history, or delete the file"
                )
        log.groups = log.groups[: len(prompt_ids)]
        if cut_off:
            with open(path, "rb+") as file:
                file.truncate(len(f"{whole}\n".encode()))
        return log

    def add(self, groups: Sequence[dict[str, Any]]) -> None:
        """Append the lines of some prompts."""
        header = [] if self.groups else [{"promptdyn": "rollouts", "version": VERSION, "settings": self.settings}]
        with open(self.path, "a" if self.groups else "w", encoding="utf-8") as file:
            file.write("".join(map(_line, [*header, *groups])))
        self.groups += groups

    @property
    def functions(self) -> tuple[str, ...]:
        """Names of the reward functions; none while no prompt was rolled out."""
        return tuple(self.groups[0]["rewards"]) if self.groups else ()

    def rewards(self) -> NDArray[np.float64]:
        """Return (rollout function) rewards, NaN for None.

        Raises:
            InputError: a line has no number of rewards that fits the others.
        """
        group_size = self.settings["num_generations"]
        columns = [[group["rewards"].get(name) for group in self.groups] for name in self.functions]
        try:
            values = np.array(columns, np.float64).reshape(len(self.functions), len(self.groups) * group_size)
        except (ValueError, TypeError):
            raise InputError(f"{self.path}: has lines of different rewards: delete it to record anew") from None
        return values.T

    def total(self, number: str) -> int:
        """Return the sum of a number over the prompts."""
        return sum(int(group.get(number, 0)) for group in self.groups)

    @staticmethod
    @contextmanager
    def locked(path: Path) -> Iterator[None]:
        """Keep other recordings out of a log until the block ends, or the process dies.

        Raises:
            InputError: another process records into it.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise InputError(f"{path}: another process records into it: wait for it, or name another history") from None
        try:
            yield
        finally:
            Path(lock.lock_file).unlink(missing_ok=True)  # first, so that nobody waits for a file that is gone
            lock.release()


def _line(content: Mapping[str, Any]) -> str:
    return json.dumps(content) + "\n"
