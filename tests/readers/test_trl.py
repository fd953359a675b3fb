"""Completions as TRL logs them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logs import bad, rows, trl_log
from promptdyn.errors import InputError, PromptdynWarning
from promptdyn.history import RewardHistory
from promptdyn.readers import TRLCompletions, read_history


def test_bad_completions_are_skipped(tmp_path):
    trl_log(tmp_path, 1, ["p", "p", "q"], [1.0, 0.0, 1.0], prompt_id=["p", None, "q"])
    path = trl_log(tmp_path, 2, ["p", "q"], [1.0, 0.0], prompt_id=["p", "q"])
    pd.read_parquet(path).assign(step=[2.0, np.nan]).to_parquet(path)
    with pytest.raises(
        InputError, match=r"2 of 5 rows are bad: completions_00001.parquet row 1: prompt_id is missing; "
    ):
        read_history(tmp_path)
    with pytest.warns(PromptdynWarning, match="skipped 2 bad of 5 rows: completions_00001.parquet row 1: prompt_id is"):
        assert rows(read_history(tmp_path, skip_bad=True)) == [(1, "p", 1, 1), (1, "q", 1, 1), (2, "p", 1, 1)]


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
    with pytest.raises(InputError, match="no rollouts in tables of completions: give a folder that TRL logged"):
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
