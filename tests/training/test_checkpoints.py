"""Runs that die, are done, or meet: what is resumed, what is left alone, who is told."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import grpo_run
import promptdyn
from command_line import promptdyn_command
from known import known
from promptdyn.cli import main
from promptdyn.errors import InputError
from promptdyn.training.checkpoints import last_checkpoint, locked, steps_done
from promptdyn.training.run import RunSettings, run

SMALL: dict[str, Any] = {
    "num_prompts": 40,
    "prompts_per_step": 4,
    "num_generations": 4,
    "lr_scheduler_type": "constant",
}


def quiet(*_: object) -> None:
    pass


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The folder of a run of 4 steps with checkpoints after 2 and 4."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(RunSettings(folder, max_steps=4, save_steps=2, **SMALL), quiet)
    return folder


def state_of(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(file.relative_to(folder)): (file.stat().st_mtime_ns, file.stat().st_size)
        for file in folder.rglob("*")
        if file.name != ".lock"
    }


def cut_state(checkpoint: Path) -> None:
    text = (checkpoint / "trainer_state.json").read_text()
    (checkpoint / "trainer_state.json").write_text(text[: len(text) // 2])


def without_weights(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()


def empty(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()


@pytest.mark.parametrize("damage", [cut_state, without_weights, empty])
def test_what_is_not_whole_is_passed_over_and_the_run_ends_as_if_never_cut_off(whole, tmp_path, caplog, damage):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "final")
    damage(folder / "checkpoint-4")
    assert last_checkpoint(folder) == folder / "checkpoint-2"
    assert "checkpoint-4 is not whole" in caplog.text
    resumed = run(RunSettings(folder, max_steps=4, save_steps=2, resume=True, **SMALL), quiet)
    expected = promptdyn.read_history(whole / "history.parquet")
    for column in ("step", "prompt", "num_successes"):
        np.testing.assert_array_equal(getattr(resumed.history, column), getattr(expected, column))
    assert (folder / "final" / "model.safetensors").read_bytes() == (whole / "final" / "model.safetensors").read_bytes()
    assert steps_done(folder / "checkpoint-4") == 4


@pytest.mark.parametrize("max_steps", [4, 3])
def test_a_finished_run_is_left_as_it_is(whole, tmp_path, caplog, max_steps):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    before = state_of(folder)
    result = run(RunSettings(folder, max_steps=max_steps, save_steps=2, resume=True, **SMALL), quiet)
    assert state_of(folder) == before
    assert f"4 of {max_steps} steps are done: nothing to do" in caplog.text
    assert (len(result.log), len(known(result.history))) == (4, 16)


def test_a_run_that_died_before_its_model_was_written_is_finished(whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "final")
    result = run(RunSettings(folder, max_steps=4, save_steps=2, resume=True, **SMALL), quiet)
    assert len(result.log) == 4
    assert (folder / "final" / "model.safetensors").read_bytes() == (whole / "final" / "model.safetensors").read_bytes()
    assert not list((folder / "final").glob("optimizer*"))


def test_what_cannot_go_on_is_told(whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    with pytest.raises(InputError, match="final: holds 4 steps, and there is no checkpoint to go on from"):
        run(RunSettings(folder, max_steps=6, resume=True, **SMALL), quiet)
    trainer = grpo_run.trainer(tmp_path / "other", max_steps=4)
    with pytest.raises(InputError, match="other: no whole checkpoint to resume from"):
        trainer.train(resume_from_checkpoint=True)
    with pytest.raises(InputError, match="checkpoint-4: has 4 steps, and max_steps=4: nothing is left"):
        trainer.train(resume_from_checkpoint=str(whole / "checkpoint-4"))
    with pytest.raises(InputError, match="checkpoint-9: no whole checkpoint"):
        trainer.train(resume_from_checkpoint=str(whole / "checkpoint-9"))


def test_resuming_where_nothing_is_yet_starts(tmp_path, caplog):
    result = run(RunSettings(tmp_path / "run", max_steps=1, resume=True, **SMALL), quiet)
    assert len(result.log) == 1
    assert "run: no checkpoint yet: starts" in caplog.text


def test_two_runs_do_not_share_a_folder(tmp_path):
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from promptdyn.training.checkpoints import locked\n"
        "with locked(Path(sys.argv[1])):\n"
        "    print('in', flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "in\n"
        with pytest.raises(
            InputError, match=rf"process {other.pid} on .* has been training into it since .*: wait for it"
        ):
            grpo_run.trainer(tmp_path, max_steps=1).train()
        assert not (tmp_path / "history.parquet").exists()
        other.kill()
        other.wait()
    with locked(tmp_path):  # what a dead process held is free
        told = json.loads((tmp_path / ".running.json").read_text())
        assert told["process"] == os.getpid()
    assert not (tmp_path / ".running.json").exists()


def test_rewards_that_are_all_none_do_not_end_a_run(tmp_path, monkeypatch, capsys):
    (tmp_path / "none_at_times.py").write_text(
        "calls = 0\n"
        "def now_and_then(completions, answer, **_):\n"
        "    global calls\n"
        "    calls += 1\n"
        "    return [None if calls == 2 else float(c == a) for c, a in zip(completions, answer)]\n"
    )
    command = (
        *("train", "--output-dir", "run", "--reward", "none_at_times.py:now_and_then", "--max-steps", "3", "--json"),
        *("-", "--num-prompts", "40", "--prompts-per-step", "4", "--num-generations", "4"),
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["promptdyn", *command])
    with pytest.raises(SystemExit) as done:
        main()
    assert done.value.code in (0, None)
    assert json.loads(capsys.readouterr().out)["rollouts"] == 2 * 16
    assert (tmp_path / "run" / "final" / "model.safetensors").is_file()


@pytest.mark.long
def test_a_run_killed_at_any_moment_ends_as_if_it_never_was(tmp_path):
    """kill -9 again and again, at random moments, until the run gets through."""
    command = (
        *("train", "--num-prompts", "40", "--prompts-per-step", "4", "--num-generations", "4", "--save-steps", "1"),
        *("--max-steps", "24", "--lr-scheduler-type", "constant", "--resume", "--output-dir"),
    )
    assert promptdyn_command(*command, "whole", cwd=tmp_path).returncode == 0
    rng = random.Random(0)
    kills = 0
    while True:
        process = subprocess.Popen(
            [sys.executable, "-c", "from promptdyn.cli import main; main()", *command, "cut"],
            cwd=tmp_path,
            stderr=subprocess.DEVNULL,
        )
        began = last_checkpoint(tmp_path / "cut")
        # From the moment that it trains on: most of the time before is spent on imports.
        while process.poll() is None and last_checkpoint(tmp_path / "cut") == began:
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.25))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    assert kills >= 5
    assert process.returncode == 0
    one, other = (promptdyn.read_history(tmp_path / name / "history.parquet") for name in ("whole", "cut"))
    for column in ("step", "prompt", "num_successes"):
        np.testing.assert_array_equal(getattr(one, column), getattr(other, column))
    assert list(one.prompt_ids) == list(other.prompt_ids)
