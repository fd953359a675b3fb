"""Selection in verl's own driver, in each of its modes: choices, what is learned and recorded, and resuming."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from promptdyn.history import RewardHistory
from verl_run import BATCH, GROUP, NUM_PROMPTS, Driver, MadeUpRollouts, empty_queue, successes

pytestmark = [pytest.mark.verl, pytest.mark.filterwarnings("ignore")]

MakeDriver = Callable[..., Driver]
DAPO = ["algorithm.filter_groups.enable=True", "algorithm.filter_groups.metric=reward"]
ASYNC = ["trainer.v1.trainer_mode=colocate_async"]
SEPARATE = [
    "trainer.v1.trainer_mode=separate_async",
    "trainer.v1.separate_async.parameter_sync_step=4",
    "actor_rollout_ref.actor.ppo_mini_batch_size=2",
    "actor_rollout_ref.rollout.nnodes=1",
    "actor_rollout_ref.rollout.n_gpus_per_node=1",
    "actor_rollout_ref.rollout.checkpoint_engine.backend=nccl",
]


def rows(driver: Driver) -> dict[int, dict[str, tuple[int, int, bool]]]:
    """The history: step -> prompt id -> (n, k, trained)."""
    driver.session.write()
    history = RewardHistory.from_parquet(driver.session.recorder.path)
    by_step: dict[int, dict[str, tuple[int, int, bool]]] = {}
    ids = history.prompt_ids[history.prompt].tolist()
    columns = (history.step, history.num_rollouts, history.num_successes, history.trained)
    for prompt_id, step, n, k, trained in zip(ids, *(column.tolist() for column in columns), strict=True):
        assert prompt_id not in by_step.setdefault(step, {})
        by_step[step][prompt_id] = (n, k, trained)
    return by_step


def prompt_of(driver: Driver) -> dict[str, str]:
    """The prompt of each id."""
    messages = driver.trainer.train_dataset.dataframe["prompt"]
    return dict(zip(driver.session.selector.prompt_ids, (each[0]["content"] for each in messages), strict=True))


def test_sync_mode_chooses_learns_records_and_goes_on_as_if_it_had_not_stopped(
    driver: MakeDriver, tmp_path: Path
) -> None:
    import torch

    run, sent = driver(), []
    logged: dict[str, float] = {}
    steps_an_epoch, num_steps = run.trainer.steps_per_epoch, 10
    assert steps_an_epoch < num_steps  # the data's end is passed
    for step in range(num_steps):
        torch.save(run.trainer.train_dataloader.state_dict(), tmp_path / f"{step}.pt")
        ids, (batch,), logged = run.step()
        assert len(batch.keys) == BATCH * GROUP
        assert len(set(ids)) == BATCH
        assert not run.session.in_flight
        sent.append(ids)
    assert logged["selection/coverage"] == len({prompt_id for ids in sent for prompt_id in ids}) / NUM_PROMPTS
    assert 0 < logged["selection/informative"] <= 1
    averaged_otherwise = ("max", "min", "sum", "total", "mean", "avg", "average", "/lr", "_lr", "timing_s/")
    assert not [name for name in logged for word in averaged_otherwise if word in name]  # by verl's metrics
    prompts, recorded = prompt_of(run), rows(run)
    expected = [{i: (GROUP, int(sum(successes(prompts[i]))), True) for i in ids} for ids in sent]
    assert [recorded[step] for step in range(1, num_steps + 1)] == expected

    for step in (0, 3, 7, 9):
        again = driver()
        again.trainer.train_dataloader.load_state_dict(torch.load(tmp_path / f"{step}.pt", weights_only=False))
        again.trainer.global_steps = step + 1
        assert [again.step()[0] for _ in range(step, num_steps)] == sent[step:]
        assert rows(again) == recorded
    assert driver("data.seed=2").step()[0] != sent[0]


def test_groups_that_verl_filters_are_learned_from_and_replaced_by_the_selector(driver: MakeDriver) -> None:
    run = driver(*DAPO)
    for step in range(1, 3):
        ids, (batch,), _ = run.step()
        groups = rows(run)[step]
        assert set(groups) == set(ids)
        assert len(ids) > BATCH
        trained = {prompt_id: k for prompt_id, (_, k, trained) in groups.items() if trained}
        assert len(trained) == BATCH
        assert all(0 < k < GROUP for k in trained.values())
        assert len(batch.keys) == BATCH * GROUP
        assert not run.session.in_flight


def test_no_prompt_in_flight_is_chosen_in_asynchronous_mode(driver: MakeDriver) -> None:
    run = driver(*ASYNC, rollouts=MadeUpRollouts(late=BATCH))
    run.trainer._add_prompts_to_generate(BATCH)
    for step in range(1, 7):
        before = set(run.session.in_flight)
        ids, _, logged = run.step()
        assert len(before) == len(run.session.in_flight) == logged["selection/in_flight"] == BATCH
        assert not before.intersection(ids)
        assert set(rows(run)[step]) == before


def test_an_asynchronous_run_resumes_with_its_prompts_in_flight(driver: MakeDriver, tmp_path: Path) -> None:
    import torch
    import transfer_queue

    run, sent = driver(*ASYNC, rollouts=MadeUpRollouts(late=BATCH)), []
    run.trainer._add_prompts_to_generate(BATCH)
    in_flight: list[Any] = []
    for step in range(5):
        if step == 3:
            torch.save(run.trainer.train_dataloader.state_dict(), tmp_path / "data.pt")
            transfer_queue.save_checkpoint(str(tmp_path / "queue"), metadata={"global_steps": step})
            in_flight = list(run.rollouts.waiting)
        sent.append(run.step()[0])
    recorded = rows(run)

    empty_queue()
    again = driver(*ASYNC, rollouts=MadeUpRollouts(late=BATCH))
    again.trainer.train_dataloader.load_state_dict(torch.load(tmp_path / "data.pt", weights_only=False))
    transfer_queue.load_checkpoint(str(tmp_path / "queue"))
    again.trainer.global_steps = 4
    again.rollouts.waiting = in_flight  # verl sends them again
    assert [again.step()[0] for _ in range(2)] == sent[3:]
    assert rows(again) == recorded


def test_prompts_in_flight_that_the_queue_has_lost_may_be_chosen_again(driver: MakeDriver, tmp_path: Path) -> None:
    import torch

    run = driver(*ASYNC, rollouts=MadeUpRollouts(late=BATCH))
    run.trainer._add_prompts_to_generate(BATCH)
    run.step()
    torch.save(run.trainer.train_dataloader.state_dict(), tmp_path / "data.pt")
    assert len(run.session.in_flight) == BATCH
    empty_queue()
    again = driver(*ASYNC)
    again.trainer.train_dataloader.load_state_dict(torch.load(tmp_path / "data.pt", weights_only=False))
    again.trainer.global_steps = 2
    again.step()
    assert not again.session.in_flight


def test_a_step_of_several_mini_batches_is_one_step_of_the_selector(driver: MakeDriver) -> None:
    run = driver(*SEPARATE, *DAPO, rollouts=MadeUpRollouts(late=6))
    run.trainer._add_prompts_to_generate(BATCH)
    for step in range(1, 5):
        _, batches, logged = run.step(num_samples=4)
        assert run.session.selector.online.steps == step
        assert "selection/informative" in logged
        assert sum(trained for *_, trained in rows(run)[step].values()) == BATCH
        assert [len(batch.keys) for batch in batches] == [2 * GROUP] * 4


@pytest.mark.parametrize("mode", ["sync", "colocate_async"])
def test_prompts_of_groups_that_fail_without_a_rollout_are_not_blocked(driver: MakeDriver, mode: str) -> None:
    refill = ["trainer.v1.sampler.sync_refill_failed_groups=True", f"trainer.v1.trainer_mode={mode}"]
    run = driver(*refill, rollouts=MadeUpRollouts(fails=lambda prompt: prompt.startswith("9")))
    failed = 0
    for step in range(1, 5):
        ids, _, _ = run.step()
        prompts = prompt_of(run)
        failed += sum(prompts[prompt_id].startswith("9") for prompt_id in ids)
        assert set(rows(run)[step]) <= {i for i in prompts if not prompts[i].startswith("9")}
        assert not run.session.in_flight
    assert failed


def test_a_rollout_of_several_outputs_has_one_reward(driver: MakeDriver) -> None:
    run = driver(rollouts=MadeUpRollouts(num_outputs=2))
    ids, (batch,), _ = run.step()
    assert len(batch.keys) == BATCH * GROUP * 2
    prompts = prompt_of(run)
    assert rows(run)[1] == {i: (GROUP, int(sum(successes(prompts[i]))), True) for i in ids}


def test_the_last_step_completes_the_history(driver: MakeDriver) -> None:
    # With rewards of three values no rule is found before 200 rollouts, which this run does not reach.
    graded = MadeUpRollouts(rewards=lambda prompt: [0.5 * reward + 0.25 * (len(prompt) % 2) for reward in (0, 0, 1, 2)])
    run = driver("trainer.total_training_steps=3", rollouts=graded)
    path = run.session.recorder.path
    for _ in range(2):
        run.step()
    assert not path.exists()
    run.step()
    assert len(RewardHistory.from_parquet(path)) == 3 * BATCH
