"""Read the rollouts that prime-rl saves, and those of verifiers' evaluations, on which it stands.

prime-rl has written four layouts under `RUN/rollouts/step_{N}`, which the records tell apart:

- `train/{all,effective}/traces.jsonl` with an episode a line (from 0.8.1), or a trace a line (0.7 and 0.8.0). `all` has
  every rollout, `effective` those that were trained on: the only log that tells which groups were dropped.
- `train_rollouts.jsonl` with a trace, or a flat row (`example_id`, `task`, `reward`, up to 0.6), a line: only what was
  trained on.

An episode has `traces`, one of each agent; those of agents that are trained are rollouts. A trace has `task`, and
`rewards`, each with a score and a weight (from verifiers 0.3), or weighted already (0.2). Files are appended to, so a
step that was begun again after a restart holds both tries; a trace that stands twice counts once.

verifiers itself writes evaluations: `traces.jsonl` with such lines, or `results.jsonl` with flat rows (0.1).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptdyn.errors import InputError
from promptdyn.readers.files import in_order, json_lines
from promptdyn.readers.fold import as_key
from promptdyn.readers.log import Parser, Rollout, RolloutLog

__all__ = ["PrimeRLTraces"]

STEP = re.compile(r"step_\d+")
# Files in the folder of a step, or of an evaluation; the first that is there is read.
TRAINING = ("train/all/traces.jsonl", "train/effective/traces.jsonl", "train_rollouts.jsonl")
EVALUATION = ("traces.jsonl", "results.jsonl")


@dataclass(frozen=True)
class PrimeRLTraces(RolloutLog):
    """Counts the successes of each task and step in prime-rl's or verifiers' traces.

    A prompt is a task: ENVIRONMENT/KEY, with the key that the log gives it, or else its index, or a text of its data.
    Rewards have the weights that the log tells. A rollout that ended with an error has no reward. A row is `trained` if
    its group is among the effective ones; rows of evaluations are not.

    Attributes:
        prompt_key, reward, reward_weights, success, label_columns, skip_bad, keep_superseded: as in
            `promptdyn.readers.RolloutReader`. The default rewards are all that the environments give. `environment`,
            metrics and fields of the task's data may be named too.
        step: step of an evaluation whose records tell none; default 0.

    Example:
        >>> history = promptdyn.read_history("outputs/run", label_columns="environment")  # doctest: +SKIP
    """

    step: int = 0

    name = "prime-rl"
    title = "prime-rl"
    layout = "prime-rl's RUN or RUN/rollouts/step_{N}, verifiers' folder of an evaluation, or a file of them"
    keys = (
        frozenset({"traces", "env"}),
        frozenset({"task", "rewards", "info"}),
        frozenset({"example_id", "task", "reward", "metrics"}),
    )

    def files(self, path: Path) -> list[Path]:
        """Return the files of training of a run or a step, or else those of an evaluation."""
        if path.is_file():
            return [path] if path.suffix == ".jsonl" else []
        steps = [path] if STEP.fullmatch(path.name) else []
        for pattern in ("step_*", "rollouts/step_*", "*/rollouts/step_*"):
            steps = steps or [folder for folder in path.glob(pattern) if STEP.fullmatch(folder.name)]
        names = TRAINING if steps else EVALUATION
        found = ([folder / name for name in names if (folder / name).is_file()] for folder in steps or [path])
        return in_order(files[0] for files in found if files)

    def parser(self, file: Path) -> Parser:
        """Return the function that turns an episode, a trace or a row into rollouts.

        Raises:
            InputError: a damaged line in the file that tells which groups were trained on.
        """
        folder = next((parent for parent in file.parents if STEP.fullmatch(parent.name)), None)
        step = None if folder is None else int(folder.name.removeprefix("step_"))
        evaluated = folder is None or "eval" in file.relative_to(folder).parts
        effective = file.parent.with_name("effective") / file.name
        groups = _groups(effective) if file.parent.name == "all" and effective.is_file() else None

        def parse(record: dict[str, Any]) -> Iterator[Rollout]:
            run = record.get("run") or {}
            told = (step, (run.get("work") or {}).get("step"), run.get("step"), self.step)
            kind = run.get("type", "eval" if evaluated else "train")
            trained = kind == "train" and (groups is None or _group(record) in groups)
            for trace in record.get("traces", [record]):
                if (trace.get("agent") or {}).get("trainable", True):
                    environment, rollout = _row(trace) if "rewards" not in trace else _trace(trace, record)
                    prompt = f"{environment}/{rollout.prompt}" if environment else rollout.prompt
                    yield rollout._replace(
                        step=next(at for at in told if at is not None),
                        prompt=prompt,
                        fields={**rollout.fields, "environment": environment},
                        trained=trained,
                        session=as_key(trace.get("id")),
                    )

        return parse


def _stamp(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what prime-rl noted on a trace: in `info`, and once in a part of it."""
    info = record.get("info") or {}
    return info.get("prime_rl", info)


def _group(record: Any) -> Any:
    return as_key(record["group"]["id"] if record.get("group") else _stamp(record).get("group_id"))


def _groups(effective: Path) -> set[Any]:
    """Return the groups that were trained on.

    Raises:
        InputError: a line is no record, so that its group would not count as trained on.
    """
    groups = set()
    for line, _, record in json_lines(effective):
        try:
            groups.add(_group(record))
        except (AttributeError, KeyError, TypeError):
            raise InputError(f"{effective} line {line}: no record of a group: leave the line out") from None
    return groups


def _row(row: Mapping[str, Any]) -> tuple[str, Rollout]:
    """Return the environment and the rollout of a flat row."""
    reward = None if row.get("error") else row["reward"]
    fields = {**(row.get("metrics") or {}), "reward": reward}
    return row.get("task") or "", Rollout(0, row["example_id"], {"reward": reward}, fields)


def _trace(trace: Mapping[str, Any], record: Mapping[str, Any]) -> tuple[str, Rollout]:
    """Return the environment and the rollout of a trace, which stands in a record or is one."""
    task = trace["task"]
    data = task.get("data") or {}
    key = next((value for value in (task.get("key"), data.get("idx")) if value is not None), None)
    scores, weights = {}, {}
    for name, reward in trace["rewards"].items():
        if isinstance(reward, dict):
            scores[name], weights[name] = reward["score"], float(reward["weight"])
        else:
            scores[name] = reward
    if not trace.get("ok", not trace.get("errors")):
        scores = dict.fromkeys(scores)
    fields = {**data, **(trace.get("metrics") or {}), **scores}
    environment = record["env"]["name"] if "env" in record else _stamp(trace).get("env_name", "")
    return environment, Rollout(0, as_key(data) if key is None else key, scores, fields, weights=weights)
