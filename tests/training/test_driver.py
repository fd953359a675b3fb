"""What the adapters of trainers share: settings, the numbers beside a reward, and going on from a state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from promptdyn.errors import InputError
from promptdyn.history import RewardHistory
from promptdyn.selection import Selector
from promptdyn.success import Grader
from promptdyn.training.driver import Driver, NamedRewards, Settings, number

ROWS = Dataset.from_list([{"prompt": f"{i}?", "level": i % 2, "prompt_id": f"p{i}"} for i in range(20)] * 2)


def settings(folder: Path, filter_off: str | None = "which it cannot", **given: Any) -> Settings:
    return Settings.read(
        {"selector": "rate:cluster=level", **given},
        process="the driver",
        place="its settings",
        history_path=folder / "history.parquet",
        filter_off=filter_off,
        success="acc",
    )


def driver(folder: Path, **given: Any) -> Driver:
    return Driver(settings(folder, **given), ROWS, num_generations=4, seed=0)


def test_what_is_given_wins_over_the_trainers_defaults(tmp_path: Path) -> None:
    default = settings(tmp_path)
    assert (default.recipe.success, default.history_path) == ("acc", tmp_path / "history.parquet")
    given = settings(tmp_path, success="format", history_path="other.parquet", label_columns="level", strategy="top")
    assert (given.recipe.success, given.recipe.strategy) == ("format", "top")
    assert (given.history_path, given.label_columns) == (Path("other.parquet"), ["level"])


def test_a_selector_with_rounds_needs_the_trainers_filter(tmp_path: Path) -> None:
    assert settings(tmp_path, None, selector="greso").recipe.max_rounds > 1
    with pytest.raises(InputError, match="selector 'greso' samples dynamically, which it cannot"):
        settings(tmp_path, selector="greso")


def test_rows_that_repeat_are_one_prompt_and_are_found_in_both_datasets(tmp_path: Path) -> None:
    made = driver(tmp_path)
    assert len(made.data) == 20
    for prompt_id in ("p0", "p19"):
        assert made.data[made.row_of[prompt_id]]["prompt_id"] == ROWS[made.rows[prompt_id]]["prompt_id"] == prompt_id


def test_the_reward_is_folded_and_the_other_numbers_only_tell_successes(tmp_path: Path) -> None:
    made = driver(tmp_path)
    infos = [{"acc": i > 0, "text": "x", "tokens": 9} for i in range(4)]
    assert made.named.to_read(infos) == ("acc",)
    (prompt_id,) = made.session.take(1)
    made.end(prompt_id, made.named.group([0.5, 0.5, 1.0, None], infos), trained=True)
    (lost,) = made.session.take(1)
    made.end(lost, made.named.group([None] * 4, infos), trained=True)
    made.session.step()
    made.session.close()
    history = RewardHistory.from_parquet(tmp_path / "history.parquet")
    assert (history.num_successes.tolist(), history.num_rollouts.tolist()) == ([2], [3])
    assert history.reward_mean == pytest.approx([2 / 3])


def test_a_python_rule_gets_every_number_that_the_first_rollouts_have() -> None:
    named = NamedRewards(Grader(lambda rewards: rewards["acc"] >= 1))
    assert named.names is None
    assert named.to_read([{"acc": 1, "words": 3.5, "text": "x", "reward": 1.0}]) == ("acc", "words")
    assert named.group([1.0], [{"acc": True}]) == {"reward": [1.0], "acc": [1.0], "words": [None]}


def test_a_rule_of_alternatives_needs_the_numbers_of_one() -> None:
    named = NamedRewards(Grader("math>=1 or code>=1"))
    named.to_read([{"code": 1.0}])
    named.check("its log", 3)
    other = NamedRewards(Grader("math>=1 or code>=1"))
    other.to_read([{"acc": 1.0}])
    with pytest.raises(
        InputError, match=r"no rollout of step 3 has a number 'math' in its log: it has acc; 'reward' is"
    ):
        other.check("its log", 3)


@pytest.mark.parametrize(("value", "expected"), [(True, 1.0), (3, 3.0), ("3", None), (None, None), ([1.0], None)])
def test_numbers_are_told_from_other_values(value: Any, expected: float | None) -> None:
    assert number(value) == expected


@pytest.mark.parametrize("state", [{}, {"online": None}, {"online": {"model": {"name": "dps"}}}])
def test_a_state_that_is_none_is_refused_with_its_file(tmp_path: Path, state: Any) -> None:
    with pytest.raises(InputError, match=r"^data.pt: .*; start anew$"):
        driver(tmp_path).resume(state, "data.pt", "start anew")


def test_another_models_state_is_refused(tmp_path: Path) -> None:
    other: Selector = driver(tmp_path, selector="dps").session.selector
    with pytest.raises(InputError, match=r"^data.pt: the selector was saved with .*; start anew$"):
        driver(tmp_path).resume(other.state_dict(), "data.pt", "start anew")
