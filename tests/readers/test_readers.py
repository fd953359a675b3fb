"""What all readers have in common: their contract, how one is found, histories that are joined."""

from __future__ import annotations

from pathlib import Path

import pytest

from logs import HEADER, bad, trl_log
from promptdyn.cli.commands.import_logs import FORMATS
from promptdyn.errors import InputError, PromptdynWarning
from promptdyn.history import RewardHistory
from promptdyn.readers import READERS, read_history

ROOT = Path(__file__).parents[2]


def test_histories_that_are_joined_keep_what_they_share(tmp_path):
    for step in (0, 1):
        history = RewardHistory.from_columns(
            [step], ["a"], num_successes=[1], num_rollouts=[8], success="0.5", pool_size=9
        )
        history.to_parquet(tmp_path / f"{step}.parquet")
    assert (read_history(tmp_path).success, read_history(tmp_path).pool_size) == ("0.5", 9)
    RewardHistory.from_columns([2], ["a"], num_successes=[1], num_rollouts=[8], success="1").to_parquet(
        tmp_path / "2.parquet"
    )
    with pytest.warns(PromptdynWarning, match="its files count successes by different rules: '0.5', '1'"):
        history = read_history(tmp_path)
    assert (history.success, history.pool_size) == (None, None)


@pytest.mark.parametrize("name", READERS)
def test_every_reader_is_listed_where_users_look(name):
    layout = READERS.create(name).layout
    assert layout
    assert f"{name}: {layout}" in FORMATS
    assert f'- "{name}": ' in str(read_history.__doc__)
    assert f"| `{name}` | " in (ROOT / "docs" / "logs.md").read_text()


@pytest.mark.parametrize("name", READERS)
def test_every_reader_keeps_the_contract(name, tmp_path):
    reader = READERS.create(name)
    assert reader == READERS[name]()
    (tmp_path / "notes.txt").write_text("notes")
    assert reader.recognizes(tmp_path) is False
    assert reader.recognizes(tmp_path / "notes.txt") is False
    with pytest.raises(InputError, match=r"notes\.txt"):
        read_history(tmp_path / "notes.txt", name)
    with pytest.raises(InputError, match="nowhere: no such file or folder"):
        read_history(tmp_path / "nowhere", name)


def test_paths_that_no_reader_takes(tmp_path):
    known = (
        "give a Parquet, CSV or JSONL file with columns step, prompt_id, num_successes, num_rollouts, a trainer's log"
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
        "it takes prompt_key, reward, reward_weights, success, label_columns, skip_bad, keep_superseded, run"
    )
