"""Selection in slime, by its two options. slime itself is stood in for, see `slime_stand_in`."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import slime_stand_in
from pages import ROOT, settings_named
from promptdyn.errors import InputError, PromptdynWarning
from promptdyn.history import RewardHistory
from promptdyn.readers import read_history
from promptdyn.training.driver import OPTIONS
from slime_stand_in import Manager, Sample, arguments
from stand_ins import installed

SELECTOR = {"selector": "rate:cluster=difficulty"}
FILTER = {"dynamic_sampling_filter_path": "slime_stand_in.varies"}


@pytest.fixture(autouse=True)
def _slime() -> Iterator[None]:
    with installed(slime_stand_in.MODULES, "promptdyn.training.slime"):
        slime_stand_in.LOGGED.clear()
        yield


def samples(count: int = 60) -> list[Sample]:
    return [
        Sample(prompt=f"{i} + {i}?", label=str(2 * i), metadata={"difficulty": i % 3, "prompt_id": f"p{i}"})
        for i in range(count)
    ]


def by_difficulty(sample: Sample) -> list[Any]:
    """Easy prompts are always solved, hard ones never, those between half the time."""
    return {0: [1.0] * 4, 1: [1.0, 0.0, 1.0, 0.0], 2: [0.0] * 4}[sample.metadata["difficulty"]]


def manager(folder: Path, rewards: Any = by_difficulty, *, slow: Any = None, fan_out: Any = False, **changes: Any):
    args = arguments(folder, samples(), **{"promptdyn": SELECTOR, **changes})
    return Manager(args, rewards, slow or (lambda sample: False), fan_out)


def ids(groups: list[Any]) -> list[str]:
    return [group[0].metadata["prompt_id"] for group in groups]


def recorded(run: Manager, folder: Path) -> list[tuple[int, str, int, int, bool]]:
    """(step, prompt, n, k, trained) of every row of the history."""
    run.data_source.session.write()
    history = RewardHistory.from_parquet(folder / "history.parquet")
    names = [history.prompt_ids[i] for i in history.prompt]
    columns = (history.step, names, history.num_rollouts, history.num_successes, history.trained)
    return [(int(s), str(p), int(n), int(k), bool(t)) for s, p, n, k, t in zip(*columns, strict=True)]


def test_rollouts_are_of_chosen_prompts_and_teach_the_selector(tmp_path: Path) -> None:
    run = manager(tmp_path)
    batches = [run.generate(i) for i in range(20)]
    between = [sum(group[0].metadata["difficulty"] == 1 for group in batch) for batch in batches]
    assert sum(between[10:]) >= 60  # of 80; 27 are expected without a choice
    assert all(len(set(ids(batch))) == 8 for batch in batches)
    groups = [group for batch in batches for group in batch]
    assert [sample.index for group in groups for sample in group] == list(range(20 * 8 * 4))
    assert [group[0].group_index for group in groups] == list(range(20 * 8))


def test_what_slime_saves_is_read_as_it_was_recorded(tmp_path: Path) -> None:
    run = manager(tmp_path, **FILTER)
    for rollout_id in range(6):
        saved = [dataclasses.asdict(sample) for group in run.generate(rollout_id) for sample in group]
        for sample in saved:
            sample["status"] = sample["status"].value
        torch.save({"rollout_id": rollout_id, "samples": saved}, tmp_path / f"{rollout_id}.pt")
    with pytest.warns(PromptdynWarning, match="all of its 48 groups vary: the log seems to keep only those that do"):
        dump = read_history(tmp_path, "slime")
    counted = zip(dump.step, dump.prompt_ids[dump.prompt], dump.num_rollouts, dump.num_successes, strict=True)
    trained = [(step, name, n, k) for step, name, n, k, fed in recorded(run, tmp_path) if fed]
    assert sorted(counted) == sorted(trained)
    assert dump.trained.all()


def test_the_history_has_slimes_numbers_labels_and_every_group(tmp_path: Path) -> None:
    run = manager(tmp_path)
    batches = [run.generate(i) for i in range(20)]
    history = RewardHistory.from_parquet(tmp_path / "history.parquet")  # the last rollout completes it
    assert set(history.columns) == {"difficulty"}
    solved = {f"p{i}": (4, 2, 0)[i % 3] for i in range(60)}
    expected = [(i, name, 4, solved[name], True) for i, batch in enumerate(batches) for name in ids(batch)]
    assert sorted(recorded(run, tmp_path)) == sorted(expected)


def test_metrics_stand_in_slimes_log(tmp_path: Path) -> None:
    run = manager(tmp_path)
    for i in range(2):
        run.generate(i)
    assert [entry["rollout/step"] for entry in slime_stand_in.LOGGED] == [0, 1]
    assert slime_stand_in.LOGGED[1]["rollout/selection/in_flight"] == 0


def test_groups_that_slime_drops_count_as_not_trained(tmp_path: Path) -> None:
    run = manager(tmp_path, over_sampling_batch_size=12, **FILTER)
    trained = [(i, name) for i in range(3) for name in ids(run.generate(i))]
    rows = recorded(run, tmp_path)
    assert sorted((step, name) for step, name, _, _, flag in rows if flag) == sorted(trained)
    assert any(0 < k < n for _, _, n, k, flag in rows if not flag)  # too many
    assert any(k in (0, n) for _, _, n, k, flag in rows if not flag)  # filtered out


def test_a_users_own_sample_filter_runs_first(tmp_path: Path) -> None:
    run = manager(tmp_path, rollout_sample_filter_path="slime_stand_in.remove_first")
    batch = run.generate(0)
    assert batch[0][0].remove_sample
    assert {name for _, name, _, _, flag in recorded(run, tmp_path) if not flag} == set(ids(batch[:1]))


def test_all_groups_count_as_trained_if_the_rollout_function_calls_no_sample_filter(tmp_path: Path) -> None:
    run = manager(tmp_path)
    run.args.rollout_sample_filter_path = None
    run.generate(0)
    assert [flag for *_, flag in recorded(run, tmp_path)] == [True] * 8


def test_partial_rollouts_stay_in_flight_and_come_back_first(tmp_path: Path) -> None:
    run = manager(
        tmp_path, slow=lambda sample: sample.index % 5 == 0, over_sampling_batch_size=16, partial_rollout=True
    )
    run.generate(0)
    waiting = ids(run.data_source.buffer)
    assert waiting
    assert run.data_source.session.in_flight == waiting
    groups = run.data_source.get_samples(16)
    assert ids(groups)[: len(waiting)] == waiting
    assert len(set(ids(groups))) == 16


def test_groups_that_slime_cancels_are_lost(tmp_path: Path) -> None:
    run = manager(tmp_path, slow=lambda sample: sample.index % 5 == 0, over_sampling_batch_size=30)
    run.generate(0)
    assert run.data_source.session.in_flight
    assert len(run.data_source.get_samples(60)) == 60  # all can be chosen again


def test_a_rollout_of_several_samples_has_the_reward_of_the_last(tmp_path: Path) -> None:
    run = manager(tmp_path, fan_out=True)
    run.generate(0)
    assert {k for _, _, _, k, _ in recorded(run, tmp_path)} <= {0, 2, 4}
    assert all(flag for *_, flag in recorded(run, tmp_path))


def test_aborted_rollouts_have_no_reward(tmp_path: Path) -> None:
    rewards = {0: [1.0, 0.0, None, None], 1: [1.0, 0.0, 0.0, None], 2: [None] * 4}
    run = manager(tmp_path, lambda sample: rewards[sample.metadata["difficulty"]])
    for rollout in range(3):
        run.generate(rollout)
    rows = recorded(run, tmp_path)
    assert {(n, k) for _, _, n, k, _ in rows} == {(2, 1), (3, 1)}
    assert len(rows) < 24  # groups without any reward are lost
    assert not run.data_source.session.in_flight


def test_a_rule_may_name_parts_of_the_reward_and_numbers_in_the_metadata(tmp_path: Path) -> None:
    def rewards(sample: Sample) -> list[dict[str, float]]:
        sample.metadata["words"] = 3
        return [{"score": 0.2 * i, "acc": float(i > 1), "format": float(i != 2)} for i in range(4)]

    rule = {**SELECTOR, "success": "acc>=1 and format>=1 and words>=2"}
    run = manager(tmp_path, rewards, reward_key="score", promptdyn=rule)
    for sample in run.data_source._samples.values():
        sample.metadata["words"] = 3
    run.generate(0)
    assert {(n, k) for _, _, n, k, _ in recorded(run, tmp_path)} == {(4, 1)}
    history = RewardHistory.from_parquet(tmp_path / "history.parquet")
    assert history.reward_mean == pytest.approx([0.3] * 8)


def test_a_name_that_no_rollout_has_is_refused(tmp_path: Path) -> None:
    run = manager(tmp_path, promptdyn={**SELECTOR, "success": "acc>=1"})
    with pytest.raises(InputError, match=r"rollout of step 0 has a number 'acc' in its reward or metadata: .*diff"):
        run.generate(0)


def test_a_reward_of_parts_needs_its_key(tmp_path: Path) -> None:
    run = manager(tmp_path, lambda sample: [{"score": 1.0}] * 4)
    with pytest.raises(InputError, match=r"is no number: name its part by --reward-key"):
        run.generate(0)


def test_a_resumed_run_chooses_what_it_would_have_chosen(tmp_path: Path) -> None:
    whole = manager(tmp_path / "whole")
    expected = [ids(whole.generate(i)) for i in range(6)]
    first = manager(tmp_path / "run")
    for i in range(4):
        first.generate(i)
        if i == 2:
            first.data_source.save(i)
    second = manager(tmp_path / "run")
    second.data_source.load(2)
    assert [ids(second.generate(i)) for i in range(3, 6)] == expected[3:]
    assert sorted(recorded(second, tmp_path / "run")) == sorted(recorded(whole, tmp_path / "whole"))


def test_prompts_in_flight_at_a_checkpoint_are_lost_as_slime_loses_their_groups(tmp_path: Path) -> None:
    kind = {"slow": lambda sample: sample.index % 5 == 0, "over_sampling_batch_size": 16, "partial_rollout": True}
    first = manager(tmp_path, **kind)
    first.generate(0)
    assert first.data_source.session.in_flight
    first.data_source.save(0)
    second = manager(tmp_path, **kind)
    second.data_source.load(0)
    assert len(second.data_source.get_samples(60)) == 60


def test_a_run_that_began_without_selection_goes_on_with_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = manager(tmp_path)
    run.data_source.load(6)
    assert "promptdyn_6.npz does not exist: the selector starts from what it knows now" in caplog.text
    run.generate(7)
    assert {step for step, *_ in recorded(run, tmp_path)} == {7}


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    run = manager(tmp_path)
    run.generate(0)
    run.data_source.save(0)
    other = manager(tmp_path, promptdyn={"selector": "dps"})
    with pytest.raises(InputError, match=r"promptdyn_0.npz: the saved state: .*; remove the file to start anew"):
        other.data_source.load(0)


def test_a_pool_that_the_filter_exhausts_is_told(tmp_path: Path) -> None:
    run = manager(tmp_path, lambda sample: [0.0] * 4, **FILTER)
    with pytest.raises(InputError, match=r"rollout 0: slime asks for 8 more prompts, and 4 of 60 .* too few groups"):
        run.generate(0)


def test_a_rollout_function_that_reports_nothing_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = manager(tmp_path)
    run.data_source.get_samples(56)
    run.data_source.save(0)
    hint = "no group has been reported yet: does slime.rollout.sglang_rollout.generate_rollout call the function of"
    assert hint in caplog.text
    with pytest.raises(InputError, match=hint):
        run.data_source.get_samples(8)


def test_rows_that_repeat_are_one_prompt_and_values_may_be_of_any_type(tmp_path: Path) -> None:
    prompts = [
        Sample(
            prompt=[{"role": "user", "content": f"{i}?"}], metadata={"level": i if i % 2 else "hard", "tests": [[i]]}
        )
        for i in range(20)
    ]
    run = Manager(arguments(tmp_path, prompts * 2, promptdyn={"selector": "dps"}), lambda sample: [1.0, 0.0, 0.0, 0.0])
    assert run.data_source.session.selector.num_prompts == 20
    run.generate(0)
    assert len(recorded(run, tmp_path)) == 8


def test_without_a_folder_no_history_is_recorded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "promptdyn"):
        run = manager(tmp_path, save=None, load=None)
    assert "no history is recorded: set --save, or promptdyn.history_path" in caplog.text
    run.data_source.load(-1)
    run.generate(0)
    assert not list(tmp_path.iterdir())


PICTURES = [Sample(prompt=f"{i}?", multimodal_inputs={"images": [i]}) for i in range(20)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rollout_all_samples_process_path": None}, "hear of the groups that end: set --rollout-all-samples-process"),
        (
            {"rollout_function_path": "slime.rollout.fully_async_rollout.generate_rollout_fully_async"},
            "does not report the groups that end: use slime.rollout.sglang_rollout.generate_rollout",
        ),
        ({"prompt_data": None}, "no prompts to choose from: set --prompt-data"),
        ({"promptdyn": "auto"}, "'auto' in the file of --custom-config-path is no mapping of settings"),
        ({"promptdyn": {"stategy": "top"}}, "'stategy' is no setting of selection: did you mean 'strategy'"),
        ({"promptdyn": {"selector": "greso"}}, "which slime does itself: set --dynamic-sampling-filter-path"),
        (
            {"promptdyn": {"selector": "features"}},
            "slime's rollout manager has no policy: .* in promptdyn in the file of --cust",
        ),
        ({"promptdyn": {"label_columns": ["colour"]}}, "colour"),
        ({"over_sampling_batch_size": 64}, "have 60 different prompts, and slime takes 64 at once"),
        ({"n_samples_per_prompt": 1}, "num_generations=1: a group of fewer than 2"),
        ({"prompt_data": PICTURES}, "pictures or sounds need ids: add 'prompt_id' to the metadata"),
    ],
)
def test_it_is_refused_in_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        manager(tmp_path, **changes)
    assert "\n" not in str(refused.value)


def test_the_second_option_needs_the_first(tmp_path: Path) -> None:
    from promptdyn.training.slime import observe

    with pytest.raises(InputError, match="needs its data source: set --data-source-path"):
        observe(arguments(tmp_path, samples()), [], slime_stand_in.RolloutDataSource(arguments(tmp_path, samples())))


def test_what_the_page_says_to_type_is_understood(tmp_path: Path) -> None:
    from promptdyn.training.slime import DATA_SOURCE, OBSERVE

    page = (ROOT / "docs" / "trainers" / "slime.md").read_text(encoding="utf-8")
    assert f"{DATA_SOURCE} \\\n" in page
    assert f"{OBSERVE}\n" in page
    start = page.index("    promptdyn:\n")
    given = yaml.safe_load(page[start : page.index("\n\n", start)])["promptdyn"]
    run = manager(tmp_path, promptdyn=given)
    assert run.data_source.session.selector.grader.requested.functions == ["acc", "format"]
    assert settings_named(page) >= set(OPTIONS)
