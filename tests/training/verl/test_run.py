"""Whole runs of verl on the CPU, with the package's small policy: real rollouts, weights and checkpoints."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset

from promptdyn.history import RewardHistory
from promptdyn.readers import read_history
from promptdyn.training.dataset import prompt_rows
from promptdyn.training.tasks import make_pool
from verl_run import BATCH, row, whole_run, write_inputs

pytestmark = [pytest.mark.verl, pytest.mark.long, pytest.mark.filterwarnings("ignore")]

BY_ABILITY = '+trainer.v1.sampler.sampler_kwargs.selector="rate:cluster=ability"'
Row = tuple[int, str, int, int]  # step, prompt id or prompt, n, k


def ran(inputs: Path, output: Path, *settings: str) -> str:
    """Run verl; returns what it printed."""
    done = whole_run(inputs, output, *settings)
    printed = done.stdout + done.stderr
    assert done.returncode == 0, printed[-8000:]
    return printed


def recorded(output: Path) -> RewardHistory:
    return RewardHistory.from_parquet(output / "history.parquet")


def of_history(history: RewardHistory, trained: bool) -> list[Row]:
    rows = history.trained == trained
    ids = history.prompt_ids[history.prompt[rows]].tolist()
    columns = (history.num_rollouts[rows], history.num_successes[rows])
    return sorted(zip(history.step[rows].tolist(), ids, *(column.tolist() for column in columns), strict=True))


def assert_dump_agrees(inputs: Path, output: Path) -> None:
    """Check that verl's own dump of rollouts, as the reader counts it, tells what was recorded as trained on."""
    data = Dataset.from_parquet(str(inputs / "train.parquet"), cache_dir=str(output / "cache"))
    prompt = {prompt_id: data[row]["prompt"][0]["content"] for prompt_id, row in prompt_rows(data).items()}
    trained = of_history(recorded(output), trained=True)
    dumped = read_history(output / "rollouts")
    assert dumped.trained.all()
    assert of_history(dumped, trained=True) == sorted(
        (step, prompt[prompt_id], n, k) for step, prompt_id, n, k in trained
    )


def test_sync_mode_records_what_verl_trains_on_and_resumes(inputs: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    printed = ran(inputs, whole, BY_ABILITY, "trainer.total_training_steps=6")
    assert "prompts are chosen by rate:cluster=ability" in printed
    steps = [json.loads(line)["data"] for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [step["selection/in_flight"] for step in steps] == [0.0] * 6
    assert steps[-1]["selection/coverage"] > steps[0]["selection/coverage"] > 0
    history = recorded(whole)
    assert Counter(history.step.tolist()) == dict.fromkeys(range(1, 7), BATCH)
    assert history.trained.all()
    assert_dump_agrees(inputs, whole)

    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "global_step_6")
    (cut / "latest_checkpointed_iteration.txt").write_text("4")
    ran(inputs, cut, BY_ABILITY, "trainer.total_training_steps=6")
    before, after = (of_history(each, trained=True) for each in (history, recorded(cut)))
    assert after[: 4 * BATCH] == before[: 4 * BATCH]
    assert Counter(step for step, *_ in after) == dict.fromkeys(range(1, 7), BATCH)
    # The choice depends on what was learned before; what is learned from it, on rollouts that are sampled anew.
    chosen_next = [[prompt_id for step, prompt_id, *_ in rows if step == 5] for rows in (before, after)]
    assert chosen_next[0] == chosen_next[1]
    assert_dump_agrees(inputs, cut)


def test_groups_that_verl_filters_are_recorded_as_not_trained(inputs: Path, tmp_path: Path) -> None:
    filtering = ["algorithm.filter_groups.enable=True", "algorithm.filter_groups.metric=acc"]
    ran(inputs, tmp_path / "run", BY_ABILITY, *filtering)
    history = recorded(tmp_path / "run")
    assert np.count_nonzero(history.trained) == 4 * BATCH
    assert np.count_nonzero(~history.trained) > 0
    assert all(0 < k < n for _, _, n, k in of_history(history, trained=True))
    assert_dump_agrees(inputs, tmp_path / "run")


def test_prompts_in_flight_at_a_checkpoint_are_trained_next(inputs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    mode = "trainer.v1.trainer_mode=colocate_async"
    ran(inputs, run, BY_ABILITY, mode, "trainer.total_training_steps=4")
    first = of_history(recorded(run), trained=True)
    ran(inputs, run, BY_ABILITY, mode, "trainer.total_training_steps=6")
    history = recorded(run)
    assert of_history(history, trained=True)[: len(first)] == first
    assert Counter(history.step.tolist()) == dict.fromkeys(range(1, 7), BATCH)
    assert_dump_agrees(inputs, run)


def test_separate_servers_and_several_mini_batches_a_step(inputs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    separate = [
        "trainer.v1.trainer_mode=separate_async",
        "trainer.v1.separate_async.parameter_sync_step=4",
        "actor_rollout_ref.hybrid_engine=False",
        "actor_rollout_ref.actor.ppo_mini_batch_size=2",
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=8",
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=8",
        "actor_rollout_ref.rollout.nnodes=1",
        "actor_rollout_ref.rollout.checkpoint_engine.backend=cpu_file",
        "++ray_kwargs.ray_init.num_gpus=2",
    ]
    ran(inputs, run, BY_ABILITY, *separate)
    history = recorded(run)
    assert Counter(history.step.tolist()) == dict.fromkeys(range(1, 5), BATCH)
    assert_dump_agrees(inputs, run)


def test_auto_finds_more_groups_that_vary_than_uniform(tmp_path: Path) -> None:
    pool = [
        row(
            made["prompt"],
            made["answer"],
            data_source=made["task"],
            difficulty=str(made["difficulty"]),
            prompt_id=made["prompt_id"],
        )
        for made in make_pool("scarce", 2000, seed=0)
    ]
    share: dict[str, list[float]] = {"uniform": [], "auto": []}
    for seed in range(3):
        inputs = tmp_path / f"inputs-{seed}"
        inputs.mkdir()
        write_inputs(inputs, pool)
        for selector, shares in share.items():
            run = tmp_path / f"{selector}-{seed}"
            ran(
                inputs,
                run,
                f"+trainer.v1.sampler.sampler_kwargs.selector={selector}",
                "+trainer.v1.sampler.sampler_kwargs.id_column=prompt_id",
                f"data.seed={seed}",
                "data.train_batch_size=16",
                "actor_rollout_ref.rollout.n=8",
                "actor_rollout_ref.actor.ppo_mini_batch_size=16",
                "actor_rollout_ref.actor.optim.lr=1e-4",
                "trainer.total_training_steps=40",
                "trainer.save_freq=-1",
            )
            history = recorded(run)
            assert len(history) == 40 * 16
            varies = (history.num_successes > 0) & (history.num_successes < history.num_rollouts)
            shares.append(float(varies.mean()))
            print(f"seed {seed}: {selector}: groups that vary {shares[-1]:.3f}")
    assert min(share["auto"]) > max(share["uniform"])
    assert np.mean(share["auto"]) > 1.5 * np.mean(share["uniform"])
