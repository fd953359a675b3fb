"""Selection inside TRL's GRPOTrainer: a real trainer and a real, tiny model; nothing is mocked."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, IterableDataset

import grpo_run
from grpo_run import CLOCKS, NUM_GENERATIONS, POOL, Grader, WatchedTrainer, assert_explained, clock, history_of, rows
from known import known
from promptdyn.errors import InputError
from promptdyn.history import RewardHistory
from promptdyn.models import DPS
from promptdyn.selection import Selector
from promptdyn.training.dataset import prompt_ids, prompts
from promptdyn.training.recipes import Recipe
from promptdyn.training.trl import SelectionGRPOTrainer

SCRIPT = Path(grpo_run.__file__)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, WatchedTrainer]:
    """One finished run of each configuration."""
    finished = {}
    for name in CLOCKS:
        finished[name] = grpo_run.trainer(tmp_path_factory.mktemp("run"), **clock(name))
        finished[name].train()
    return finished


@pytest.mark.parametrize("name", CLOCKS)
def test_choice_knows_the_rewards_of_the_generation_before(runs: dict[str, WatchedTrainer], name: str) -> None:
    calls = runs[name].selector.calls
    assert [call[0] for call in calls] == ["select", "observe"] * CLOCKS[name]["generations"]
    assert [call[1] for call in calls[::2]] == [call[1] for call in calls[1::2]]


@pytest.mark.parametrize("name", CLOCKS)
def test_trains_on_whole_groups_of_the_selected_prompts(runs: dict[str, WatchedTrainer], name: str) -> None:
    run = runs[name]
    text = dict(zip(POOL["prompt_id"], POOL["prompt"], strict=True))
    micro_batches = known(run.args.steps_per_generation)
    for i, chosen in enumerate(run.selector.selected):
        whole = Counter({text[prompt_id]: NUM_GENERATIONS for prompt_id in chosen})
        for iteration in range(run.args.num_iterations):
            start = (i * run.args.num_iterations + iteration) * micro_batches
            assert Counter(chain.from_iterable(run.trained[start : start + micro_batches])) == whole


@pytest.mark.parametrize("name", CLOCKS)
def test_observed_rewards_are_those_of_the_completions(runs: dict[str, WatchedTrainer], name: str) -> None:
    run = runs[name]
    grader = run.reward_funcs[0]
    assert len(grader.graded) == len(run.selector.observed)
    for (_, ids, completions, _), (chosen, rewards, _) in zip(grader.graded, run.selector.observed, strict=True):
        assert ids == [prompt_id for prompt_id in chosen for _ in range(NUM_GENERATIONS)]
        expected = [grader.reward(prompt_id, text) for prompt_id, text in zip(ids, completions, strict=True)]
        assert rewards.shape == (len(chosen), NUM_GENERATIONS)
        assert rewards.ravel().tolist() == expected


@pytest.mark.parametrize("name", CLOCKS)
def test_history_is_what_was_observed(runs: dict[str, WatchedTrainer], name: str) -> None:
    run = runs[name]
    history = history_of(known(run.args.output_dir))
    steps = [graded[0] for graded in run.reward_funcs[0].graded]
    expected = [
        (step, prompt_id, NUM_GENERATIONS, int(group.sum()), True)
        for step, (chosen, rewards, _) in zip(steps, run.selector.observed, strict=True)
        for prompt_id, group in zip(chosen, rewards, strict=True)
    ]
    assert rows(history) == sorted(expected)
    assert len({row[:2] for row in expected}) == len(expected)  # (step, prompt) is unique
    task = dict(zip(POOL["prompt_id"], POOL["task"], strict=True))
    assert list(history.prompts.labels("task")) == [task[prompt_id] for prompt_id in history.prompt_ids]


@pytest.mark.parametrize("name", CLOCKS)
def test_metrics_are_logged_at_every_step(runs: dict[str, WatchedTrainer], name: str) -> None:
    logs = [log for log in runs[name].state.log_history if "loss" in log]
    assert len(logs) == 8
    assert all(log["selection/time_s"] >= 0 and 0 <= log["selection/overhead"] < 1 for log in logs)
    generated = [log for log in logs if log["selection/time_s"] > 0]
    assert generated
    for log in generated:
        assert {f"selection/{metric}" for metric in runs[name].selector.metrics()} <= log.keys()
        assert_explained(log)


@pytest.mark.parametrize("name", CLOCKS)
def test_resumed_run_continues_as_if_never_stopped(runs: dict[str, WatchedTrainer], name: str, tmp_path: Path) -> None:
    full = runs[name]
    # The copied history goes on past the checkpoint, as that of a run that died later does.
    shutil.copytree(known(full.args.output_dir), tmp_path / "run")
    resumed = grpo_run.trainer(tmp_path / "run", **clock(name))
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
    half = CLOCKS[name]["generations"] // 2
    assert resumed.selector.selected == full.selector.selected[half:]
    assert resumed.rewards == full.rewards[half:]
    assert rows(history_of(tmp_path / "run")) == rows(history_of(known(full.args.output_dir)))
    weights = [sum(p.double().sum().item() for p in run.model.parameters()) for run in (full, resumed)]
    assert weights[0] == weights[1]


def test_resume_in_the_middle_of_reused_rollouts_generates_afresh(tmp_path: Path) -> None:
    reused = clock("iterations")
    stopped = grpo_run.trainer(tmp_path, **reused, max_steps=3, save_steps=3)
    stopped.train()
    resumed = grpo_run.trainer(tmp_path, **reused, max_steps=7)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.selector.online.steps == 4  # two generations before, and two after
    generated = [graded[0] for run in (stopped, resumed) for graded in run.reward_funcs[0].graded]
    chosen = stopped.selector.selected + resumed.selector.selected
    history = history_of(tmp_path)
    assert generated == [0, 2, 3, 5]
    assert sorted(row[:2] for row in rows(history)) == sorted(
        (step, prompt_id) for step, ids in zip(generated, chosen, strict=True) for prompt_id in ids
    )


@pytest.mark.long
def test_killed_run_resumes_as_if_never_killed(runs: dict[str, WatchedTrainer], tmp_path: Path) -> None:
    died = subprocess.run(
        [sys.executable, str(SCRIPT), "die", str(tmp_path), "6"], capture_output=True, text=True, timeout=120
    )
    assert died.returncode == 9, died.stderr
    assert "jax imported: False" in died.stdout
    assert not (tmp_path / "checkpoint-8").exists()
    resumed = grpo_run.trainer(tmp_path)
    resumed.train(resume_from_checkpoint=True)
    full = runs["plain"]
    assert resumed.selector.selected == full.selector.selected[4:]
    assert rows(history_of(tmp_path)) == rows(history_of(known(full.args.output_dir)))


def test_two_processes_choose_the_same_and_see_the_same(tmp_path: Path) -> None:
    call = [sys.executable, str(SCRIPT), "pair", str(tmp_path)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    for run, generations in (("full", 8), ("resumed", 4)):
        main, other = (rank[run] for rank in ranks)
        assert len(main["selected"]) == len(main["observed"]) == generations
        assert other["selected"] == other["observed"] == []
        assert main["rewards"] == other["rewards"]
        assert main["weights"] == other["weights"]
        for chosen, *shares in zip(main["selected"], main["shares"], other["shares"], strict=True):
            assert list(chain.from_iterable(shares)) == [
                prompt_id for prompt_id in chosen for _ in range(NUM_GENERATIONS)
            ]
        assert [list(chain.from_iterable(groups)) for groups in main["observed"]] == main["rewards"]
    for rank in ranks:
        assert rank["resumed"]["selected"] == rank["full"]["selected"][4:]
        assert rank["resumed"]["shares"] == rank["full"]["shares"][4:]
        assert rank["resumed"]["weights"] == rank["full"]["weights"]
    main, other = (rank["refilled"] for rank in ranks)
    assert main["weights"] == other["weights"]
    assert main["rewards"] == other["rewards"]
    text = dict(zip(POOL["prompt_id"], POOL["prompt"], strict=True))
    shown = [group for groups in main["observed"] for group in groups]
    assert [reward for group in shown for reward in group] == list(chain.from_iterable(main["rewards"]))
    assert len(shown) == sum(map(len, main["selected"])) > 32  # more than the batches hold
    trained = [prompt_id for groups in main["trained"] for prompt_id in groups]
    assert sum(trained) == 32
    ids = chain.from_iterable(main["selected"])
    kept = Counter(text[prompt_id] for prompt_id, flag in zip(ids, trained, strict=True) for _ in range(4) if flag)
    assert Counter(chain(*main["texts"], *other["texts"])) == kept

    histories = [history_of(tmp_path / run) for run in ("full", "resumed")]
    assert rows(histories[0]) == rows(histories[1])
    assert len(histories[0]) == sum(len(chosen) for chosen in ranks[0]["full"]["selected"])


def test_evaluation_is_untouched(tmp_path: Path) -> None:
    questions = Dataset.from_list([{"prompt": f"{i}{i}", "prompt_id": f"e{i}", "task": "-"} for i in range(4)])
    run = grpo_run.trainer(
        tmp_path, eval_dataset=questions, eval_strategy="steps", eval_steps=2, per_device_eval_batch_size=8
    )
    run.train()
    graded: Counter[str] = Counter()
    for _, ids, _, _ in run.reward_funcs[0].graded:
        assert len({prompt_id[0] for prompt_id in ids}) == 1  # rows of a pool and of an evaluation never mix
        graded.update(prompt_id for prompt_id in ids if prompt_id.startswith("e"))
    assert graded == dict.fromkeys(questions["prompt_id"], 4 * NUM_GENERATIONS)
    assert [call[0] for call in run.selector.calls] == ["select", "observe"] * 8
    evaluated = [log for log in run.state.log_history if "eval_loss" in log]
    assert len(evaluated) == 4
    assert not any("selection" in key for log in evaluated for key in log)


def test_rewards_are_weighted_and_unscored_rollouts_are_not_counted(tmp_path: Path) -> None:
    def half(prompt_id: list[str], **_: Any) -> list[float | None]:
        return [None if i % NUM_GENERATIONS == 0 else 1.0 for i in range(len(prompt_id))]

    def other(prompt_id: list[str], **_: Any) -> list[float | None]:
        return [None if i % NUM_GENERATIONS < 2 else 4.0 for i in range(len(prompt_id))]

    selector = grpo_run.selector(success=2.0)
    run = SelectionGRPOTrainer(
        grpo_run.model(),
        [half, other],
        grpo_run.config(tmp_path, max_steps=1, reward_weights=[2.0, 0.25]),
        POOL,
        processing_class=grpo_run.tokenizer(),
        selector=selector,
        history_path=tmp_path / "elsewhere" / "seen.parquet",
    )
    run.train()
    ((_, rewards, observation),) = selector.observed
    np.testing.assert_array_equal(rewards, [[math.nan, 2.0, 3.0, 3.0]] * 2)
    assert observation.num_rollouts.tolist() == observation.num_successes.tolist() == [3, 3]
    assert len(RewardHistory.from_parquet(tmp_path / "elsewhere" / "seen.parquet")) == 2


def test_a_dataset_that_repeats_itself_is_trained_on_once(tmp_path: Path) -> None:
    twice = Dataset.from_list([*POOL, *POOL])
    trained = SelectionGRPOTrainer(
        grpo_run.model(),
        grpo_run.Grader(),
        grpo_run.config(tmp_path),
        twice,
        processing_class=grpo_run.tokenizer(),
        selector="dps",
    )
    assert tuple(trained.selector.prompt_ids) == prompts(POOL).ids == prompts(twice).ids == tuple(prompt_ids(twice))
    assert known(trained.train_dataset).num_rows == len(POOL)


def selector_of(ids: list[str], num_generations: int = NUM_GENERATIONS) -> Selector:
    return Selector(DPS().online(ids), num_generations=num_generations)


BAD_INPUT: dict[str, tuple[dict[str, Any], str]] = {
    "stream": (
        {"train_dataset": IterableDataset.from_generator(lambda: iter(POOL))},
        r"IterableDataset.*Dataset\.from_list\(list\(stream\)\)",
    ),
    "no dataset": ({"train_dataset": None}, r"type NoneType.*give a datasets\.Dataset"),
    "an id twice": (
        {"train_dataset": Dataset.from_list([*POOL, {**POOL[0], "prompt_id": "p7"}])},
        r"prompt id 'p7' is that of rows 7 and 12, which differ: make the ids unique",
    ),
    "small pool": (
        {"train_dataset": POOL.select([0])},
        r"has 1 prompts, and one optimizer step takes 2 different ones",
    ),
    "small pool for an optimizer step": (
        {"gradient_accumulation_steps": 8, "steps_per_generation": 1},
        r"has 12 prompts, and one optimizer step takes 16 different ones",
    ),
    "prompt unknown to the selector": (
        {"selector": selector_of(POOL["prompt_id"][:-1])},
        r"prompt 'p11' is not in the selector's pool \(11 prompts in the pool, 12 in the dataset\)",
    ),
    "prompt unknown to the dataset": (
        {"selector": selector_of([*POOL["prompt_id"], "p99"])},
        r"prompt 'p99' is not in the dataset",
    ),
    "other group size": (
        {"selector": selector_of(POOL["prompt_id"], num_generations=8)},
        r"forecasts groups of 8 rollouts, .* 4: pass num_generations=4 to the Selector",
    ),
    "an empty id": (
        {"train_dataset": Dataset.from_list([*POOL, {**POOL[0], "prompt_id": None}])},
        r"row 12 of the dataset has an empty 'prompt_id'",
    ),
    "a history's own column": (
        {"label_columns": ["prompt_id"]},
        r"'prompt_id' has the name of a history's own column",
    ),
    "label column": (
        {"label_columns": ["topic"]},
        "there is no column 'topic': give one of prompt, prompt_id, task, or add it",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_named(case: str, tmp_path: Path) -> None:
    given, message = BAD_INPUT[case]
    own = {"train_dataset": POOL, "selector": grpo_run.selector(), "label_columns": ()}
    args = grpo_run.config(tmp_path, **{name: value for name, value in given.items() if name not in own})
    with pytest.raises(InputError, match=message):
        SelectionGRPOTrainer(
            grpo_run.model(),
            grpo_run.Grader(),
            args,
            processing_class=grpo_run.tokenizer(),
            **{name: given.get(name, value) for name, value in own.items()},
        )


def test_checkpoint_of_another_pool_or_without_a_selector(
    runs: dict[str, WatchedTrainer], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = tmp_path / "run" / "checkpoint-4"
    shutil.copytree(known(runs["plain"].args.output_dir), tmp_path / "run")
    others = Dataset.from_list([{**row, "prompt_id": f"e{i}"} for i, row in enumerate(POOL)])
    with pytest.raises(
        InputError, match=r"selector\.npz: the state was saved for another pool: none of its 12 prompts, "
    ):
        grpo_run.trainer(tmp_path / "run", pool=others, selector=selector_of(others["prompt_id"])).train(
            str(checkpoint)
        )
    (checkpoint / "selector.npz").unlink()
    (tmp_path / "run" / "history.parquet").unlink()
    resumed = grpo_run.trainer(tmp_path / "run", max_steps=5)
    resumed.train(str(checkpoint))
    assert "selector.npz does not exist" in caplog.text
    assert "the history begins at step 4" in caplog.text
    assert [row[0] for row in rows(history_of(tmp_path / "run"))] == [4, 4]
    assert history_of(tmp_path / "run").pool_size == len(POOL)


def test_auto_goes_by_label_columns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pool = Dataset.from_list([{**row, "prompt_id": f"e{i}"} for i, row in enumerate([*POOL] * 2)])
    run = SelectionGRPOTrainer(
        grpo_run.model(), Grader(), grpo_run.config(tmp_path, max_steps=2), pool, processing_class=grpo_run.tokenizer()
    )
    model: Any = run.selector.online.model
    assert (model.name, model.cluster) == ("rate", ("task",))
    assert "prompts of like task (2 kinds)" in caplog.text
    run.train()
    history = history_of(tmp_path)
    assert set(history.columns) == {"task"}
    assert model.name == "rate"


def test_without_labels_auto_goes_by_what_the_policy_reads(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Read once by the start policy, read anew when asked; a resumed run chooses the same."""
    recipe = Recipe(refresh_features=2)
    runs = {}
    for name, checkpoint in (("whole", None), ("resumed", str(tmp_path / "whole" / "checkpoint-3"))):
        if checkpoint:
            shutil.copytree(tmp_path / "whole", tmp_path / name)
        run = grpo_run.WatchedTrainer(
            grpo_run.model(),
            Grader(),
            grpo_run.config(tmp_path / name, max_steps=6, save_steps=3),
            POOL.remove_columns("task"),
            processing_class=grpo_run.tokenizer(),
            selector=recipe,
        )
        first = run.selector.online._state.features.copy()
        run.train(resume_from_checkpoint=checkpoint)
        runs[name] = run
    assert caplog.text.count("the policy's reading of each") == 2
    assert (tmp_path / "whole" / "features.npz").is_file()
    assert not np.array_equal(first, run.selector.online._state.features)
    assert runs["resumed"].trained == runs["whole"].trained[3:]
    one, other = (run.selector.online.informative(4) for run in runs.values())
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("hmm", "model 'hmm' must be fitted first"),
        (
            "rate:cluster=topic",
            "cluster='topic': there is no column 'topic': give one of prompt, prompt_id, task",
        ),
        (
            "features:features=embedding",
            "features='embedding': there is no column 'embedding': give one of",
        ),
        ("gp", "no selector is called 'gp'"),
        (Recipe("dps", refresh_features=3), "refresh_features=3: give 0"),
    ],
)
def test_recipes_that_cannot_be_followed_are_told_before_a_model_is_loaded(
    tmp_path: Path, recipe: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        SelectionGRPOTrainer("no/such-model", Grader(), grpo_run.config(tmp_path), POOL, selector=recipe)
