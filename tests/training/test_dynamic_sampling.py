"""Dynamic sampling inside TRL's GRPOTrainer: a real trainer and a real, tiny model."""

from __future__ import annotations

import shutil
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import LlamaForCausalLM

import grpo_run
from grpo_run import CLOCKS, NUM_GENERATIONS, POOL, Grader, WatchedTrainer, assert_explained, clock
from known import known
from promptdyn.errors import InputError
from promptdyn.history import RewardHistory
from promptdyn.selection import Selector
from promptdyn.training.dynamic_sampling import DynamicSampling
from promptdyn.training.recipes import Recipe
from promptdyn.training.trl import SelectionGRPOTrainer

TEXT = dict(zip(POOL["prompt_id"], POOL["prompt"], strict=True))
RULE = DynamicSampling(max_rounds=3)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, WatchedTrainer]:
    finished = {}
    for name in CLOCKS:
        folder = tmp_path_factory.mktemp("run")
        finished[name] = grpo_run.trainer(folder, dynamic_sampling=RULE, **clock(name))
        finished[name].train()
    return finished


def history_of(run: WatchedTrainer) -> RewardHistory:
    return RewardHistory.from_parquet(Path(known(run.args.output_dir), "history.parquet"))


@pytest.mark.parametrize("name", CLOCKS)
def test_batches_hold_what_varies_and_all_is_observed(runs: dict[str, WatchedTrainer], name: str) -> None:
    run = runs[name]
    observed = run.selector.observed
    assert len(observed) == CLOCKS[name]["generations"]
    # Every rollout that was graded is observed, in its order.
    graded = [reward for _, _, _, rewards in run.reward_funcs[0].graded for reward in rewards]
    assert [reward for _, rewards, _ in observed for reward in rewards.ravel()] == graded
    batches = iter(run.trained)
    refilled = 0
    for chosen, rewards, observation in observed:
        good = (rewards.min(axis=1) < rewards.max(axis=1)).tolist()
        trained = observation.trained.tolist()
        size = run._generations.num_prompts
        assert sum(trained) == size <= len(chosen) <= size * RULE.max_rounds
        # Full of groups that vary, or out of rounds.
        assert sum(map(bool, np.logical_and(good, trained))) == min(sum(good), size)
        assert sum(good) >= size or len(chosen) > size
        refilled += len(chosen) > size
        kept = Counter(TEXT[i] for i, flag in zip(chosen, trained, strict=True) for _ in range(4) if flag)
        for _ in range(run.args.num_iterations):
            texts = chain.from_iterable(next(batches) for _ in range(known(run.args.steps_per_generation)))
            assert Counter(texts) == kept
    assert refilled


@pytest.mark.parametrize("name", CLOCKS)
def test_the_history_tells_what_was_trained_on(runs: dict[str, WatchedTrainer], name: str) -> None:
    run = runs[name]
    history = history_of(run)
    assert len(history) == sum(len(chosen) for chosen, _, _ in run.selector.observed)
    assert history.trained.sum() == run._generations.num_prompts * CLOCKS[name]["generations"]
    assert (~history.trained).any()
    steps = history.step.astype(np.int64) * history.num_prompts + history.prompt
    assert len(np.unique(steps)) == len(history)
    logs = [log for log in run.state.log_history if "selection/rounds" in log]
    assert_explained(logs[-1])
    assert all(1 <= log["selection/rounds"] <= 3 and 0 <= log["selection/full"] <= 1 for log in logs)
    if name == "plain":
        assert sum(log["selection/groups"] for log in logs) == len(history)


@pytest.mark.parametrize("name", ["plain", "several generations a step"])
def test_a_resumed_run_goes_on_alike(runs: dict[str, WatchedTrainer], name: str, tmp_path: Path) -> None:
    full = runs[name]
    shutil.copytree(known(full.args.output_dir), tmp_path / "run")
    resumed = grpo_run.trainer(tmp_path / "run", dynamic_sampling=RULE, **clock(name))
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
    half = CLOCKS[name]["generations"] // 2
    for mine, other in zip(resumed.selector.observed, full.selector.observed[half:], strict=True):
        assert mine[0] == other[0]
        np.testing.assert_array_equal(mine[1], other[1])
    weights = [sum(p.double().sum().item() for p in run.model.parameters()) for run in (full, resumed)]
    assert weights[0] == weights[1]


LOSSES = ["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "vespo", "luspo"]


@pytest.mark.parametrize("loss_type", LOSSES)
def test_joined_generations_have_the_loss_of_one(tmp_path: Path, loss_type: str) -> None:
    """The loss and its gradient are those of the same rollouts padded by TRL's own hand, no wider than they need."""
    grpo_run.model().save_pretrained(tmp_path / "start")  # the reference model is loaded by its name
    run = WatchedTrainer(
        LlamaForCausalLM.from_pretrained(tmp_path / "start"),
        Grader(),
        grpo_run.config(
            tmp_path,
            loss_type=loss_type,
            beta=0.1,
            num_iterations=2,
            **({"importance_sampling_level": "sequence"} if loss_type == "luspo" else {}),
        ),
        POOL,
        processing_class=grpo_run.tokenizer(),
        selector=grpo_run.selector(),
        dynamic_sampling=RULE,
    )
    run.model.train()
    run.current_gradient_accumulation_steps = 1
    rewards: list[torch.Tensor] = []
    for _ in range(6):
        run.state.global_step += 1  # as if it were the next, so that prompts may be chosen again
        run._generations_to_come = 0
        batch = run._generate_and_score_completions([{}] * 8)
        if run.selector.observed[-1][0][2:]:
            break
    assert len(run.selector.observed[-1][0]) > 2, "no generation was refilled"
    rewards = [group for _, group, _ in run.selector.observed[-1:]]
    tight = _tight(batch)
    slopes = []
    for inputs in (batch, tight):
        run.model.zero_grad()
        loss = run._compute_loss(run.model, dict(inputs))
        loss.backward()
        slopes.append(torch.cat([known(p.grad).flatten() for p in run.model.parameters()]))
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-4, atol=1e-6)
    assert slopes[0].abs().max() > 0
    assert batch["num_items_in_batch"] == batch["completion_mask"].sum()
    # Advantages are the groups' own.
    trained = run.selector.observed[-1][2].trained
    groups = np.asarray(rewards[0][trained])
    kept = (groups - groups.mean(axis=1, keepdims=True)) / (groups.std(axis=1, ddof=1, keepdims=True) + 1e-4)
    assert sorted(batch["advantages"].tolist()) == pytest.approx(sorted(kept.ravel()), abs=1e-5)


def _tight(batch: dict[str, Any]) -> dict[str, Any]:
    """The same rows without columns of padding alone, in another order."""
    tight = dict(batch)
    order = torch.arange(len(batch["advantages"])).flip(0)
    for mask, names in (
        ("prompt_mask", ("prompt_ids", "prompt_mask")),
        (
            "completion_mask",
            ("completion_ids", "completion_mask", "old_per_token_logps", "ref_per_token_logps"),
        ),
    ):
        used = batch[mask].any(dim=0)
        for name in names:
            tight[name] = batch[name][order][:, used]
    tight["advantages"] = batch["advantages"][order]
    return tight


def test_batch_scaled_advantages_are_those_of_the_joined_batch(tmp_path: Path) -> None:
    run = grpo_run.trainer(tmp_path, dynamic_sampling=RULE, scale_rewards="batch")
    run.model.train()
    batch = run._generate_and_score_completions([{}] * 8)
    _, rewards, observation = run.selector.observed[-1]
    groups = rewards[observation.trained]
    expected = (groups - groups.mean(axis=1, keepdims=True)) / (groups.std(ddof=1) + 1e-4)
    assert sorted(batch["advantages"].tolist()) == pytest.approx(sorted(expected.ravel()), abs=1e-5)


class Hopeless(Grader):
    @staticmethod
    def reward(prompt_id: str, completion: str) -> float:
        return 0.0


@pytest.mark.parametrize("at_cap", ["train", "drop", "raise"])
def test_a_cap_that_is_reached(tmp_path: Path, at_cap: Any) -> None:
    run = WatchedTrainer(
        grpo_run.model(),
        Hopeless(),
        grpo_run.config(tmp_path, max_steps=2),
        POOL,
        processing_class=grpo_run.tokenizer(),
        selector=grpo_run.selector(),
        dynamic_sampling=DynamicSampling(max_rounds=2, at_cap=at_cap),
    )
    if at_cap == "raise":
        with pytest.raises(
            InputError, match=r"step 0: 0 of 2 groups have mixed outcomes after 2 rounds .*: raise max_rounds"
        ):
            run.train()
        return
    run.train()
    history = history_of(run)
    assert len(history) == 8
    assert history.trained.sum() == (4 if at_cap == "train" else 0)
    logs = [log for log in run.state.log_history if "selection/full" in log]
    assert all(log["selection/full"] == 0 and log["selection/rounds"] == 2 for log in logs)
    assert all(np.isfinite(log["loss"]) for log in run.state.log_history if "loss" in log)


def test_a_small_pool_ends_the_rounds(tmp_path: Path) -> None:
    """Five prompts, batches of two: what later generations of the step need stays there for them."""
    pool = POOL.select(range(5))
    selector = grpo_run.WatchedSelector(grpo_run.DPS().online(grpo_run.prompts(pool)), num_generations=NUM_GENERATIONS)
    run = WatchedTrainer(
        grpo_run.model(),
        Hopeless(),
        grpo_run.config(
            tmp_path, max_steps=2, per_device_train_batch_size=4, gradient_accumulation_steps=4, steps_per_generation=2
        ),
        pool,
        processing_class=grpo_run.tokenizer(),
        selector=selector,
        dynamic_sampling=DynamicSampling(max_rounds=9),
    )
    run.train()
    assert [len(chosen) for chosen, _, _ in selector.observed] == [3, 2, 3, 2]


def test_enough_prompts_for_what_is_forecast() -> None:
    selector = Selector(grpo_run.DPS().online([str(i) for i in range(30)]), strategy="top")
    every = selector.select(30)
    assert len(every) == 30
    for _ in range(2):
        selector.observe(every, [[0.0, 1.0]] * 15 + [[0.0, 0.0]] * 15)
    forecast = dict(zip(selector.prompt_ids, selector.online.informative(8), strict=True))
    for enough in (0.5, 2.0, 7.0):
        chosen = selector.select(20, enough=enough)
        total = np.cumsum([forecast[i] for i in chosen])
        assert total[-1] >= enough
        assert len(chosen) == 1 or total[-2] < enough
        assert len(selector.select(20, enough=enough, multiple_of=4)) == -(-len(chosen) // 4) * 4
    assert len(selector.select(6, enough=100.0)) == 6


def test_flags_say_what_was_trained() -> None:
    selector = Selector(grpo_run.DPS().online(["a", "b"]))
    seen = selector.observe(["a", "b"], [[None, None], [0, 1]], trained=[True, False])
    assert (seen.prompt_ids, seen.trained.tolist()) == (["b"], [False])
    with pytest.raises(InputError, match=r"trained has shape \(1,\) for 2 prompts"):
        selector.observe(["a", "b"], [[0, 1], [0, 1]], trained=[True])
    assert selector.online.steps == 1


class Judged(Grader):
    """As a reward model gives them: 1 and 0.9999999."""

    def __call__(self, *args: Any, **named: Any) -> list[float]:
        return [reward - 1e-7 * (i % 2) for i, reward in enumerate(super().__call__(*args, **named))]


def length(completion_ids: Any, **_: Any) -> list[float]:
    """A reward that differs in every group, and says nothing of success."""
    return [len(ids) / 4 + 0.01 * (i % 4) for i, ids in enumerate(completion_ids)]


@pytest.mark.parametrize("keep", ["success", "reward"])
@pytest.mark.parametrize("rewards", ["rounding", "two functions", "auto"])
def test_what_is_kept_is_what_was_asked_for(tmp_path: Path, keep: Any, rewards: str) -> None:
    """By mixed outcomes or by the reward, and rounding is neither; what the log says of it is so."""
    functions = [Judged()] if rewards == "rounding" else [Grader(), length]
    success = "letters" if rewards == "two functions" else "auto"  # 32 rollouts are too few for "auto" to tell
    run = WatchedTrainer(
        grpo_run.model(),
        functions,
        grpo_run.config(tmp_path, max_steps=4),
        POOL,
        processing_class=grpo_run.tokenizer(),
        selector=grpo_run.selector(success=success),
        dynamic_sampling=DynamicSampling(max_rounds=3, keep=keep),
    )
    run.train()
    letters = iter([reward for *_, graded in run.reward_funcs[0].graded for reward in graded])
    expected = []
    for chosen, _, observation in run.selector.observed:
        outcomes = [{next(letters) for _ in range(NUM_GENERATIONS)} for _ in chosen]
        if rewards == "rounding" or (rewards, keep) == ("two functions", "success"):
            mixed = np.array([len(both) == 2 for both in outcomes])
            assert mixed.sum() >= 2 or len(chosen) == 6
            expected.append(mixed[observation.trained].mean())
        else:  # all rewards differ
            assert len(chosen) == 2
            expected.append(1.0)
    assert [log["selection/full"] for log in run.state.log_history if "selection/full" in log] == expected


def test_a_cap_is_filled_with_what_has_a_gradient(tmp_path: Path) -> None:
    run = WatchedTrainer(
        grpo_run.model(),
        [Hopeless(), lambda prompt_id, **_: [0.1 * (i % 4) * (j != "p0") for i, j in enumerate(prompt_id)]],
        grpo_run.config(tmp_path, max_steps=6),
        POOL.select(range(3)),
        processing_class=grpo_run.tokenizer(),
        selector=grpo_run.WatchedSelector(
            grpo_run.DPS().online(["p0", "p1", "p2"]), num_generations=NUM_GENERATIONS, success="letters>=1"
        ),
        dynamic_sampling=DynamicSampling(max_rounds=1),
    )
    run.train()
    assert all(observation.trained.all() for _, _, observation in run.selector.observed)


@pytest.mark.parametrize(
    ("given", "recipe", "expected"),
    [
        (True, "uniform", DynamicSampling()),
        (False, "dynamic_sampling", None),
        (None, "uniform", None),
        (None, Recipe(max_rounds=3, at_cap="drop", keep="reward"), DynamicSampling(3, "drop", "reward")),
    ],
)
def test_how_it_is_asked_for(tmp_path: Path, given: Any, recipe: Any, expected: DynamicSampling | None) -> None:
    assert grpo_run.trainer(tmp_path, selector=recipe, dynamic_sampling=given).dynamic_sampling == expected


def test_mixed_outcomes_are_told_before_they_are_learned() -> None:
    ids = ["a", "b", "c"]
    selector = Selector(grpo_run.DPS().online(ids))
    assert known(selector.mixed(ids, [[0, 1], [1, 1 - 1e-7], [None, None]])).tolist() == [True, False, False]
    assert selector.mixed(["a"], {"x": [[0.1, 0.7, 0.4]]}) is None  # "auto" cannot tell yet
    assert selector.success == "0.5"
    assert selector.online.steps == 0
    by_name = Selector(grpo_run.DPS().online(ids), success="x>=0.5")
    assert known(by_name.mixed(["c", "a"], {"x": [[0, 1], [1, 1]], "y": [[0, 0], [0, 1]]})).tolist() == [True, False]
    with pytest.raises(InputError, match="no reward function is called 'x'"):
        by_name.mixed(["a"], {"y": [[0, 1]]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_rounds": 0}, "max_rounds=0"),
        ({"at_cap": "stop"}, "at_cap='stop' is none of train, drop, raise"),
        ({"keep": "all"}, "keep='all' is none of success, reward"),
    ],
)
def test_bad_settings_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DynamicSampling(**change)


@pytest.mark.parametrize(
    ("pool", "change", "message"),
    [
        (POOL, {"multi_objective_aggregation": "normalize_then_sum"}, "scales advantages over a generation"),
        (POOL.add_column("image", [None] * len(POOL)), {}, r"images \(column 'image'\)"),
    ],
)
def test_what_cannot_be_joined_is_told_first(tmp_path: Path, pool: Dataset, change: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SelectionGRPOTrainer(
            "no/such-model", Grader(), grpo_run.config(tmp_path, **change), pool, dynamic_sampling=RULE
        )
