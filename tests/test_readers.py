"""Readers of logs: the formats recognized, what they count, and the message for every bad input."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from known import known
from promptdyn.errors import InputError, PromptdynWarning
from promptdyn.history import RewardHistory
from promptdyn.readers import READERS, GroupTable, TRLCompletions, read_history

COLUMNS = ("step", "prompt_id", "num_rollouts", "num_successes")
HEADER = ",".join(COLUMNS)


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


# The contract


@pytest.mark.parametrize("name", READERS)
def test_every_reader_keeps_the_contract(name, tmp_path):
    reader = READERS.create(name)
    assert reader == READERS[name]()
    (tmp_path / "notes.txt").write_text("notes")
    assert reader.recognizes(tmp_path) is False
    assert reader.recognizes(tmp_path / "notes.txt") is False
    with pytest.raises(InputError, match=r"notes\.txt|no rollouts in Parquet files"):
        read_history(tmp_path / "notes.txt", name)
    with pytest.raises(InputError, match="nowhere: no such file or folder"):
        read_history(tmp_path / "nowhere", name)


def test_paths_that_no_reader_takes(tmp_path):
    known = (
        "give a Parquet, CSV or JSONL file with columns step, prompt_id, num_successes, num_rollouts, or TRL's folder"
    )
    assert bad(tmp_path / "nowhere") == "nowhere: no such file or folder"
    (tmp_path / "notes.txt").write_text("a few notes, and more")
    assert bad(tmp_path / "notes.txt").startswith(f"notes.txt: no known format: {known}")
    (tmp_path / "nothing").touch()
    assert bad(tmp_path / "nothing").startswith(f"nothing: an empty file: {known}")
    (tmp_path / "empty").mkdir()
    assert bad(tmp_path / "empty").startswith(f"empty: no known format: {known}")


def test_options_of_another_format(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(f"{HEADER}\n0,a,8,1\n")
    assert bad(path, reward="r") == (
        "a.csv: option 'reward' does not fit format 'groups': it takes columns, drop, label_columns, repeated, skip_bad"
    )
    log = trl_log(tmp_path, 1, ["p"], [1.0])
    assert bad(log, rewards="r") == (
        "completions_00001.parquet: option 'rewards' does not fit format 'trl': "
        "it takes prompt_key, reward, reward_weights, success, label_columns, skip_bad, keep_superseded"
    )


# Tables


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "step": [0, 0, 1],
            "prompt_id": ["007", "b", "007"],
            "num_rollouts": [8, 8, 4],
            "num_successes": [1, 8, 0],
            "trained": [True, False, True],
            "level": ["01", "two, or\nmore", "01"],
        }
    )


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl", ""])
@pytest.mark.parametrize("kind", ["parquet", "csv", "semicolons", "tabs", "jsonl", "json"])
def test_tables_are_recognized_by_content(frame, tmp_path, kind, suffix):
    path = tmp_path / f"history{suffix}"
    if kind == "parquet":
        frame.to_parquet(path)
    elif kind == "csv":
        frame.to_csv(path, index=False)
    elif kind in ("semicolons", "tabs"):
        frame.to_csv(path, index=False, sep=";" if kind == "semicolons" else "\t")
    else:
        frame.to_json(path, orient="records", lines=kind == "jsonl")
    history = read_history(str(path))
    assert rows(history) == [(0, "007", 8, 1), (0, "b", 8, 8), (1, "007", 4, 0)]
    assert history.trained.tolist() == [True, False, True]
    assert history.prompts.labels("level").tolist() == ["01", "two, or\nmore"]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 9), st.text("ab\n\",'; ü", min_size=1), st.integers(0, 8)), min_size=1))
def test_csv_and_jsonl_round_trip(tmp_path_factory, cells):
    cells = list({(step, prompt_id): k for step, prompt_id, k in cells}.items())
    records = [
        {"step": step, "prompt_id": prompt_id, "num_rollouts": 8, "num_successes": k} for (step, prompt_id), k in cells
    ]
    expected = rows(RewardHistory.from_records(records))
    folder = tmp_path_factory.mktemp("tables")
    pd.DataFrame(records).to_csv(folder / "a.csv", index=False)
    assert rows(read_history(folder / "a.csv")) == expected
    pd.DataFrame(records).to_csv(folder / "a.tsv", index=False, sep="\t")
    assert rows(read_history(folder / "a.tsv")) == expected
    (folder / "a.jsonl").write_text("\n\n".join(json.dumps(record) for record in records))
    assert rows(read_history(folder / "a.jsonl")) == expected
    (folder / "a.json").write_text(json.dumps(records, indent=1))
    assert rows(read_history(folder / "a.json")) == expected


def written(frame: pd.DataFrame, path: Path) -> Path:
    """A table in the format that the file's suffix says."""
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix in (".csv", ".tsv"):
        frame.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    else:
        frame.to_json(path, orient="records", lines=path.suffix == ".jsonl")
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".tsv", ".jsonl", ".json"])
def test_rewards_of_groups_are_read(frame, tmp_path, suffix):
    frame = frame.assign(score=[0.5, None, 1.25], reward_std=[0, 1, 2])
    path = written(frame, tmp_path / f"log{suffix}")
    history = read_history(path, columns={"reward_mean": "score"})
    by_prompt = dict(zip(rows(history), known(history.reward_mean).tolist(), strict=True))
    assert by_prompt == pytest.approx(
        {(0, "007", 8, 1): 0.5, (0, "b", 8, 8): float("nan"), (1, "007", 4, 0): 1.25}, nan_ok=True
    )
    assert sorted(known(history.reward_std).tolist()) == [0, 1, 2]
    assert list(history.columns) == ["level"]


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".tsv", ".jsonl", ".json"])
def test_columns_may_have_other_names(frame, tmp_path, suffix):
    names = {"step": "global_step", "prompt_id": "uid", "num_successes": "correct", "trained": "used"}
    frame = frame.rename(columns=names).assign(step=["x", "y", "z"])
    path = written(frame, tmp_path / f"log{suffix}")
    history = read_history(path, columns=names)
    assert rows(history) == [(0, "007", 8, 1), (0, "b", 8, 8), (1, "007", 4, 0)]
    assert history.trained.tolist() == [True, False, True]
    assert list(history.columns) == ["level"]  # what was called step is nobody's any more
    assert "no column 'id', to be read as 'prompt_id', among" in bad(path, columns={**names, "prompt_id": "id"})
    assert "name the columns step, prompt_id, num_successes, num_rollouts, or say which they are (columns, as in " in (
        bad(path)
    )


def test_a_missing_label_is_a_level_of_its_own(tmp_path):
    (tmp_path / "a.csv").write_text(f"{HEADER},task\n0,a,8,1,add\n0,b,8,1,\n1,b,8,2,\n")
    (tmp_path / "a.jsonl").write_text(
        "\n".join(
            json.dumps(dict(zip((*COLUMNS, "task"), row, strict=True)))
            for row in [(0, "a", 8, 1, "add"), (0, "b", 8, 1, None), (1, "b", 8, 2, None)]
        )
    )
    for name in ("a.csv", "a.jsonl"):
        history = read_history(tmp_path / name)
        assert history.prompts.labels("task").tolist() == ["add", "(none)"]
        history.to_parquet(tmp_path / "again.parquet")
        assert read_history(tmp_path / "again.parquet").prompts.labels("task").tolist() == ["add", "(none)"]


@pytest.mark.parametrize(("text", "message"), [
    ("[1, 2]", "a.json item 0: '1' is no JSON object (2 such rows): give one an item, or leave bad rows out"),
    ("[]", "a.json: records: the history has no rows"),
    ('[{"step": 0}', "a.json: no JSON ("),
    ("[" * 100_000, "a.json: no JSON ("),
    ('[{"step": 0, "prompt_id": "a", "num_rollouts": 8, "num_successes": 9}]',
     "a.json item 0 (prompt 'a', step 0): num_successes=9 exceeds num_rollouts=8"),
])  # fmt: skip
def test_bad_json_names_its_item(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    assert bad(tmp_path / "a.json").startswith(message.replace("records: ", ""))


CSV = [
    ("0,a,8,1\n\n1,a,8,9\n", "line 4 (prompt 'a', step 1): num_successes=9 exceeds num_rollouts=8: "
     "count the successes among the rollouts"),
    ('0,"a\nb",8,1\n1,a,8,\n', "line 4 (prompt 'a', step 1): num_successes is missing: give an integer >= 0"),
    ("0,a,8,1\n1,a,eight,2\n", "line 3 (prompt 'a', step 1): num_rollouts='eight' is not an integer: "
     "give an integer >= 1"),
    ("0,a,x,1\n", "line 2 (prompt 'a', step 0): num_rollouts='x' is not an integer: give an integer >= 1"),
    ("0,a,8,1.5\n", "line 2 (prompt 'a', step 0): num_successes=1.5 is not an integer: give an integer >= 0"),
    ("0,,8,1\n", "line 2 (prompt '', step 0): prompt_id='' is empty: give every row its prompt_id, or drop the row"),
    ("0,a,8,1\n0,a,8,2\n", "line 3 (prompt 'a', step 0): the prompt has a row of this step already, a.csv line 2, "
     "with other counts: keep the last (repeated='last') if it was logged twice or done again after a restart, add "
     "them up (repeated='merge') or make them steps of their own (repeated='apart') if it was rolled out anew"),
    ("0,a,8,1\n\n1,a,8\n", "line 4: 3 values for 4 columns: give one a column"),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "message"), CSV)
def test_bad_csv_names_its_line(tmp_path, lines, message):
    path = tmp_path / "a.csv"
    path.write_text(f"{HEADER}\n{lines}")
    assert bad(path).replace(str(path), "a.csv") == f"a.csv {message}"


@pytest.mark.parametrize(("content", "message"), [
    (b"", "a.csv: the file is empty: give at least one rolled-out prompt"),
    (b"\n\n", "a.csv: not a CSV file (CSV parse error: Empty CSV file"),
    (f"{HEADER}\n".encode(), "a.csv: the history has no rows: give at least one rolled-out prompt"),
    (b"step,prompt_id,n\n0,a,8\n", "a.csv: no column 'num_successes', 'num_rollouts' among step, prompt_id, n: "
     "name the columns step, prompt_id, num_successes, num_rollouts"),
    (f"{HEADER},step\n0,a,8,1,0\n".encode(), "a.csv line 1: 2 columns 'step': keep one"),
    (f"{HEADER}\n0,\xff,8,1\n".encode("latin-1"), "is not UTF-8: save the file in that encoding"),
])  # fmt: skip
def test_bad_csv_files(tmp_path, content, message):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    assert message in bad(path)


def test_csv_of_other_programs(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(f"\ufeff{HEADER},trained\r\n 0,a,8,1,True\r\n1,a,8,2,False\r\n".encode())
    history = read_history(path)
    assert rows(history) == [(0, "a", 8, 1), (1, "a", 8, 2)]
    assert history.trained.tolist() == [True, False]


GOOD_LINE = json.dumps(dict(zip(COLUMNS, (0, "a", 8, 1), strict=True)))


@pytest.mark.parametrize(("line", "message"), [
    ('{"step": 1', " line 3: '{\"step\": 1' is no JSON object: give one object a line"),
    ("[1, 2]", " line 3: '[1, 2]' is no JSON object: give one object a line"),
    ('{"step": 1, "prompt_id": "a", "num_rollouts": 8}',
     " line 3 (prompt 'a', step 1): num_successes is missing: give an integer >= 0"),
    ('{"step": 1, "prompt_id": "a", "num_rollouts": 8, "num_successes": "2"}',
     " line 3 (prompt 'a', step 1): num_successes='2' is not an integer: give an integer >= 0"),
])  # fmt: skip
def test_bad_jsonl_names_its_line(tmp_path, line, message):
    path = tmp_path / "a.jsonl"
    path.write_text(f"{GOOD_LINE}\n\n{line}\n")
    assert bad(path) == f"a.jsonl{message}"


def test_damaged_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"nothing of the kind")
    assert bad(path).startswith("a.parquet: not a Parquet file, or damaged (")
    path.write_bytes(b"PAR1 nothing of the kind")
    assert bad(path).startswith("a.parquet: not a Parquet file, or damaged (")


def test_table_reader_alone(tmp_path):
    (tmp_path / "a.txt").write_text("notes")
    with pytest.raises(InputError, match=r"a.txt: neither Parquet nor CSV nor JSONL"):
        GroupTable().read([tmp_path / "a.txt"], "a.txt")


# TRL


def test_trl_run_folder_folder_and_file(tmp_path):
    folder = tmp_path / "completions"
    trl_log(folder, 1, ["p", "p", "q", "q"], [1.0, 0.0, 1.0, 1.0])
    trl_log(folder, 2, ["q", "p", "q", "p"], [0.0, 0.0, 0.2, 0.9])
    one, two = [(1, "p", 2, 1), (1, "q", 2, 2)], [(2, "q", 2, 0), (2, "p", 2, 1)]
    for path in (tmp_path, folder):
        history = read_history(path)
        assert rows(history) == one + two
        assert history.trained.all()
    assert rows(read_history(folder / "completions_00002.parquet")) == two


@settings(deadline=None, max_examples=30)
@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from("pqr"), st.sampled_from([0.0, 0.3, 1.0, None, float("nan")])), min_size=1),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from([0.3, 0.5]),
)
def test_trl_counts_equal_a_naive_count(tmp_path_factory, generations, threshold):
    folder = tmp_path_factory.mktemp("completions")
    rollouts: Counter[tuple[int, str]] = Counter()
    successes: Counter[tuple[int, str]] = Counter()
    for step, rollout_list in enumerate(generations):
        prompts, rewards = zip(*rollout_list, strict=True)
        trl_log(folder, step, list(prompts), np.array(rewards, float).tolist())
        for prompt, reward in rollout_list:
            if reward is not None and reward == reward:
                rollouts[step, prompt] += 1
                successes[step, prompt] += reward >= threshold
    if not rollouts:
        with pytest.raises(InputError, match="no rows"):
            read_history(folder, success=threshold)
    else:
        history = read_history(folder, success=threshold)
        assert sorted(rows(history)) == sorted((*cell, n, successes[cell]) for cell, n in rollouts.items())


def test_trl_prompt_keys(tmp_path):
    trl_log(tmp_path, 1, ["p", "p", "p"], [1.0, 0.0, 1.0], prompt_id=["x", "x", "y"], number=[4, 4, 5])
    assert rows(read_history(tmp_path)) == [(1, "x", 2, 1), (1, "y", 1, 1)]
    assert rows(read_history(tmp_path, prompt_key="prompt")) == [(1, "p", 3, 2)]
    assert rows(read_history(tmp_path, prompt_key="number")) == [(1, "4", 2, 1), (1, "5", 1, 1)]
    # An id that not all files have cannot tell prompts apart.
    trl_log(tmp_path, 2, ["p"], [1.0])
    assert rows(read_history(tmp_path)) == [(1, "p", 3, 2), (2, "p", 1, 1)]
    assert bad(tmp_path / "completions_00002.parquet", prompt_key="prompt_id") == (
        "completions_00002.parquet: no column 'prompt_id' among step, prompt, completion, correct, advantage: "
        "name one of these, or log it"
    )


def test_trl_conversations_have_stable_keys(tmp_path):
    plain = [{"role": "user", "content": "2 + 2 = ?"}]
    named = [{"content": "Say ü", "role": "user", "name": "ann"}]
    trl_log(tmp_path, 1, [plain, plain], [1.0, 0.0])
    trl_log(tmp_path, 2, [plain, named], [1.0, 1.0])  # Parquet gives `plain` a null name here
    keys = ['[{"content": "2 + 2 = ?", "role": "user"}]', '[{"content": "Say ü", "name": "ann", "role": "user"}]']
    assert rows(read_history(tmp_path)) == [(1, keys[0], 2, 1), (2, keys[0], 1, 1), (2, keys[1], 1, 1)]


def test_trl_reward_columns(tmp_path):
    path = trl_log(tmp_path, 1, ["p", "p"], [1.0, 0.0], format=[1.0, 1.0], tokens=[3, 4])
    assert bad(path) == (
        "completions_00001.parquet: the sum of the columns correct, format, at weights 1, 1, disagrees with the "
        "logged advantages in 1 of 1 groups: say which are rewards (reward) and at what weights (reward_weights)"
    )
    assert rows(read_history(path, reward="format")) == [(1, "p", 2, 2)]
    assert rows(read_history(path, reward="tokens", success=4)) == [(1, "p", 2, 1)]
    assert bad(path, reward="completion") == (
        "completions_00001.parquet: column 'completion' is of type large_string: name a column of numbers"
    )
    assert bad(path, reward="score").startswith("completions_00001.parquet: no column 'score' among step, prompt,")
    with pytest.raises(InputError, match="success=nan is not a finite number or a word or a function"):
        read_history(path, success=float("nan"))
    path = trl_log(tmp_path, 2, ["p", "p"], [True, False])
    assert rows(read_history(path)) == [(2, "p", 2, 1)]  # booleans will do where there are no floats
    path = trl_log(tmp_path, 3, ["p", "p"], [True, False], tokens=[3, 4])
    assert bad(path) == (
        "completions_00003.parquet: columns correct, tokens may each be the reward: say reward=NAME, of correct, tokens"
    )
    path = trl_log(tmp_path, 4, ["p", "p"], ["yes", "no"])
    assert bad(path) == "completions_00004.parquet: no column of numbers is the reward: say reward=NAME, of correct"


@pytest.mark.parametrize(("rewards", "rule", "successes", "told"), [
    ([0.0, 1.0, 1.0, 0.0], "0.5", 2, False),
    ([1.0, 1.0, 1.0, 1.0], "0.5", 4, False),
    ([-1.0, 1.0, -1.0, 1.0], "correct>=1", 2, True),
    ([0.1, 0.9, 0.0, 1.0], "0.5", 2, True),  # a half parts these as well as any
    ([0.0, 0.2, 1.2, 0.2], "0.5", 1, True),
    ([0.5, 0.5, 1.5, 2.0], "1", 2, True),
    ([0.0, 0.1, 0.3, 0.3], "0.2", 2, True),
    ([5.0, 7.0, float("nan"), 7.0], "correct>=7", 2, True),
])  # fmt: skip
def test_trl_success_is_found_and_told(tmp_path, caplog, rewards, rule, successes, told):
    trl_log(tmp_path, 1, ["p", "p", "q", "q"], rewards)
    history = read_history(tmp_path)
    assert (history.success, history.num_successes.sum()) == (rule, successes)
    assert (f"a success is {rule!r}, found from the first" in caplog.text) == told
    caplog.clear()
    assert (read_history(tmp_path, success=rule).num_successes == history.num_successes).all()  # as the line says
    assert not caplog.text


def test_trl_rewards_are_folded_by_weights_that_go_with_the_advantages(tmp_path, caplog):
    accuracy, form = np.array([1.0, 0.0, 0.0, 1.0]), np.array([1.0, 1.0, 0.0, 0.0])

    def logged(folder, weights):
        folded = weights[0] * accuracy + weights[1] * form
        path = trl_log(folder, 1, ["p"] * 4, accuracy.tolist(), form=form.tolist(), length=[3.0, 9.0, 1.0, 5.0])
        frame = pd.read_parquet(path)
        frame["advantage"] = (folded - folded.mean()) / (folded.std(ddof=1) + 1e-4)
        frame.to_parquet(path)
        return path

    path = logged(tmp_path, (1.0, 0.5))
    assert "columns correct, form, length, at weights 1, 1, 1, disagrees" in bad(path)  # `length` is no reward
    columns: dict[str, Any] = {"reward": ["correct", "form"], "reward_weights": [1, 0.5]}
    assert rows(read_history(path, **columns)) == [(1, "p", 4, 1)]
    assert "a success is 'correct>=1 and form>=1'" in caplog.text
    assert rows(read_history(path, success="correct", **columns)) == [(1, "p", 4, 2)]
    assert rows(read_history(path, success=0.4, **columns)) == [(1, "p", 4, 3)]  # of the folded reward
    with pytest.warns(PromptdynWarning, match="correct, form, at weights 1, 3, disagrees with the logged advantages"):
        read_history(path, reward=["correct", "form"], reward_weights=[1.0, 3.0])
    assert bad(path, reward=["correct"], reward_weights=[1, 2]) == (
        "completions_00001.parquet: reward_weights [1, 2] for the rewards correct: give a number for each, in this "
        "order"
    )
    assert bad(path, success="corect", **columns) == (
        "completions_00001.parquet: success='corect': no reward function is called 'corect': did you mean 'correct'?"
    )


def test_trl_clusters(tmp_path):
    trl_log(tmp_path, 1, ["p", "p", "q"], [1.0, 0.0, 1.0], task=["add", "add", "mul"], level=[1.0, 1.0, 2.0])
    history = read_history(tmp_path, label_columns=("task", "level"))
    assert history.prompts.labels(["task", "level"]).tolist() == ["add|1.0", "mul|2.0"]
    path = trl_log(tmp_path, 2, ["q", "p", "p"], [1.0, 0.0, 1.0], task=["mul", "add", "div"])
    assert bad(path, label_columns=["task"]) == (
        "completions_00002.parquet row 2 (prompt 'p', step 2): label column 'task' changes from 'add' to 'div': "
        "give all rows of a prompt one label, or drop the column"
    )
    trl_log(tmp_path / "gaps", 1, ["p", "q"], [1.0, 0.0], task=["add", None], level=[float("nan"), 1.0])
    trl_log(tmp_path / "gaps", 2, ["p", "q"], [1.0, 0.0], task=["add", None], level=[float("nan"), 1.0])
    history = read_history(tmp_path / "gaps", label_columns=("task", "level"))
    assert history.prompts.labels(["task", "level"]).tolist() == ["add|(none)", "(none)|1.0"]
    trl_log(tmp_path, 2, ["q", "p"], [1.0, 0.0], task=["mul", "sub"], level=[2.0, 1.0])
    with pytest.raises(InputError, match=r"00002.parquet row 1 \(prompt 'p', step 2\): .* from 'add' to 'sub'"):
        read_history(tmp_path, label_columns=["task", "level"])


def test_trl_repeated_rollouts_are_dropped_with_a_warning(tmp_path):
    generations = [["a", "b"], ["a", "a"], ["b", "c"]]
    for step in range(1, 7):  # every generation serves two steps
        completions = generations[(step - 1) // 2]
        trl_log(tmp_path, step, ["p", "p"], [1.0, float("nan")], completions)
    with pytest.warns(UserWarning, match=r"dropped 3 of 6 blocks .* \(step 2, 4, 6\): TRL logged more often"):
        history = read_history(tmp_path)
    assert rows(history) == [(1, "p", 1, 1), (3, "p", 1, 1), (5, "p", 1, 1)]


def test_trl_step_in_two_files(tmp_path):
    path = trl_log(tmp_path, 1, ["p", "p"], [1.0, 0.0])
    copy = path.with_name("copy.parquet")
    copy.write_bytes(path.read_bytes())
    with pytest.warns(UserWarning, match=r"dropped 1 of 2 blocks"):
        assert rows(read_history(tmp_path)) == [(1, "p", 2, 1)]
    trl_log(tmp_path, 1, ["p", "p"], [1.0, 1.0])
    with pytest.raises(InputError) as error:
        read_history(tmp_path)
    assert str(error.value) == (f"{copy}: step 1 has other rollouts than in {path}: keep only the files of one run")


def test_trl_steps_joined_in_one_file(tmp_path):
    frames = [pd.read_parquet(trl_log(tmp_path / "parts", step, ["p", "q"], [1.0, 0.0])) for step in (3, 1, 2)]
    pd.concat(frames).to_parquet(tmp_path / "all.parquet")
    assert rows(read_history(tmp_path / "all.parquet")) == rows(read_history(tmp_path / "parts"))


def test_trl_files_without_rollouts(tmp_path):
    path = trl_log(tmp_path, 0, [], [])
    with pytest.raises(InputError, match="no rollouts in Parquet files: give TRL's folder of completions"):
        read_history(tmp_path)
    assert TRLCompletions().recognizes(path)
    trl_log(tmp_path, 1, ["p"], [1.0])
    assert rows(read_history(tmp_path)) == [(1, "p", 1, 1)]


def test_trl_bad_files(tmp_path):
    trl_log(tmp_path, 1, ["p", "p"], [1.0, 0.0], prompt_id=["x", None])
    assert bad(tmp_path / "completions_00001.parquet") == (
        "completions_00001.parquet row 1 (prompt None, step 1): prompt_id is missing: log all of them, or give "
        "prompt_key='prompt'"
    )
    path = trl_log(tmp_path, 1, ["p", "p"], [1.0, 0.0])
    pd.read_parquet(path).assign(step=[1.0, None]).to_parquet(path)
    assert bad(path) == "completions_00001.parquet row 1 (prompt 'p', step nan): step is missing: give an integer >= 0"
    trl_log(tmp_path, 1, ["p", "p"], [1.0, 0.0])
    other = tmp_path / "history.parquet"
    RewardHistory.from_columns([0], ["a"], num_successes=[0], num_rollouts=[8]).to_parquet(other)
    with pytest.raises(InputError) as error:
        read_history(tmp_path)
    assert str(error.value).startswith(f"{other}: no column 'prompt' among step, prompt_id,")
    other.write_bytes(b"PAR1 nothing of the kind")
    with pytest.raises(InputError, match=r"history.parquet: not a Parquet file, or damaged \(.*remove or replace it"):
        read_history(tmp_path)
