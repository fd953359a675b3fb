"""Read a trainer's log of single rollouts, one record at a time: what the readers of all trainers share.

A trainer's reader says which files a path has (`files`), and how a record of a file becomes rollouts (`parser`). Here
its rollouts are gathered, checked and folded. Texts are kept once for each prompt, so memory does not grow with the
size of the log but with its number of rollouts.
"""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from promptdyn._columns import Fault, as_array, is_whole, merge_faults
from promptdyn.errors import InputError
from promptdyn.history import RewardHistory
from promptdyn.prompts import column_names
from promptdyn.readers.base import RolloutReader
from promptdyn.readers.columns import column_names_in
from promptdyn.readers.files import json_lines, of_the_last_run
from promptdyn.readers.fold import as_key, check_rollouts, fold, weights_of
from promptdyn.success import Grader

__all__ = ["Parser", "Rollout", "RolloutLog"]

NONE: Mapping[str, Any] = MappingProxyType({})


class Rollout(NamedTuple):
    """One rollout of a log."""

    step: object  # training step, a whole number
    prompt: object  # what identifies the prompt: a text, a number or messages
    rewards: Mapping[str, object]  # reward function -> reward; None for none
    fields: Mapping[str, object] = NONE  # all that options may name: rewards, label columns, the prompt key
    answer: object = None  # right answer, which tells apart prompts with the same text
    trained: bool = True  # whether the trainer learned from the rollout's group, as far as the log tells
    weights: Mapping[str, float] = NONE  # reward function -> its weight, where the log tells it
    session: Hashable = None  # of the rollouts of one session (of several turns) only that of the last turn counts
    turn: int = 0


Parser = Callable[[Any], Iterable[Rollout]]
"""A function of a record that returns its rollouts. A KeyError names a key that the record lacks."""


@dataclass(frozen=True)
class RolloutLog(RolloutReader):
    """A trainer's log of single rollouts. Inherit from this class in a frozen dataclass, as `VerlRollouts` does.

    A rollout without a reward does not count, and a group without any has no row. Several groups of one prompt in a
    step are counted together. Prompts with the same text and different right answers are told apart by these.

    Attributes:
        prompt_key, reward, reward_weights, success, label_columns, skip_bad, keep_superseded: as in
            `promptdyn.readers.RolloutReader`; they name fields of records.
        title: the trainer's name in messages.
        keys: names of the keys by which a record is recognized; several sets if the trainer changed them.
        unit: what a file has one of for each record, in messages.
    """

    title: ClassVar[str]
    keys: ClassVar[tuple[frozenset[str], ...]]
    unit: ClassVar[str] = "line"

    @abstractmethod
    def files(self, path: Path) -> list[Path]:
        """Return the files that the log has at a path, by their names, in the order of steps."""

    @abstractmethod
    def parser(self, file: Path) -> Parser:
        """Return the function that turns a record of a file into rollouts."""

    def records(self, file: Path) -> Iterator[tuple[int, str, Any]]:
        """Yield (number, text for an error, record or None if there is none) of each record; default JSON lines."""
        return json_lines(file)

    def recognizes(self, path: Path) -> bool:
        """Whether the first file with content that the log has at a path begins with a record of this format."""
        first = next((file for file in self.files(path) if file.stat().st_size), None)
        names = set() if first is None else set(column_names_in(first))
        return any(keys <= names for keys in self.keys)

    def read(self, paths: Sequence[Path], source: str) -> RewardHistory:
        """Count the successes.

        Warns:
            PromptdynWarning: files, lines or rollouts were left out.

        Raises:
            InputError: nothing to read; a line that is no record of the format; a bad step or prompt; a reward that is
                no number; an option that names a field which no record has; a prompt with different labels.
        """
        grader = Grader(self.success)
        log = _Log(self)
        for file in dict.fromkeys(file for path in paths for file in self._files(path)):
            log.add(file)
        kept = log.rows_kept(source)
        functions = tuple(log.rewards)
        if not functions and log.step:
            raise InputError(f"{source}: no rollout has a reward: was the log written before they were graded?")
        log.check_names(source)
        told = [log.weights[name][0] if name in log.weights else 1.0 for name in functions]
        weights = weights_of(source, functions, told if self.reward_weights is None else self.reward_weights)

        def column(values: Sequence[Any]) -> NDArray:
            return as_array(values)[kept]

        rollouts = check_rollouts(
            source,
            column(log.step),
            column(log.prompt_ids()).tolist(),
            {name: column(values) for name, values in log.rewards.items()},
            weights,
            {name: column(values) for name, values in log.labels.items()},
            lambda row: log.row_name(int(kept[row])),
            self.prompt_key or "prompt",
            skip_bad=self.skip_bad,
            faults=log.faults,
            trained=np.array(log.trained, bool)[kept],
        )
        return fold(rollouts, grader)

    def _files(self, path: Path) -> list[Path]:
        files = self.files(path) or [path]
        if files[0].is_dir():
            raise InputError(f"{path}: no log of {self.title}: give {self.layout}")
        return files


class _File(NamedTuple):
    path: Path
    begin: int  # number of its first rollout
    faults: list[Fault]


@dataclass
class _Log:
    """The columns of a log, each with a value for every rollout, and what is said of the whole."""

    reader: RolloutLog
    step: list[Any] = field(default_factory=list)
    prompt: list[int] = field(default_factory=list)  # index into the distinct prompts
    rewards: dict[str, list[Any]] = field(default_factory=dict)
    labels: dict[str, list[Any]] = field(default_factory=dict)
    trained: list[bool] = field(default_factory=list)
    place: list[int] = field(default_factory=list)  # number of the record in its file
    prompts: dict[tuple[Any, Any], int] = field(default_factory=dict)  # (prompt, answer) -> index
    weights: dict[str, tuple[float, str]] = field(default_factory=dict)  # function -> weight, where it was told first
    texts: dict[str, str] = field(default_factory=dict)  # labels, each kept once
    names: dict[str, None] = field(default_factory=dict)  # the fields that some record has
    files: list[_File] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)  # those of the files that are kept
    superseded: set[int] = field(default_factory=set)  # rollouts before the last of their session

    def add(self, file: Path) -> None:
        """Read a file."""
        faults: list[Fault] = []
        self.files.append(_File(file, len(self.step), faults))
        last: dict[Hashable, tuple[int, int]] = {}  # session -> its last turn, and the number of its rollout
        for place, rollout in self._rollouts(file, faults):
            row = len(self.step)
            if rollout.session is not None:
                turn, before = last.get(rollout.session, (-1, -1))
                self.superseded |= {before if rollout.turn >= turn else row} - {-1}
                last[rollout.session] = max((turn, before), (rollout.turn, row))
            self._append(rollout)
            self.place.append(place)
            if rollout.weights and self.reader.reward_weights is None:
                self._note_weights(rollout.weights, f"{file} {self.reader.unit} {place}")

    def _rollouts(self, file: Path, faults: list[Fault]) -> Iterator[tuple[int, Rollout]]:
        """Yield (number of its record, rollout) of a file, and note the records that hold none."""
        reader = self.reader
        parse = reader.parser(file)
        for place, text, record in reader.records(file):
            problem, mend, rollouts = "", "", []
            try:
                if record is None:
                    problem, mend = f"{_short(text)} is no JSON object", f"give one object a {reader.unit}"
                else:
                    rollouts = list(parse(record))
            except KeyError as error:
                problem = f"no {error.args[0]!r} in the record of a rollout"
                mend = f"give the log as {reader.title} wrote it"
            except (AttributeError, IndexError, OverflowError, TypeError, ValueError):
                problem, mend = f"{_short(text)} is no record of {reader.title}", "name the format by its reader"
            if problem:
                faults.append(Fault(f"{file} {reader.unit} {place}", "", problem, mend))
            for rollout in rollouts:
                yield place, rollout

    def _append(self, rollout: Rollout) -> None:
        reader, fields = self.reader, rollout.fields
        prompt, answer = rollout.prompt, rollout.answer
        if reader.prompt_key is not None:
            prompt, answer = fields.get(reader.prompt_key), None
        functions = column_names(reader.reward)
        rewards = {name: fields.get(name) for name in functions} if functions else rollout.rewards
        for name in rewards:
            if name not in self.rewards:
                self.rewards[name] = [None] * len(self.step)
        for name, values in self.rewards.items():
            values.append(rewards.get(name))
        for name in column_names(reader.label_columns):
            label = fields.get(name)
            self.labels.setdefault(name, []).append(
                self.texts.setdefault(label, label) if isinstance(label, str) else label
            )
        self.names |= dict.fromkeys(fields)
        key = (as_key(prompt), as_key(answer))
        self.step.append(rollout.step)
        self.prompt.append(self.prompts.setdefault(key, len(self.prompts)))
        self.trained.append(rollout.trained)

    def _note_weights(self, weights: Mapping[str, float], where: str) -> None:
        for name, weight in weights.items():
            first, told = self.weights.setdefault(name, (weight, where))
            if first != weight:
                raise InputError(
                    f"{where}: reward {name!r} has weight {weight:g}, and {first:g} in {told}: say which, as "
                    "reward_weights"
                )

    def rows_kept(self, source: str) -> NDArray[np.intp]:
        """Return the numbers of the rollouts that count, and note the faults of their files."""
        ends = [*(file.begin for file in self.files[1:]), len(self.step)]
        first = [
            next((self.step[row] for row in range(file.begin, end) if _is_step(self.step[row])), None)
            for file, end in zip(self.files, ends, strict=True)
        ]
        paths = [file.path for file in self.files]
        keep = np.ones(len(paths), bool) if self.reader.keep_superseded else of_the_last_run(source, first, paths)
        kept = np.zeros(len(self.step), bool)
        for file, end, is_last in zip(self.files, ends, keep, strict=True):
            kept[file.begin : end] = is_last
        kept[list(self.superseded)] = False
        last = [file for file, is_last in zip(self.files, keep, strict=True) if is_last]
        self.faults = merge_faults(fault for file in last for fault in file.faults)
        return np.flatnonzero(kept)

    def check_names(self, source: str) -> None:
        """Raise InputError if an option names a field that no record has."""
        if not self.step:
            return
        reader = self.reader
        options = {"prompt_key": (reader.prompt_key,) if reader.prompt_key else (), "reward": reader.reward}
        for option, names in {**options, "label_columns": reader.label_columns}.items():
            for name in column_names(names):
                if name not in self.names:
                    available = ", ".join(self.names) or "none"
                    raise InputError(f"{source}: no field {name!r} among {available}: name one of these (as {option})")

    def prompt_ids(self) -> list[Any]:
        """Return the (rollout,) ids of prompts: the text, and the right answer where texts alone are not unique."""
        answers = Counter(prompt for prompt, _ in self.prompts)
        ids = [prompt if answers[prompt] == 1 else f"{prompt} [{answer}]" for prompt, answer in self.prompts]
        return [ids[prompt] for prompt in self.prompt]

    def row_name(self, row: int) -> str:
        """Return the name of a rollout in errors."""
        file = self.files[bisect_right(self.files, row, key=lambda file: file.begin) - 1]
        return f"{file.path} {self.reader.unit} {self.place[row]}"


def _short(text: str) -> str:
    return repr(text.strip()[:60])


def _is_step(value: Any) -> bool:
    return is_whole(value) and 0 <= value < 2**31
