"""Which rewards the replay buffer reads, and what a success is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from promptdyn.errors import InputError
from promptdyn.history import RewardHistory
from verl_run import BATCH, Driver, MadeUpRollouts

pytestmark = [pytest.mark.verl, pytest.mark.filterwarnings("ignore")]

MakeDriver = Callable[..., Driver]
# Rewards with a bonus, which only "acc" (reward > 0.5) makes out.
BONUS = [0.1, 0.4, 0.6, 0.9]


@pytest.mark.parametrize(
    ("success", "k"),
    [("acc", 2), ("acc>=1", 2), ("0.8", 1), ("reward>=0.4", 3), ("acc>=1 and reward>=0.8", 1), (0.05, 4)],
)
def test_a_rule_may_name_the_reward_and_what_its_function_adds(driver: MakeDriver, success: object, k: int) -> None:
    run = driver(
        f'+trainer.v1.sampler.sampler_kwargs.success="{success}"', rollouts=MadeUpRollouts(rewards=lambda prompt: BONUS)
    )
    run.step()
    run.session.write()
    history = RewardHistory.from_parquet(run.session.recorder.path)
    assert history.num_successes.tolist() == [k] * BATCH
    assert history.reward_mean == pytest.approx([0.5] * BATCH)


def test_the_rule_is_that_of_verls_filter(driver: MakeDriver) -> None:
    run = driver(
        "algorithm.filter_groups.enable=True",
        "algorithm.filter_groups.metric=acc",
        rollouts=MadeUpRollouts(rewards=lambda prompt: BONUS),
    )
    run.step()
    assert run.session.selector.success == "acc>=1"


def test_a_python_function_sees_every_number(driver: MakeDriver, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("rule") / "rule.py"
    file.write_text("def both(rewards):\n    return (rewards['acc'] >= 1) & (rewards['reward'] >= 0.8)\n")
    run = driver(
        f'+trainer.v1.sampler.sampler_kwargs.success="{file}:both"',
        rollouts=MadeUpRollouts(rewards=lambda prompt: BONUS),
    )
    run.step()
    assert run.trainer.replay_buffer._run.driver.named.names == ("acc",)


def test_a_name_that_no_rollout_has_is_refused(driver: MakeDriver) -> None:
    run = driver(
        "+trainer.v1.sampler.sampler_kwargs.success=text", rollouts=MadeUpRollouts(rewards=lambda prompt: BONUS)
    )
    with pytest.raises(InputError, match=r"step 1 has a number 'text' in reward_extra_info: it has acc"):
        run.step()


def test_a_pool_that_the_filter_exhausts_is_told(driver: MakeDriver) -> None:
    run = driver(
        "algorithm.filter_groups.enable=True",
        "algorithm.filter_groups.metric=reward",
        rollouts=MadeUpRollouts(rewards=lambda prompt: [0.0] * 4),
    )
    with pytest.raises(InputError, match=r"step 1: verl asks for 1 more prompts, and 0 of 57 .* too few groups pass"):
        run.step()
