"""Selection in SkyRL, by its entrypoint. SkyRL itself is stood in for, see `skyrl_stand_in`."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import skyrl_stand_in
from pages import ROOT, settings_named
from promptdyn.errors import InputError
from promptdyn.history import RewardHistory
from promptdyn.training.driver import OPTIONS
from stand_ins import installed

FILTER = ["trainer.algorithm.dynamic_sampling.type=filter"]
SELECTOR = "selection.selector=rate:cluster=difficulty"


@pytest.fixture(autouse=True)
def _skyrl(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "argv", sys.argv)
    with installed(skyrl_stand_in.MODULES, "promptdyn.training.skyrl"):
        yield


def rows(count: int = 60) -> list[dict[str, Any]]:
    return [
        {"prompt": [{"role": "user", "content": f"{i} + {i}?"}], "difficulty": i % 3, "prompt_id": f"p{i}"}
        for i in range(count)
    ]


def by_difficulty(difficulty: int, i: int) -> float:
    """Easy prompts are always solved, hard ones never, those between half the time."""
    return {0: 1.0, 1: float(i % 2), 2: 0.0}[difficulty]


class Generator:
    """Makes rewards up: `reward(difficulty, number of the rollout)`."""

    def __init__(self, reward: Callable[[int, int], Any] = by_difficulty, turns: int = 1, **more: Any) -> None:
        self.reward, self.turns, self.more = reward, turns, more

    async def generate(self, batch: dict[str, Any]) -> dict[str, Any]:
        rewards = [
            self.reward(extra["difficulty"], trajectory.repetition_id)
            for extra, trajectory in zip(batch["env_extras"], batch["trajectory_ids"], strict=True)
        ]
        output: dict[str, Any] = {"rewards": rewards, "trajectory_ids": None, "is_last_step": None}
        if self.turns > 1:  # a row per turn; only the last has the rollout's reward
            turns = [(i, turn == self.turns - 1) for i in range(len(rewards)) for turn in range(self.turns)]
            output["rewards"] = [rewards[i] if last else -5.0 for i, last in turns]
            output["trajectory_ids"] = [batch["trajectory_ids"][i] for i, _ in turns]
            output["is_last_step"] = [last for _, last in turns]
        count = len(output["rewards"])
        more = {name: [value(i) for i in range(count)] for name, value in self.more.items()}
        return {**output, "response_ids": [[1, 2]] * count, "loss_masks": [[1, 1]] * count, **more}


def config(folder: Path, *words: str, data: list[dict[str, Any]] | None = None) -> Any:
    from promptdyn.training.skyrl import SelectionConfig

    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(data or rows()), folder / "train.parquet")
    settings = [f"data.train_data=[{folder}/train.parquet]", f"trainer.ckpt_path={folder}", "trainer.epochs=3"]
    return SelectionConfig.from_cli_overrides([*settings, SELECTOR, *words])


def experiment(folder: Path, *words: str, generator: Generator | None = None, **named: Any) -> Any:
    from promptdyn.training.skyrl import SelectionExp

    made = SelectionExp(config(folder, *words, **named))
    made.generator = generator or Generator()
    return made


def recorded(folder: Path) -> list[tuple[int, str, int, int, bool]]:
    """(step, prompt, n, k, trained) of every row of the history."""
    history = RewardHistory.from_parquet(folder / "history.parquet")
    names = [history.prompt_ids[i] for i in history.prompt]
    columns = (history.step, names, history.num_rollouts, history.num_successes, history.trained)
    return [(int(s), str(p), int(n), int(k), bool(t)) for s, p, n, k, t in zip(*columns, strict=True)]


def trained_on(log: list[Any]) -> list[tuple[int, str]]:
    return sorted((step, uid) for step, uids, _ in log for uid in set(uids))


def test_the_entrypoint_runs_skyrl_with_selection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config(tmp_path)  # writes the data
    monkeypatch.setattr(skyrl_stand_in.BasePPOExp, "generator", Generator())
    words = [f"data.train_data=[{tmp_path}/train.parquet]", f"trainer.ckpt_path={tmp_path}", SELECTOR]
    skyrl_stand_in.main(["trainer.override_entrypoint=promptdyn.training.skyrl", *words])
    assert {step for step, *_ in recorded(tmp_path)} == set(range(1, 8))


def test_steps_are_of_chosen_prompts_and_teach_the_selector(tmp_path: Path) -> None:
    run = experiment(tmp_path)
    run.run()
    batches = {step: set(uids) for step, uids, _ in run.log}
    assert list(batches) == list(range(1, 22))
    assert all(len(batch) == 8 for batch in batches.values())
    between = sum(int(uid[1:]) % 3 == 1 for step in range(12, 22) for uid in batches[step])
    assert between >= 60  # of 80; 27 are expected without a choice
    solved = {f"p{i}": (4, 2, 0)[i % 3] for i in range(60)}
    assert sorted(recorded(tmp_path)) == [(step, uid, 4, solved[uid], True) for step, uid in trained_on(run.log)]
    assert set(RewardHistory.from_parquet(tmp_path / "history.parquet").columns) == {"difficulty"}
    assert run.log[-1][2]["selection/in_flight"] == 0


def test_rows_that_repeat_are_one_prompt(tmp_path: Path) -> None:
    run = experiment(tmp_path, data=rows() * 2)
    assert len(run.train_dataset) == 60
    run.run()
    assert len(run.log) == 21


@pytest.mark.parametrize("kind", ["filter", "replace"])
def test_groups_that_dynamic_sampling_drops_count_as_not_trained(tmp_path: Path, kind: str) -> None:
    run = experiment(tmp_path, f"trainer.algorithm.dynamic_sampling.type={kind}")
    run.run()
    history = recorded(tmp_path)
    assert sorted((step, uid) for step, uid, _, _, flag in history if flag) == trained_on(run.log)
    assert all(0 < k < n for _, _, n, k, flag in history if flag)
    assert any(not flag for *_, flag in history)
    assert len({(step, uid) for step, uid, *_ in history}) == len(history)


def test_groups_without_variance_count_as_not_trained_if_skyrl_masks_them(tmp_path: Path) -> None:
    run = experiment(tmp_path, "trainer.algorithm.zero_variance_filter=true")
    run.run()
    history = recorded(tmp_path)
    assert all(flag == (0 < k < n) for _, _, n, k, flag in history)
    assert {flag for *_, flag in history} == {True, False}


def test_prompts_cut_off_a_batch_are_not_in_flight(tmp_path: Path) -> None:
    from promptdyn.training.skyrl import SelectionTrainer

    class Uneven(SelectionTrainer):
        def __init__(self, *positional: Any, **named: Any) -> None:
            super().__init__(*positional, **named)
            self.stride = 3

    run = experiment(tmp_path)
    run.get_trainer = Uneven
    run.run()
    assert all(len(set(uids)) == 6 for _, uids, _ in run.log)
    assert run.log[-1][2]["selection/in_flight"] == 0


def test_the_last_turn_has_the_reward_of_a_rollout(tmp_path: Path) -> None:
    run = experiment(tmp_path, "generator.step_wise_trajectories=true", generator=Generator(turns=3))
    run.run()
    assert {(n, k) for _, _, n, k, _ in recorded(tmp_path)} == {(4, 0), (4, 2), (4, 4)}


def test_rewards_of_tokens_are_added_up(tmp_path: Path) -> None:
    run = experiment(tmp_path, generator=Generator(lambda difficulty, i: [0.25 * (i % 2), 0.25 * (i % 2)]))
    run.run()
    assert {(n, k) for _, _, n, k, _ in recorded(tmp_path)} == {(4, 2)}
    assert RewardHistory.from_parquet(tmp_path / "history.parquet").reward_mean == pytest.approx([0.25] * 168)


def test_a_rule_may_name_env_metrics(tmp_path: Path) -> None:
    generator = Generator(env_metrics=lambda row: {"acc": float(row % 4 == 0), "tool": "python"})
    run = experiment(tmp_path, "selection.success=acc>=1", generator=generator)
    run.run()
    assert {(n, k) for _, _, n, k, _ in recorded(tmp_path)} == {(4, 1)}


def test_a_name_that_no_rollout_has_is_refused(tmp_path: Path) -> None:
    run = experiment(tmp_path, "selection.success=acc>=1")
    with pytest.raises(InputError, match=r"no rollout of step 1 has a number 'acc' in env_metrics: it has no number"):
        run.run()


def test_a_resumed_run_chooses_what_it_would_have_chosen(tmp_path: Path) -> None:
    whole = experiment(tmp_path / "whole")
    whole.run()
    experiment(tmp_path / "run", "trainer.ckpt_interval=5", "trainer.max_training_steps=12").run()
    resumed = experiment(tmp_path / "run")  # from step 10 of 12
    resumed.run()
    assert [step for step, *_ in resumed.log] == list(range(11, 22))
    assert [uids for _, uids, _ in resumed.log] == [uids for _, uids, _ in whole.log[10:]]
    assert sorted(recorded(tmp_path / "run")) == sorted(recorded(tmp_path / "whole"))


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    experiment(tmp_path, "trainer.ckpt_interval=5").run()
    with pytest.raises(InputError, match=r"data.pt of the checkpoint: .*; trainer.resume_mode=none starts anew"):
        experiment(tmp_path, "selection.selector=dps", "trainer.epochs=4").run()


def test_a_run_that_fails_leaves_every_group_in_the_history(tmp_path: Path) -> None:
    words = [*FILTER, "trainer.algorithm.dynamic_sampling.max_sample_batches=2"]
    run = experiment(tmp_path, *words, generator=Generator(lambda difficulty, i: 0.0))
    with pytest.raises(RuntimeError, match="dynamic sampling limit"):
        run.run()
    assert len(recorded(tmp_path)) == 16
    assert not any(flag for *_, flag in recorded(tmp_path))


def test_a_pool_that_the_filter_exhausts_is_told(tmp_path: Path) -> None:
    run = experiment(tmp_path, *FILTER, data=rows(20), generator=Generator(lambda difficulty, i: 0.0))
    with pytest.raises(InputError, match=r"step 1: SkyRL asks for 8 more prompts, and 4 of 20 are left, .*too few"):
        run.run()


def test_a_run_that_skyrls_epochs_cut_short_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "promptdyn"):
        experiment(tmp_path, "trainer.max_training_steps=100")
    assert "the run will end after 21 of trainer.max_training_steps=100 steps" in caplog.text


def test_validation_batches_are_left_alone(tmp_path: Path) -> None:
    run = experiment(tmp_path, "trainer.max_training_steps=1")
    run.run()
    batch, _ = run.trainer._generator_input([{"prompt": "?", "uid": "0", "env_extras": {"difficulty": 1}}])
    batch["batch_metadata"].training_phase = "eval"
    asyncio.run(run.trainer.generate(batch))
    assert len(recorded(tmp_path)) == 8


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.dataloader.num_workers=8"], r"data.dataloader.num_workers=8: .* set data.dataloader.num_workers=0"),
        (["selection.stategy=top"], "selection: 'stategy' is no setting of selection: did you mean 'strategy'"),
        (["selection.selector=greso"], r"which SkyRL does itself: set trainer.algorithm.dynamic_sampling.type=filter"),
        (["selection.selector=features"], "SkyRL's driver has no policy: .* another selector in selection: dps"),
        (["selection.label_columns=[colour]"], "colour"),
        (["trainer.ckpt_path=s3://bucket/run"], r"s3://bucket/run is no local folder: set selection.history_path"),
        (["generator.n_samples_per_prompt=1"], "num_generations=1: a group of fewer than 2"),
    ],
)
def test_it_is_refused_in_one_line(tmp_path: Path, words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        experiment(tmp_path, *words)
    assert "\n" not in str(refused.value)


def test_a_pool_smaller_than_a_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"have 5 different prompts, and trainer.train_batch_size=8"):
        experiment(tmp_path, data=rows(5) * 2)


def test_a_trainer_needs_the_data_that_choose(tmp_path: Path) -> None:
    run = experiment(tmp_path)
    run.train_dataset = skyrl_stand_in.PromptDataset(run.cfg.data.train_data)
    with pytest.raises(InputError, match="let get_train_dataset of the experiment return a SelectionDataset"):
        run.run()


def test_the_fully_asynchronous_trainer_is_refused(tmp_path: Path) -> None:
    from promptdyn.training.skyrl import SelectionMixin

    class FullyAsyncRayPPOTrainer(skyrl_stand_in.RayPPOTrainer):
        pass

    class Trainer(SelectionMixin, FullyAsyncRayPPOTrainer):
        pass

    run = experiment(tmp_path)
    run.get_trainer = Trainer
    with pytest.raises(InputError, match=r"FullyAsyncRayPPOTrainer asks for prompts one by one.*use RayPPOTrainer"):
        run.run()


def test_what_the_page_says_to_type_is_understood(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "trainers" / "skyrl.md").read_text(encoding="utf-8")
    command = page[page.index("python -m skyrl") :].partition("\n\n")[0].replace("...your settings...", "")
    words = [word for word in command.replace("\\\n", " ").split() if "=" in word]
    assert words[0] == "trainer.override_entrypoint=promptdyn.training.skyrl"
    experiment(tmp_path, *words[1:])
    assert {name.removeprefix("selection.") for name in settings_named(page)} >= set(OPTIONS)
