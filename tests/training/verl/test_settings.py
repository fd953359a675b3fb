"""Settings under which prompts cannot be chosen are refused when verl makes its driver, before any model is loaded."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable

import pytest

from pages import ROOT, settings_named
from promptdyn.errors import InputError
from verl_run import SELECTION, Driver, composed

pytestmark = [pytest.mark.verl, pytest.mark.filterwarnings("ignore")]

MakeDriver = Callable[..., Driver]
KWARGS = "+trainer.v1.sampler.sampler_kwargs"
SELECTOR = "trainer.v1.sampler.sampler_kwargs.selector"  # the tests' driver adds it


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["data.dataloader_num_workers=2"], "data.dataloader_num_workers=2: .*set data.dataloader_num_workers=0"),
        (["reward.reward_model.enable=True"], "set reward.reward_model.enable_resource_pool=True"),
        ([f"{KWARGS}.stategy=top"], "sampler_kwargs: 'stategy' is no setting of selection: did you mean 'strategy'"),
        ([f"{KWARGS}.quiet=1"], "'quiet' is no setting of selection: there are selector, dynamics"),
        ([f"{SELECTOR}=rtae"], "no selector is called 'rtae': did you mean 'rate'"),
        ([f"{SELECTOR}=greso"], "samples dynamically, which verl does itself: set algorithm.filter_groups.enable=True"),
        ([f"{KWARGS}.success='acc>>1'"], "acc>>1"),
        ([f"{KWARGS}.score=worth"], "score"),
        (["data.train_batch_size=64"], "have 57 different prompts, and verl takes 64 at once"),
        (
            ["data.train_batch_size=32", "trainer.v1.trainer_mode=colocate_async"],
            r"verl takes 64 at once \(data.train_batch_size=32 and 1 batches ahead",
        ),
        ([f"{SELECTOR}=features"], "needs the policy's reading of the prompts .*verl's driver has no policy"),
        ([f"{KWARGS}.label_columns=[colour]"], "colour"),
        (["actor_rollout_ref.rollout.n=1"], "num_generations=1: a group of fewer than 2"),
        (["data.custom_cls.path=null", "data.custom_cls.name=null"], "needs its dataset: .*name=SelectionDataset"),
        (["skip.rollout_tq.enable=True"], "set skip.rollout_tq.enable=False"),
    ],
)
def test_it_is_refused_in_one_line(driver: MakeDriver, settings: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        driver(*settings)
    assert "\n" not in str(refused.value)


def test_a_run_that_verls_epochs_cut_short_is_told(driver: MakeDriver, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "promptdyn"):
        driver("trainer.total_epochs=2")
    assert "the run will end after 14 of total_training_steps=50 steps" in caplog.text


@pytest.mark.usefixtures("_queue")
def test_a_verl_that_hands_no_trainer_to_its_replay_buffer_is_refused() -> None:
    from promptdyn.training.verl import SelectionReplayBuffer

    with pytest.raises(InputError, match=r"relies on trainer\.config, .*, which verl 0\.\d\.\d does not have here"):
        SelectionReplayBuffer(trainer_mode="sync", refill_fn=print)


@pytest.mark.usefixtures("_queue")
def test_what_the_page_says_to_type_is_understood() -> None:
    from promptdyn.training.driver import OPTIONS
    from promptdyn.training.verl.settings import read_settings

    page = (ROOT / "docs" / "trainers" / "verl.md").read_text(encoding="utf-8")
    command = (
        page[page.index("python -m verl.trainer.main_ppo") :].partition("\n\n")[0].replace("...your settings...", "")
    )
    typed = [word for word in shlex.split(command.replace("\\\n", " ")) if "=" in word]
    assert set(typed) >= set(SELECTION)
    optional = [shlex.split(line) for line in page.splitlines() if line.startswith(f"    '{KWARGS}")]
    read = [read_settings(composed("data.train_files=none", *typed, *words)) for words in optional]
    assert [(settings.selector, settings.recipe.success) for settings in read] == [
        ("auto", "acc"),
        ("rate:cluster=ability", "auto"),
        ("auto", "acc>=1 and format>=1"),
    ]
    assert settings_named(page) >= set(OPTIONS)
