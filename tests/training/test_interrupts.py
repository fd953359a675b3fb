"""Runs that are stopped: by Ctrl-C, by SIGTERM, by a reward function. What was rolled out is kept, and training goes on
in the same session as if it had not been stopped.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

import grpo_run
from grpo_run import POOL, Grader, WatchedTrainer, history_of, rows
from known import known
from promptdyn.history import RewardHistory
from promptdyn.training.dynamic_sampling import DynamicSampling

CLOCKS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rollouts serve two steps": {"num_iterations": 2},
    "several generations a step": {
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 4,
        "steps_per_generation": 2,
    },
}


class Stopping(Grader):
    """A grader that fails in some of its calls, counted from 0."""

    def __init__(self, error: BaseException, *calls: int) -> None:
        super().__init__()
        self.error, self.calls, self.called = error, calls, -1

    def __call__(self, **named: Any) -> list[float]:  # type: ignore[override]
        self.called += 1
        if self.called in self.calls:
            raise self.error
        return super().__call__(**named)


def trainer(folder: Path, grader: Grader | None = None, **settings: Any) -> WatchedTrainer:
    return grpo_run.trainer(folder, grader=grader or Grader(), **settings)


def expected(run: WatchedTrainer) -> list[tuple[int, str, int]]:
    """(step, prompt, successes) of what the reward function graded."""
    found: dict[tuple[int, str], int] = {}
    for step, ids, _, rewards in run.reward_funcs[0].graded:
        for prompt_id, reward in zip(ids, rewards, strict=True):
            found[step, prompt_id] = found.get((step, prompt_id), 0) + int(reward)
    return sorted((*key, successes) for key, successes in found.items())


def recorded(folder: Path) -> list[tuple[int, str, int]]:
    return [(step, prompt_id, successes) for step, prompt_id, _, successes, _ in rows(history_of(folder))]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("the judge is down")], ids=["ctrl-c", "reward"])
@pytest.mark.parametrize("clock", CLOCKS)
def test_what_was_rolled_out_is_in_the_history(
    clock: str, error: BaseException, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = trainer(tmp_path, Stopping(error, 3), save_strategy="no", **CLOCKS[clock])
    with pytest.raises(type(error)):
        run.train()
    assert recorded(tmp_path) == expected(run)
    assert len(recorded(tmp_path)) == 6  # three generations of two prompts
    told = f"stopped in step {run.state.global_step}: the graded groups are in {tmp_path / 'history.parquet'}, and no"
    assert (told in caplog.text) == isinstance(error, KeyboardInterrupt)


def test_rounds_that_no_step_was_trained_on_are_in_the_history(tmp_path: Path) -> None:
    rule = DynamicSampling(max_rounds=3)
    run = trainer(
        tmp_path, Stopping(KeyboardInterrupt(), 4), dynamic_sampling=rule, learning_rate=0.0, num_iterations=1
    )
    with pytest.raises(KeyboardInterrupt):
        run.train()
    assert recorded(tmp_path) == expected(run)
    by_step: dict[int, list[bool]] = {}
    for step, _, _, _, trained in rows(history_of(tmp_path)):
        by_step.setdefault(step, []).append(trained)
    *done, last = by_step.values()
    assert all(any(flags) for flags in done)
    assert not any(last) or len(done) == run.state.global_step


def test_groups_that_were_graded_and_not_learned_of_are_in_the_history(tmp_path: Path) -> None:
    class Stopped(WatchedTrainer):
        def _calculate_rewards(self, *args: Any, **named: Any) -> Any:
            rewards = super()._calculate_rewards(*args, **named)
            if self.state.global_step == 2:
                raise KeyboardInterrupt
            return rewards

    run = grpo_run.trainer(tmp_path, of=Stopped)
    with pytest.raises(KeyboardInterrupt):
        run.train()
    assert recorded(tmp_path) == expected(run)
    assert [row[4] for row in rows(history_of(tmp_path))] == [True] * 4 + [False] * 2
    assert run.selector.online.steps == 3


@pytest.mark.parametrize("clock", CLOCKS)
def test_training_resumes_in_the_same_session_as_if_never_stopped(clock: str, tmp_path: Path) -> None:
    settings = {"save_steps": 2, "max_steps": 6, **CLOCKS[clock]}
    full = trainer(tmp_path / "full", **settings)
    full.train()
    per_step = len(full.selector.selected) / 6
    stopped = trainer(
        tmp_path / "stopped", Stopping(KeyboardInterrupt(), int(3 * per_step), int(5 * per_step)), **settings
    )
    for resume in (None, True):
        with pytest.raises(KeyboardInterrupt):
            stopped.train(resume_from_checkpoint=resume)
    trained = len(stopped.trained)
    stopped.train(resume_from_checkpoint=True)
    assert stopped.trained[trained:] == full.trained[-(len(stopped.trained) - trained) :]
    assert rows(history_of(tmp_path / "stopped")) == rows(history_of(tmp_path / "full"))
    weights = [sum(p.double().sum().item() for p in run.model.parameters()) for run in (full, stopped)]
    assert weights[0] == weights[1]
    metrics = [[log["reward"] for log in run.state.log_history if "reward" in log] for run in (full, stopped)]
    assert metrics[0] == metrics[1]


class Once(TrainerCallback):
    """Fails when a step is done, the first time."""

    def __init__(self, step: int) -> None:
        self.step: int | None = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            self.step = None
            raise RuntimeError("once")


def test_training_begins_anew_in_the_same_session(tmp_path: Path) -> None:
    """Rollouts of the run before are not trained on, and its prompts are free to be chosen."""
    grader = Grader()
    run = trainer(tmp_path, grader, num_iterations=2, max_steps=4, save_strategy="no", callbacks=[Once(1)])
    with pytest.raises(RuntimeError, match="once"):
        run.train()
    assert len(grader.graded) == len(run.trained) == 1  # a second step was to be trained on its rollouts
    run.train()
    assert [graded[0] for graded in grader.graded] == [0, 0, 2]
    text = dict(zip(POOL["prompt_id"], POOL["prompt"], strict=True))
    chosen = [sorted(text[prompt_id] for prompt_id in graded[1]) for graded in grader.graded[1:]]
    assert [sorted(texts) for texts in run.trained[1:]] == [texts for texts in chosen for _ in range(2)]
    assert {row[:2] for row in recorded(tmp_path)} == {(step, i) for step, ids, *_ in grader.graded[1:] for i in ids}
    assert len(RewardHistory.from_parquet(tmp_path / "history.parquet.1")) == 2


def test_a_history_that_cannot_be_completed_hides_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = trainer(tmp_path, Stopping(RuntimeError("the judge is down"), 2), save_strategy="no")
    known(run.session.recorder).path = tmp_path / "a file" / "history.parquet"
    (tmp_path / "a file").write_text("")
    with pytest.raises(RuntimeError, match="the judge is down"):
        run.train()
    assert "history.parquet could not be completed: " in caplog.text


UNWOUND = """
import os, signal
from promptdyn.training.interrupts import terminable

with terminable():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        print("saved", flush=True)
print("went on", flush=True)
"""


def test_sigterm_unwinds_the_block_and_then_ends_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", UNWOUND], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "saved\n")


@pytest.mark.long
def test_sigterm_ends_the_process_with_its_history_written(tmp_path: Path) -> None:
    call = [sys.executable, grpo_run.__file__, "terminate", str(tmp_path), "5"]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGTERM, done.stderr
    assert "stopped in step 5" in done.stderr
    assert "train(resume_from_checkpoint=True) goes on from checkpoint-4" in done.stderr
    assert {row[0] for row in recorded(tmp_path)} == {0, 1, 2, 3, 4}


HANDLERS = """
import os, signal, threading, time
from promptdyn.training.interrupts import terminable

def block():
    with terminable():
        print("elsewhere:", signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)

thread = threading.Thread(target=block)
thread.start()
thread.join()
with terminable():
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(tell, b".")
        time.sleep(60)
        os._exit(0)
    os.read(ready, 1)
    os.kill(child, signal.SIGTERM)
    print("child:", os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM)
print("after:", signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
signal.signal(signal.SIGTERM, lambda *_: print("handled: True"))
with terminable():
    os.kill(os.getpid(), signal.SIGTERM)
"""


def test_sigterm_is_left_to_whoever_handles_it_and_to_children() -> None:
    done = subprocess.run([sys.executable, "-c", HANDLERS], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["elsewhere: True", "child: True", "after: True", "handled: True"]
