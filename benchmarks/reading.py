"""Read logs of rollouts of 200 MB as trainers write them, 8 rollouts a group, into histories.

"parse" is the time of json.loads for every line, which no reader in Python beats. The peer is pandas.read_json, which
keeps all texts. "+MB" is the most memory taken beside what was held before.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.timing import memory_before, peak_memory
from promptdyn.readers import read_history

SIZE = 200_000_000  # bytes
GROUPS, NUM_GENERATIONS = 128, 8  # groups of a step, rollouts of a group
NUM_PROMPTS, PROMPT_WORDS, ANSWER_WORDS = 4_000, 80, 250

Log = Callable[[int, int, int, str, str, float], dict[str, Any]]
"""A function of step, prompt, session, group, answer and reward that returns the record of a rollout."""


def run() -> list[dict[str, object]]:
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(2_000)]
    prompts = [" ".join(rng.choices(words, k=PROMPT_WORDS)) for _ in range(NUM_PROMPTS)]
    tokens = [[rng.randrange(100_000) for _ in range(PROMPT_WORDS)] for _ in range(NUM_PROMPTS)]

    def verl(step: int, prompt: int, session: int, group: str, answer: str, reward: float) -> dict[str, Any]:
        uid = f"{group}_{session}_0"
        return {"input": prompts[prompt], "output": answer, "gts": "5", "score": reward, "step": step, "uid": uid}

    def prime_rl(step: int, prompt: int, session: int, group: str, answer: str, reward: float) -> dict[str, Any]:
        task = {"key": str(prompt), "data": {"idx": prompt, "prompt": prompts[prompt]}}
        nodes = [{"message": {"role": "assistant", "content": answer}, "sampled": True}]
        rewards = {"exact": {"score": reward, "weight": 1.0}}
        trace = {"task": task, "agent": {"trainable": True}, "nodes": nodes, "rewards": rewards, "ok": True}
        episode = {"id": f"{group}{session}", "env": {"name": "sum"}, "task": task, "group": {"id": group}, "ok": True}
        return {**episode, "traces": [trace]}

    def nemo_rl(step: int, prompt: int, session: int, group: str, answer: str, reward: float) -> dict[str, Any]:
        ids = tokens[prompt] + [len(word) + ord(word[0]) for word in answer.split()]
        mask = [0] * PROMPT_WORDS + [1] * ANSWER_WORDS
        numbers = [-0.123456 * (i % 7) for i in range(len(ids))]
        content = prompts[prompt] + answer
        return {
            "content": [content],
            "rewards": [reward],
            "token_ids": [ids],
            "token_loss_mask": [mask],
            "generation_logprobs": [numbers],
            "prev_logprobs": [numbers],
            "idx": session,
        }

    logs: dict[str, tuple[Log, str]] = {
        "verl": (verl, "{step}.jsonl"),
        "prime-rl": (prime_rl, "rollouts/step_{step}/train/all/traces.jsonl"),
        "NeMo-RL": (nemo_rl, "train_data_step{step}.jsonl"),
    }
    rows = []
    for name, (record, file) in logs.items():
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            files = list(_write(folder, record, file, rng, words))
            read, read_memory = _timed(partial(read_history, folder))
            parse, _ = _timed(partial(_parse, files))
            pandas, pandas_memory = _timed(partial(_pandas, files))
            size = sum(file.stat().st_size for file in files) / 1e6
        rows.append(
            {
                "log": name,
                "MB": round(size),
                "files": len(files),
                "read (s)": f"{read:.2f}",
                "parse (s)": f"{parse:.2f}",
                "pandas (s)": f"{pandas:.2f}",
                "read +MB": round(read_memory),
                "pandas +MB": round(pandas_memory),
            }
        )
    return rows


def _write(folder: Path, record: Log, name: str, rng: random.Random, words: list[str]) -> Iterator[Path]:
    """Write steps until the log has its size; yield their files."""
    size = step = 0
    while size < SIZE:
        step += 1
        path = folder / name.format(step=step)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as file:
            for prompt in rng.sample(range(NUM_PROMPTS), GROUPS):
                group = str(uuid.UUID(int=rng.getrandbits(128)))
                for session in range(NUM_GENERATIONS):
                    answer = " ".join(rng.choices(words, k=ANSWER_WORDS))
                    reward = float(rng.random() < prompt / NUM_PROMPTS)
                    file.write(json.dumps(record(step, prompt, session, group, answer, reward)) + "\n")
        size += path.stat().st_size
        yield path


def _parse(files: list[Path]) -> None:
    for path in files:
        with path.open(encoding="utf-8") as file:
            for line in file:
                json.loads(line)


def _pandas(files: list[Path]) -> pd.DataFrame:
    return pd.concat([pd.read_json(file, lines=True) for file in files])


def _timed(function: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds that a call takes, and the MB that it takes beside those held before."""
    before = memory_before()
    start = time.perf_counter()
    function()
    return time.perf_counter() - start, peak_memory() - before
