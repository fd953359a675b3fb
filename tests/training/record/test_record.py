"""A pool rolled out into a history: counts as in training, goes on where it was cut off, nothing is silent."""

import json
import logging
import signal
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from command_line import promptdyn_here
from known import known
from promptdyn import InputError, RewardHistory, models
from promptdyn.training import policy, tasks
from promptdyn.training.record import RecordSettings, RolloutLog, record
from promptdyn.training.rollout import ROLLOUT_ENGINES
from promptdyn.training.run import RunSettings, run

SMALL: dict[str, Any] = {"num_prompts": 60, "num_generations": 4, "engine": "transformers:batch_size=80"}
REWARDS = """
import asyncio

def correct(completions, answer, **_):
    return [2.0 * (text == right) - 1.0 for text, right in zip(completions, answer)]

async def short(completions, task, **_):
    return [None if kind == "add" else 1.0 / (1 + len(text)) for text, kind in zip(completions, task)]

def never(completions, **_):
    return [0.0 for _ in completions]

def ungraded(completions, task, **_):
    return [None if kind == "add" else 1.0 for kind in task]

def nothing(completions, **_):
    return [None for _ in completions]
"""


@pytest.fixture
def settings(tmp_path):
    return RecordSettings(tmp_path / "pool.parquet", **SMALL)


@pytest.fixture
def rewards(tmp_path):
    (tmp_path / "rewards.py").write_text(REWARDS)
    return lambda *names: ",".join(f"{tmp_path}/rewards.py:{name}" for name in names)


def test_a_recording_counts_the_successes_of_every_prompt(settings):
    told = []
    recording = record(settings, lambda done, total, watch: told.append((done, total, *watch)))
    assert told == [(20 * i, 60, "prompts/s", "tokens/s") for i in (1, 2, 3)]
    history = recording.history
    pool = tasks.make_pool("arithmetic", 60, 0)
    assert set(history.prompt_ids) == {row["prompt_id"] for row in pool}
    assert not history.trained.any()
    assert (history.num_rollouts == 4).all()
    assert history.success == "0.5"
    assert history.pool_size == 60
    kinds = {row["prompt_id"]: row["task"] for row in pool}
    assert list(history.columns["task"]) == [kinds[prompt_id] for prompt_id in history.prompt_ids]
    # The same rates as another sample of many more rollouts.
    rate = policy.pass_counts(*policy.load_policy(), pool, num_generations=64, seed=9) / 64
    expected = dict(zip([row["prompt_id"] for row in pool], rate, strict=True))
    mean = np.array([expected[prompt_id] for prompt_id in history.prompt_ids])
    deviation = np.sqrt((4 * mean * (1 - mean)).sum())
    assert abs(history.num_successes.sum() - 4 * mean.sum()) < 4 * deviation
    on_disk = RewardHistory.from_parquet(settings.out)
    assert on_disk.marks().tolist() == history.marks().tolist()
    lines = [json.loads(line) for line in recording.log_path.read_text().splitlines()]
    assert sum(line["tokens"] for line in lines[1:]) == recording.tokens


def test_a_recording_that_was_cut_off_ends_like_one_that_never_was(settings, caplog):
    whole = record(replace(settings, out=settings.out.with_name("whole.parquet")))
    part = record(replace(settings, max_prompts=20))
    assert len(part.history) == 20
    with open(part.log_path, "a") as log:
        log.write('{"prompt_id": "add')  # the process died while it wrote
    caplog.clear()
    rest = record(settings)
    assert "20 of 60 prompts are rolled out: goes on" in caplog.text
    assert rest.started == 20
    assert rest.history.marks().tolist() == whole.history.marks().tolist()
    assert rest.log_path.read_text() == whole.log_path.read_text()
    again = record(replace(settings, engine="vllm"))  # nothing is left, so no engine is needed
    assert (again.seconds, again.history.marks().tolist()) == (0.0, whole.history.marks().tolist())
    fewer = record(replace(settings, max_prompts=20))
    assert fewer.history.marks().tolist() == part.history.marks().tolist()


ENGINE = """
from dataclasses import dataclass
from promptdyn.training import policy
from promptdyn.training.rollout import RolloutEngine, TransformersGenerator

SEEDS = []

class Noted(TransformersGenerator):
    def generate(self, prompts, sampling, seed):
        SEEDS.append(seed)
        return super().generate(prompts, sampling, seed)

@dataclass(frozen=True)
class Mine(RolloutEngine):
    batch_size: int = 64
    name = "noted"
    def load(self, model, revision=None, trust_remote_code=False):
        return Noted(*policy.load_policy(), self.batch_size)
"""


def test_an_engine_of_ones_own_and_no_random_stream_twice(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(ROLLOUT_ENGINES, "_entries", dict(ROLLOUT_ENGINES))
    (tmp_path / "engine_of_mine.py").write_text(ENGINE)
    for seed in (0, 1, 2**32, 2**40):
        name = f"{tmp_path}/engine_of_mine.py:Mine:batch_size=80"
        record(replace(settings, out=tmp_path / f"{seed}.parquet", seed=seed, engine=name))
    seeds = sys.modules[ROLLOUT_ENGINES["noted"].__module__].SEEDS
    assert len({seed % 2**32 for seed in seeds}) == len(seeds) == 4 * 3


def test_another_rule_counts_the_same_rollouts(settings, rewards, caplog):
    both = replace(settings, reward=rewards("correct", "short"), success="correct")
    first = record(both).history
    assert first.success == "correct>=1"
    strict = record(replace(both, success="correct>=1 and short>=0.3"))
    assert strict.seconds == 0.0
    added = first.columns["task"] == "add"
    counts = [dict(zip(h.prompt_ids[h.prompt], h.num_successes, strict=True)) for h in (first, strict.history)]
    assert all(counts[1][prompt_id] <= counts[0][prompt_id] for prompt_id in counts[1])
    # A rollout that a function of the rule did not grade has no grade.
    assert set(strict.history.prompt_ids) == set(first.prompt_ids[~added])
    assert "prompts have no grade and no row in the history" in caplog.text


def test_rewards_and_weights_are_those_of_training(tmp_path, rewards):
    (tmp_path / "run.yaml").write_text(
        f"""
model_name_or_path: embedded
dataset_name: arithmetic
num_prompts: 30
reward_funcs: [{rewards("correct")}, {rewards("short")}]
reward_weights: [1.0, 0.5]
num_generations: 4
max_completion_length: 5
temperature: 0.9
success: correct>=1
selector: dps
warm_start: not-there-yet.parquet
learning_rate: 1e-5
per_device_train_batch_size: 8
seed: 3
output_dir: {tmp_path}/run
"""
    )
    done = promptdyn_here("record", "--config", tmp_path / "run.yaml", "--out", tmp_path / "a.parquet", "--json", "-")
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    history = RewardHistory.from_parquet(tmp_path / "a.parquet")
    assert (row["prompts"], row["rollouts"]) == (30, 120) == (len(history), history.num_rollouts.sum())
    log = RolloutLog.open(
        tmp_path / "a.rollouts.jsonl",
        json.loads((tmp_path / "a.rollouts.jsonl").read_text().splitlines()[0])["settings"],
        history.prompt_ids.tolist(),
    )
    assert log.settings["temperature"] == 0.9
    assert log.settings["max_completion_length"] == 5
    assert log.settings["seed"] == 3
    correct, short = log.rewards().T.reshape(2, 30, 4)
    folded = np.nansum([correct, 0.5 * short], axis=0)
    np.testing.assert_allclose(known(history.reward_mean), folded.mean(axis=1), rtol=1e-6)
    assert history.num_successes.tolist() == (correct >= 1).sum(axis=1).tolist()
    ids = {row["prompt_id"] for row in tasks.make_pool("arithmetic", 30, 3)}
    assert set(history.prompt_ids) == ids
    typed = ("--seed", 5, "--num-generations", 2, "--max-completion-length", 3, "--temperature", 0.5)
    done = promptdyn_here("record", "--config", tmp_path / "run.yaml", "--out", tmp_path / "b.parquet", *typed)
    assert done.returncode == 0, done.stderr
    settings = json.loads((tmp_path / "b.rollouts.jsonl").read_text().splitlines()[0])["settings"]
    names = ("seed", "num_generations", "max_completion_length", "temperature")
    assert [settings[name] for name in names] == [5, 2, 3, 0.5]
    assert RewardHistory.from_parquet(tmp_path / "b.parquet").num_rollouts.tolist() == [2] * 30


def test_only_prompts_of_which_the_selector_is_unsure(settings, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    first = record(settings)
    second = record(
        replace(
            settings,
            out=tmp_path / "again.parquet",
            where="informative>=0.7",
            selector="mopps",
            warm_start=str(settings.out),
        )
    )
    online = models.BetaBernoulli().online(first.history.prompts)
    online.step(first.history.prompt_ids, first.history.num_successes, 4, np.zeros(60, bool))
    expected = {online.prompt_ids[row] for row in np.flatnonzero(online.informative(4) >= 0.7)}
    assert 0 < len(expected) < 60
    assert set(second.history.prompt_ids) == expected
    assert second.history.pool_size == 60
    assert f"{len(expected)} of 60 prompts have informative>=0.7" in caplog.text


def test_a_checkpoint_knows_its_step(tmp_path, settings):
    run(RunSettings(tmp_path / "run", max_steps=2, save_steps=2, num_prompts=20, prompts_per_step=4, num_generations=2))
    checked = record(replace(settings, model=str(tmp_path / "run" / "checkpoint-2"), max_prompts=8))
    assert checked.history.steps.tolist() == [2]
    named = record(replace(settings, out=tmp_path / "b.parquet", step=7, max_prompts=8))
    assert named.history.steps.tolist() == [7]


def test_completions_are_logged_if_asked_for(settings):
    log_path = record(replace(settings, log_completions=True, max_prompts=3)).log_path
    _, *lines = [json.loads(line) for line in log_path.read_text().splitlines()]
    assert [len(line["completions"]) for line in lines] == [4, 4, 4]
    rows = {row["prompt_id"]: row for row in tasks.make_pool("arithmetic", 60, 0)}
    for line in lines:
        answer = rows[line["prompt_id"]]["answer"]
        assert line["rewards"]["exact_answer"] == [float(text == answer) for text in line["completions"]]


STOPPED = """
import logging, os, pathlib, signal, sys
from promptdyn.training.rollout import ROLLOUT_ENGINES
from promptdyn.training.record import RecordSettings, record
def stop(done, total, watch):
    if done == 40:
        os.kill(os.getpid(), getattr(signal, sys.argv[2]))
out = pathlib.Path(sys.argv[1])
logging.basicConfig()
record(RecordSettings(out, num_prompts=60, num_generations=4, engine="transformers:batch_size=80"), stop)
"""


def stopped_by(name, settings):
    """Record in another process, which a signal stops after 40 prompts."""
    process = subprocess.run(
        [sys.executable, "-c", STOPPED, str(settings.out), name], capture_output=True, text=True, check=False
    )
    assert process.returncode == -getattr(signal, name), process.stderr
    return process


def check_that_it_goes_on(settings, told):
    assert "stopped: 40 of 60 prompts are rolled out" in told
    history = RewardHistory.from_parquet(settings.out)
    assert (len(history), history.pool_size) == (40, 60)
    assert record(settings).started == 40
    assert not list(settings.out.parent.glob(".*.lock"))


def test_a_recording_stopped_by_ctrl_c_leaves_what_it_has(settings, caplog):
    with pytest.raises(KeyboardInterrupt):
        record(settings, lambda done, total, watch: signal.raise_signal(signal.SIGINT) if done == 40 else None)
    check_that_it_goes_on(settings, caplog.text)


@pytest.mark.long
def test_a_recording_stopped_by_sigterm_leaves_what_it_has(settings):
    check_that_it_goes_on(settings, stopped_by("SIGTERM", settings).stderr)


@pytest.mark.long
def test_a_recording_that_was_killed_goes_on(settings):
    stopped_by("SIGKILL", settings)
    assert not settings.out.exists()
    assert record(settings).started == 40


def test_two_recordings_do_not_share_a_log(settings):
    with (
        RolloutLog.locked(settings.out.with_suffix(".rollouts.jsonl")),
        pytest.raises(InputError, match="another process records into it"),
    ):
        record(settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_generations": 0}, "num_generations=0: give at least 1"),
        ({"max_prompts": 0}, "max_prompts=0: give at least 1"),
        ({"step": -1}, "step=-1: give at least 0"),
        ({"seed": -1}, "seed=-1: give at least 0"),
        ({"grpo": {"temperature": -0.5}}, "temperature=-0.5: give at least 0"),
        ({"grpo": {"reward_weights": [1.0, 2.0]}}, "reward_weights=.* for 1 reward functions"),
        ({"engine": "llama"}, "engine 'llama' is none of transformers, vllm"),
        ({"success": "correct>=1"}, "no reward function is called 'correct'"),
        ({"where": "entropy>=1.2"}, "none of 60 prompts is so"),
        ({"where": "entropy>=0.1", "selector": "features"}, "wants the policy to read the prompts"),
        ({"where": "entropy>=0.1", "selector": "uniform", "warm_start": "x"}, "chooses without a forecast"),
        ({"where": "entropy>=0.1", "warm_start": "nowhere.parquet"}, "nowhere.parquet"),
        ({"script": {"reward_model_name_or_path": "judge"}}, "has no reward models"),
        ({"model": "nowhere/at/all"}, "cannot be loaded by transformers"),
        ({"dataset": "nowhere.jsonl"}, "no such file"),
    ],
)
def test_bad_settings_leave_nothing_behind(settings, changes, message):
    with pytest.raises(InputError, match=message):
        record(replace(settings, **changes))
    assert list(settings.out.parent.iterdir()) == []


def test_pictures_are_refused(settings, tmp_path):
    (tmp_path / "seen.jsonl").write_text('{"prompt": "1+1=", "answer": "2", "image": "one.png"}\n')
    with pytest.raises(InputError, match="column 'image': a recording shows no pictures"):
        record(replace(settings, dataset=str(tmp_path / "seen.jsonl")))


def test_a_warm_start_needs_a_condition(tmp_path):
    with pytest.raises(InputError, match="only a condition on the prompts asks"):
        RecordSettings(tmp_path / "a.parquet", warm_start="before.parquet")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: ["{}"], "is no log of a recording"),
        (lambda lines: ['{"mine": 1}'], "is no log of a recording"),
        (lambda lines: ["no JSON", *lines[1:]], "is no log of a recording"),
        (lambda lines: [*lines[:2], "{}", *lines[3:]], "is no log of a recording, or damaged"),
        (lambda lines: [lines[0], lines[2], lines[1]], "line 2: has prompt"),
        (lambda lines: [lines[0].replace('"version": 1', '"version": 9')], "format version 9"),
        (lambda lines: [lines[0].replace('"seed": 0', '"seed": 4')], "was begun with seed=4, now it is 0"),
        (lambda lines: [*lines[:2], lines[2].replace("[", "[1.0, ")], "lines of different rewards"),
    ],
)
def test_a_damaged_log_is_told_and_left_alone(settings, change, message):
    few = replace(settings, max_prompts=5)
    log_path = record(few).log_path
    log_path.write_text("\n".join(change(log_path.read_text().splitlines())) + "\n")
    before = log_path.read_bytes()
    with pytest.raises(InputError, match=message):
        record(few if "different" not in message else replace(settings, max_prompts=2))
    assert log_path.read_bytes() == before


def test_doubtful_counts_are_told(settings, rewards, caplog):
    record(replace(settings, reward=rewards("never"), max_completion_length=1))
    assert "none of 240 rollouts succeeded by the rule '0.5'" in caplog.text
    assert "rollouts reached max_completion_length=1 without an end" in caplog.text
    with pytest.raises(InputError, match="gave None for all of 60 prompts"):
        record(replace(settings, out=settings.out.with_name("none.parquet"), reward=rewards("nothing")))
    assert not settings.out.with_name("none.parquet").exists()


def test_a_selector_starts_warm_in_training(settings, tmp_path, caplog):
    record(settings)
    small: dict[str, Any] = {"num_prompts": 60, "prompts_per_step": 6, "num_generations": 4, "max_steps": 1}
    done = promptdyn_here(
        "train", "--output-dir", tmp_path / "warm", "--warm-start", settings.out, "--selector", "mopps",
        *(word for name, value in small.items() for word in (f"--{name.replace('_', '-')}", value)),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "60 of the pool's 60 prompts are known" in done.stderr
    chosen = RewardHistory.from_parquet(tmp_path / "warm" / "history.parquet").prompt_ids
    known_rates = RewardHistory.from_parquet(settings.out)
    varied = known_rates.informative[np.isin(known_rates.prompt_ids, chosen)]
    assert varied.mean() > 2 * known_rates.informative.mean()
