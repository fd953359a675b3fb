"""What the logs of all trainers have in common: rollouts gathered, checked and folded, record by record."""

from __future__ import annotations

import json
import os
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from known import known
from logs import LOGS, jsonl, rows
from promptdyn.errors import InputError, PromptdynWarning
from promptdyn.readers import read_history

SLIME = ("6+1", "3+3", "3+8", "6+2", "1+4", "3+7", "2+7", "8+5")


def line(prompt: Any = "x", score: Any = 1.0, step: Any = 1, **more: Any) -> dict[str, Any]:
    """A line as verl's version 0 dumps it."""
    return {"input": prompt, "output": "y", "gts": "2", "score": score, "step": step, **more}


@pytest.mark.parametrize(
    ("log", "counted", "trained"),
    [
        ("areal/logs/root/exp/trial/rollout", [(4, "<bos>12+3=", 2, 1), (4, "<bos>9+9=", 2, 2)], [True, True]),
        ("nemo-rl/exp_001", [(3, "242fc8135173265b", 2, 1), (3, "bc0e2022969a507d", 2, 2)], [True, True]),
        ("verl/v0_rollout_data_dir", [(7, "12+3=", 2, 1), (7, "9+9=", 2, 2)], [True, True]),
        ("verifiers/0.1", [(0, "sum/0", 2, 1), (0, "sum/1", 2, 1)], [False, False]),
        (
            "prime-rl/run",
            [(3, "sum/sum-0", 4, 2), (3, "sum/sum-1", 4, 0), (3, "sum/sum-2", 3, 3)],
            [True, False, False],
        ),
        (
            "slime/rollout_data",
            [(5, f"{prompt}=", 4, k) for prompt, k in zip(SLIME, [4, 2, 2, 1, 0, 0, 3, 1], strict=True)],
            [True] * 8,
        ),
    ],
)
def test_what_trainers_wrote_is_counted(log: str, counted: list[tuple], trained: list[bool]) -> None:
    history = read_history(LOGS / log)
    assert rows(history) == counted
    assert history.trained.tolist() == trained


@pytest.mark.parametrize("log", ["v1_rollout_data_dir", "v1_rollout_data_dir_dapo"])
def test_a_dump_of_verl_is_counted_by_its_groups(log: str) -> None:
    expected = Counter[tuple[int, str]]()
    solved = Counter[tuple[int, str]]()
    for path in (LOGS / "verl" / log).iterdir():
        for record in map(json.loads, path.read_text().splitlines()):
            expected[record["step"], record["input"]] += 1
            solved[record["step"], record["input"]] += int(record["score"])
    history = read_history(LOGS / "verl" / log)
    assert sorted(rows(history)) == sorted((*key, n, solved[key]) for key, n in expected.items())
    assert history.informative.all() == log.endswith("dapo")


def test_prompts_of_one_text_are_told_apart_by_their_answers(tmp_path: Path) -> None:
    records = [line(gts=answer, score=score) for answer, score in (("2", 1.0), ("3", 0.0), ("2", 1.0))]
    log = jsonl(tmp_path / "1.jsonl", [*records, line("z", 0.0, gts=None)])
    assert rows(read_history(log)) == [(1, "x [2]", 2, 2), (1, "x [3]", 1, 0), (1, "z", 1, 0)]
    messages = [{"role": "user", "content": "x"}]
    log = jsonl(tmp_path / "2.jsonl", [line(messages, gts=["a", "b"])])
    assert rows(read_history(log)) == [(1, '[{"content": "x", "role": "user"}]', 1, 1)]


def test_options_name_what_records_hold(tmp_path: Path) -> None:
    records = [line(acc=i % 2, form=0.5, index=i // 2, task="ab"[i // 2]) for i in range(4)]
    log = jsonl(tmp_path / "1.jsonl", [*records, line(index=0)])
    options: dict[str, Any] = {"prompt_key": "index", "reward": ["acc", "form"], "label_columns": "task"}
    history = read_history(jsonl(tmp_path / "1.jsonl", records), success="acc>=1", reward_weights=[1, 2], **options)
    assert rows(history) == [(1, "0", 2, 1), (1, "1", 2, 1)]
    assert known(history.reward_mean).tolist() == [1.5, 1.5]
    assert history.prompts.labels("task").tolist() == ["a", "b"]
    for option, name in (("prompt_key", "idx"), ("reward", "accuracy"), ("label_columns", "kind")):
        with pytest.raises(InputError, match=rf"no field '{name}' among input, output, .*: name one .*\(as {option}\)"):
            read_history(log, **{**options, option: name})
    with pytest.raises(InputError, match=r"label column 'task' changes from 'x' to 'y'"):
        read_history(jsonl(tmp_path / "1.jsonl", [line(task="x"), line(task="y")]), label_columns="task")


def test_bad_lines_and_records_are_told(tmp_path: Path) -> None:
    records = [line(), line("y", "high"), line(step=None), line(None)]
    log = jsonl(tmp_path / "1.jsonl", [*records, {"input": "x", "output": "y"}])
    with log.open("a") as file:
        file.write('[1]\n{"input": "x", "out')
    with pytest.warns(match="line 7: left out, since it was cut off"), pytest.raises(InputError) as error:
        read_history(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}: 5 of 6 rows are bad: 1.jsonl line 5: no 'step' in the record of a rollout; 1.jsonl line 6: '[1]' "
        "is no JSON object; 1.jsonl line 2: score='high' is not a number; 1.jsonl line 3: step is missing; 1.jsonl "
        "line 4: prompt is missing: mend them, or leave them out (skip_bad)"
    )
    with pytest.warns(match="line 7: left out"), pytest.warns(PromptdynWarning, match="skipped 5 bad of 6 rows"):
        assert rows(read_history(tmp_path, skip_bad=True)) == [(1, "x", 1, 1)]


def test_a_record_of_another_shape_is_told(tmp_path: Path) -> None:
    log = jsonl(tmp_path / "traces.jsonl", [{"traces": 3, "env": "sum", "note": "x"}])
    with pytest.raises(
        InputError, match=r"traces.jsonl line 1: .*is no record of prime-rl: name the format by its rea"
    ):
        read_history(log)


def test_files_of_an_earlier_run_are_left_out(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        jsonl(tmp_path / f"{step}.jsonl", [line(step=step)])
    (tmp_path / "4.jsonl").write_text("a damaged line that no longer matters\n" + (tmp_path / "4.jsonl").read_text())
    for step, at in ((3, 100), (4, 200), (1, 300), (2, 400)):
        os.utime(tmp_path / f"{step}.jsonl", (at, at))
    with pytest.warns(PromptdynWarning, match=r"left out 2 of 4 files \(steps 3 to 4\).*an earlier run"):
        assert [step for step, *_ in rows(read_history(tmp_path))] == [1, 2]
    with pytest.raises(InputError, match=r"4.jsonl line 1: 'a damaged line that no longer matters' is no JSON object"):
        read_history(tmp_path, keep_superseded=True)


def test_a_log_without_rewards_or_files_is_refused(tmp_path: Path) -> None:
    trace = {"task": {"key": "a"}, "rewards": {}, "info": {}}
    with pytest.raises(InputError, match="no rollout has a reward: was the log written before they were graded"):
        read_history(jsonl(tmp_path / "traces.jsonl", [trace]))
    with pytest.raises(InputError, match=r": no log of verl: give verl's trainer\.rollout_data_dir, or a file"):
        read_history(LOGS, "verl")
    (tmp_path / "1.jsonl").touch()
    with pytest.raises(InputError, match=r"1\.jsonl: .*no rows|1\.jsonl: .*empty"):
        read_history(tmp_path / "1.jsonl", "verl")


def test_memory_does_not_grow_with_the_texts(tmp_path: Path) -> None:
    log = jsonl(tmp_path / "1.jsonl", [line(f"{i % 10}", output="y" * 20_000) for i in range(500)])
    read_history(log)
    tracemalloc.start()
    history = read_history(log)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert history.num_rollouts.sum() == 500
    assert peak < log.stat().st_size / 10
