"""`promptdyn train`, really run, for a few steps with the embedded policy."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from trl.trainer.utils import get_callable_name

import promptdyn
from command_line import promptdyn_here
from known import known
from promptdyn.errors import InputError
from promptdyn.plugins import load_object
from promptdyn.training import policy, tasks
from promptdyn.training.loading import load_reward
from promptdyn.training.recipes import SELECTORS, Recipe
from promptdyn.training.run import RunSettings, make_trainer, run

SMALL: dict[str, Any] = {"num_prompts": 40, "prompts_per_step": 6, "num_generations": 4}


def test_a_run_trains_logs_and_leaves_its_history(tmp_path):
    steps = []
    settings = RunSettings(tmp_path, selector="mopps", max_steps=4, **SMALL)
    result = run(settings, progress=lambda *told: steps.append(told[:2]))
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    history = known(result.history)
    assert len(history) == 4 * 6
    assert (history.num_rollouts == 4).all()
    assert set(history.columns) == {"task", "difficulty"}
    again = promptdyn.read_history(tmp_path / "history.parquet")
    np.testing.assert_array_equal(again.num_successes, history.num_successes)
    pool = {row["prompt_id"] for row in tasks.make_pool("arithmetic", 40, 0)}
    assert set(history.prompt_ids) <= pool
    realized = [entry["selection/informative"] for entry in result.log]
    by_step = [history.informative[history.step == step].mean() for step in range(4)]
    assert realized == pytest.approx(by_step)
    start, _ = policy.load_policy()
    moved = [
        not np.array_equal(a.detach(), b.detach())
        for a, b in zip(start.parameters(), result.model.parameters(), strict=True)
    ]
    assert any(moved)
    assert (tmp_path / "final" / "model.safetensors").is_file()


def test_a_resumed_run_ends_like_one_that_never_stopped(tmp_path):
    settings = RunSettings(tmp_path / "whole", max_steps=4, save_steps=2, lr_scheduler_type="constant", **SMALL)
    whole = run(settings, progress=lambda *_: None)
    run(dataclasses.replace(settings, output_dir=tmp_path / "parts", max_steps=2), progress=lambda *_: None)
    parts = run(dataclasses.replace(settings, output_dir=tmp_path / "parts", resume=True), progress=lambda *_: None)
    for column in ("step", "prompt", "num_successes"):
        np.testing.assert_array_equal(getattr(known(parts.history), column), getattr(known(whole.history), column))
    assert list(known(parts.history).prompt_ids) == list(known(whole.history).prompt_ids)


def test_a_run_without_any_reward_ends_and_says_so(tmp_path):
    """Whoever trains on answers that no reward function knows gets the saved model and a word, not an error."""
    (tmp_path / "mute.py").write_text("def mute(completions, **_):\n    return [None] * len(completions)\n")
    out = tmp_path / "run"
    command = ["train", "--output-dir", str(out), "--reward", f"{tmp_path / 'mute.py'}:mute", "--json", "-"]
    command += ["--max-steps", "2", "--num-prompts", "40", "--prompts-per-step", "6", "--num-generations", "4"]
    for more in ([], ["--resume"]):  # the second finds all steps done
        done = promptdyn_here(*command, *more)
        assert done.returncode == 0
        row = json.loads(done.stdout)
        assert (row["steps"], row["rollouts"], row["effective_sample_ratio"]) == (2, 0, None)
        assert "no rollout was graded: the reward functions gave None for all" in done.stderr
    assert (out / "final" / "model.safetensors").is_file()
    assert not (out / "history.parquet").exists()


@pytest.mark.parametrize("name", [name for name, recipe in SELECTORS.items() if recipe.strategy == "uniform"])
def test_uniform_selection_is_said_to_be_uniform(tmp_path, caplog, name):
    """Not chosen by the model that only forecasts how many teach."""
    make_trainer(RunSettings(tmp_path, selector=name, max_steps=1, **SMALL), lambda *_: None)
    assert "prompts are chosen uniformly, in shuffled passes through the pool" in caplog.text


def test_a_fit_with_clusters_chooses_live(tmp_path):
    first = run(RunSettings(tmp_path / "first", selector="uniform", max_steps=8, **SMALL), progress=lambda *_: None)
    fit = promptdyn.fit(
        promptdyn.models.DiscreteHMM(num_states=4, num_exposures=1), known(first.history), backend="pyro"
    )
    fit.save(tmp_path / "fit.npz")
    second = run(
        RunSettings(tmp_path / "second", selector=str(tmp_path / "fit.npz"), max_steps=2, **SMALL),
        progress=lambda *_: None,
    )
    assert len(known(second.history)) == 12


def test_a_run_learns_its_dynamics_on_the_fly(tmp_path):
    settings = RunSettings(
        tmp_path,
        selector=Recipe("hmm:num_states=3,cluster=task", refit_every=2),
        max_steps=3,
        save_steps=3,
        **SMALL,
    )
    result = run(settings, progress=lambda *_: None)
    assert len(known(result.history)) == 18
    saved = next(tmp_path.glob("checkpoint-3/selector.npz"))
    with np.load(saved) as file:
        assert any(name.startswith("online/fit/params/") for name in file.files)
    with pytest.raises(InputError, match="has no program"):
        run(dataclasses.replace(settings, selector=Recipe("dps", refit_every=2)))


def test_any_model_dataset_and_reward_can_be_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, tokenizer = policy.load_policy()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    Dataset.from_list([{"prompt": f"{a}+{b}=", "right": a + b} for a in range(4) for b in range(4)]).to_json(
        tmp_path / "sums.jsonl"
    )
    (tmp_path / "grading.py").write_text(
        "def right_sum(completions, right, **_):\n"
        "    return [float(c.strip() == str(r)) for c, r in zip(completions, right)]\n"
    )
    done = promptdyn_here(
        *("train", "--output-dir", "run", "--model", "model", "--dataset", "sums.jsonl"),
        *("--reward", "grading.py:right_sum", "--selector", "dps:decay=0.5", "--strategy", "gumbel:temperature=0.1"),
        *("--max-steps", "2", "--prompts-per-step", "4", "--num-generations", "4", "--json", "out.json"),
    )
    assert done.returncode == 0, done.stderr
    assert len(promptdyn.read_history(tmp_path / "run" / "history.parquet")) == 8
    assert (tmp_path / "out.json").is_file()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "nowhere/at-all"}, "model 'nowhere/at-all' cannot be loaded"),
        ({"dataset": "gone.parquet"}, "dataset 'gone.parquet': no such file"),
        ({"reward": "exact"}, "reward 'exact' is none of exact_answer, accuracy_reward"),
        ({"reward": "promptdyn.training.tasks:FAMILIES"}, "is a dict: name a function"),
        ({"reward": "promptdyn.training.tasks:missing"}, "reward 'promptdyn.training.tasks:missing'"),
        ({"selector": "hmm"}, "must be fitted first"),
        ({"selector": "fit.npz"}, "fit.npz: no such file"),
        ({"selector": Recipe(max_rounds=0)}, "max_rounds=0: give at least 1"),
        ({"selector": Recipe(at_cap="stop")}, "at_cap='stop' is none of train, drop, raise"),  # type: ignore[arg-type]
        ({"prompts_per_step": 60}, "40 prompts"),
        ({"prompts_per_step": 0}, "prompts_per_step=0: give at least 1"),
        ({"num_generations": 1}, "num_generations=1: give at least 2"),
        ({"max_steps": 0}, "max_steps=0: give at least 1"),
        ({"max_completion_length": 0}, "max_completion_length=0: give at least 1"),
        ({"seed": -1}, "seed=-1: give at least 0"),
        ({"save_steps": -5}, "save_steps=-5: give at least 0"),
        ({"learning_rate": float("nan")}, "learning_rate=nan: give a finite number above 0"),
        ({"lr_scheduler_type": "steep"}, "lr_scheduler_type='steep' is none of linear, cosine"),
    ],
)
def test_bad_settings_are_named_before_anything_is_written(tmp_path, monkeypatch, change, message):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    settings = RunSettings(tmp_path / "out", **{"max_steps": 2, **SMALL, **change})
    with pytest.raises(InputError, match=message):
        run(settings, progress=lambda *_: None)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": i, "answer": "1"} for i in range(8)], "row 0: the prompt is of type int: give a text"),
        (
            [{"prompt": [{"role": "user", "content": f"{i}+1="}], "answer": "1"} for i in range(8)],
            "has no chat template",
        ),
        (
            [{"prompt": f"{i}+1="} for i in range(8)],
            "has no column 'answer', which reward 'exact_answer' compares with",
        ),
        ([{"question": f"{i}+1="} for i in range(8)], "has no column 'prompt'; it has question"),
    ],
)
def test_datasets_that_cannot_be_trained_on_are_named(tmp_path, rows, message):
    Dataset.from_list(rows).to_json(tmp_path / "rows.jsonl")
    settings = RunSettings(tmp_path / "out", dataset=str(tmp_path / "rows.jsonl"), max_steps=1, **SMALL)
    with pytest.raises(InputError, match=message):
        run(settings, progress=lambda *_: None)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(InputError, match=r"file.* cannot be written: .*file is no folder"):
            run(RunSettings(folder, max_steps=1, **SMALL), progress=lambda *_: None)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise KeyError('answer')", r"reward 'own_reward.py:mine': .*own_reward.py line 2: KeyError: 'answer'"),
        ("import sys; sys.exit('enough')", r"own_reward.py line 2: SystemExit: enough"),
        ("return [1.0]", "'own_reward.py:mine' returned 1 rewards for 24 completions: return one for each"),
        ("return 1.0", "returned a float for 24 completions"),
        ("return ['1'] * len(completions)", "returned '1': a reward is a number, or None"),
        ("return [1j] * len(completions)", "returned 1j: a reward is a number"),
    ],
)
def test_what_a_reward_function_gives_is_checked(tmp_path, monkeypatch, body, message):
    (tmp_path / "own_reward.py").write_text(f"def mine(completions, **_):\n    {body}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        run(RunSettings(tmp_path / "out", reward="own_reward.py:mine", max_steps=1, **SMALL), progress=lambda *_: None)


JUDGES = """
import functools
import numpy as np
import torch

async def scores(completions, **_):
    return [1.0] * len(completions)

def scaled(completions, by, **_):
    return [by] * len(completions)

partial = functools.partial(functools.partial(scaled, by=1))

class Judge:
    async def __call__(self, completions, **_):
        return np.ones(len(completions), np.float16)

judge = Judge()

class Rule:
    def __call__(self, completions, **_):
        return [torch.tensor(1.0, requires_grad=True), np.float32(1), np.bool_(True)] + [1] * (len(completions) - 3)

rule = Rule()

def tensor(completions, **_):
    return torch.ones(len(completions), 1, dtype=torch.bfloat16, requires_grad=True)

def none(completions, **_):
    return [None, True] + [0] * (len(completions) - 2)

async def failing(completions, **_):
    raise ValueError("judge timed out")

async def short(completions, **_):
    return torch.ones(2)

async def words(completions, **_):
    return ["1"] * len(completions)

def wide(completions, **_):
    return torch.ones(len(completions), 2)
"""


def test_rewards_of_every_kind_are_named_as_trl_names_them_and_counted(tmp_path, monkeypatch):
    """Async functions, partials, callable objects, async ones; arrays and tensors of any type, None."""
    (tmp_path / "judges.py").write_text(JUDGES)
    monkeypatch.chdir(tmp_path)
    names = {"scores": "scores", "partial": "scaled", "judge": "Judge", "rule": "Rule", "tensor": "tensor"}
    for name, called in names.items():
        reward = load_reward(f"judges.py:{name}")
        assert get_callable_name(reward) == get_callable_name(load_object(f"judges.py:{name}", "reward")) == called
    every = ",".join(f"judges.py:{name}" for name in names)
    settings = RunSettings(tmp_path / "all", reward=every, selector=Recipe(success="Judge>=1"), max_steps=1, **SMALL)
    history = known(run(settings, progress=lambda *_: None).history)
    assert (history.success, history.num_successes.sum()) == ("Judge>=1", 24)
    assert known(history.reward_mean).tolist() == [5.0] * len(history)
    settings = RunSettings(tmp_path / "none", reward="judges.py:none", max_steps=1, **SMALL)
    assert known(run(settings, progress=lambda *_: None).history).num_successes.sum() == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("failing", r"reward 'judges.py:failing': .*judges.py line 33: ValueError: judge timed out"),
        ("short", "'judges.py:short' returned 2 rewards for 24 completions"),
        ("words", "'judges.py:words' returned '1': a reward is a number"),
        ("wide", r"'judges.py:wide' returned tensor\(\[1., 1.\]\): a reward is a number"),
        ("Judge", "'judges.py:Judge' is the class Judge: name a function, or an object that can be called"),
    ],
)
def test_what_async_functions_and_objects_give_is_checked(tmp_path, monkeypatch, name, message):
    (tmp_path / "judges.py").write_text(JUDGES)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        run(RunSettings(tmp_path / "out", reward=f"judges.py:{name}", max_steps=1, **SMALL), progress=lambda *_: None)
