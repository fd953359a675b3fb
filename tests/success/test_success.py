"""One rule of success everywhere: live, imported, in a checkpoint, in every place where it can be said."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import grpo_run
from command_line import promptdyn_here
from known import known
from promptdyn.errors import InputError
from promptdyn.history import RewardHistory
from promptdyn.readers import read_history
from promptdyn.training.recipes import Recipe
from promptdyn.training.trl import SelectionGRPOTrainer


def letters(prompt_id: list[str], completions: list[str], **_: object) -> list[float | None]:
    graded = zip(prompt_id, completions, strict=True)
    return [None if completion.startswith("0") else grpo_run.Grader.reward(i, completion) for i, completion in graded]


def length(completions: list[str], **_: object) -> list[float]:
    return [0.1 * len(completion) for completion in completions]


def sometimes(completions: list[str], **_: object) -> list[float | None]:
    return [None if "1" in completion else float("a" in completion) for completion in completions]


def well_formed(completions: list[str], **_: object) -> list[float]:
    return [1.0] * len(completions)


def logged(prompt_id: list[str], log_extra, **_: object) -> list[float]:
    log_extra("prompt_id", prompt_id)
    return [0.0] * len(prompt_id)


def live(folder: Path, functions: list, weights: list[float], *, steps: int, **named) -> SelectionGRPOTrainer:
    arguments = grpo_run.config(
        folder,
        max_steps=steps,
        per_device_train_batch_size=16,
        reward_weights=weights,
        log_completions=True,
        save_strategy="no",
        learning_rate=1e-3,
    )
    run = SelectionGRPOTrainer(
        grpo_run.model(), functions, arguments, grpo_run.POOL, processing_class=grpo_run.tokenizer(), **named
    )
    run.train()
    return run


@pytest.mark.parametrize(("functions", "weights", "success", "rule", "steps"), [
    ([letters, well_formed, logged], [0.2, 0.7, 0.0], None, "letters>=1 and well_formed>=1", 4),
    ([letters, length, logged], [1.0, 0.5, 0.0], None, None, 15),
    ([letters, length, logged], [1.0, 0.5, 0.0], "length>=0.3", "length>=0.3", 3),
])  # fmt: skip
def test_live_and_imported_histories_of_a_run_are_equal(
    tmp_path: Path, functions: list, weights: list[float], success: str | None, rule: str | None, steps: int
) -> None:
    run = live(tmp_path, functions, weights, steps=steps, success=success)
    lived = RewardHistory.from_parquet(tmp_path / "history.parquet")
    assert lived.success == run.selector.success
    assert rule is None or lived.success == rule
    names = [function.__name__ for function in functions]
    imported = read_history(tmp_path, reward=names, reward_weights=weights, success=success or "auto", label_columns=())
    assert imported.success == lived.success

    def rows(history: RewardHistory, first: int) -> list[tuple]:
        ids = history.prompt_ids[history.prompt]
        counts = zip(history.step - first, ids, history.num_rollouts, history.num_successes, strict=True)
        return sorted((int(step), prompt_id, int(n), int(k)) for step, prompt_id, n, k in counts)

    assert rows(imported, 1) == rows(lived, 0)  # TRL's log counts the steps done, so from 1
    for name in ("reward_mean", "reward_std"):
        logged = {(step - 1, i): value for step, i, value in by_group(imported, name)}
        assert {(step, i): value for step, i, value in by_group(lived, name)} == pytest.approx(logged, abs=1e-6)
    assert 0 < lived.num_successes.sum() < lived.num_rollouts.sum()
    assert len({step for step, *_ in rows(lived, 0)}) == steps  # those before the rule was known, too


def by_group(history: RewardHistory, column: str) -> list[tuple[int, str, float]]:
    ids = history.prompt_ids[history.prompt]
    return list(zip(history.step.tolist(), ids, getattr(history, column).tolist(), strict=True))


def test_mean_and_deviation_of_a_group_are_those_that_trl_logs(tmp_path: Path) -> None:
    """One group a step, three functions of which one skips rollouts."""
    functions: list[Any] = [letters, length, sometimes]
    weights = [1.0, 0.2, 0.5]
    run = SelectionGRPOTrainer(
        grpo_run.model(),
        functions,
        grpo_run.config(
            tmp_path, max_steps=6, per_device_train_batch_size=4, reward_weights=weights, save_strategy="no"
        ),
        grpo_run.POOL,
        processing_class=grpo_run.tokenizer(),
    )
    run.train()
    history = RewardHistory.from_parquet(tmp_path / "history.parquet")
    log = [entry for entry in run.state.log_history if "reward" in entry]
    assert history.step.tolist() == list(range(6))
    np.testing.assert_allclose(known(history.reward_mean), [entry["reward"] for entry in log], rtol=1e-5)
    np.testing.assert_allclose(known(history.reward_std), [entry["reward_std"] for entry in log], rtol=1e-4, atol=1e-6)


def test_a_rule_found_live_stays_in_the_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def trainer() -> SelectionGRPOTrainer:
        return SelectionGRPOTrainer(
            grpo_run.model(),
            [letters, length],
            grpo_run.config(tmp_path, max_steps=15, save_steps=7, per_device_train_batch_size=16),
            grpo_run.POOL,
            processing_class=grpo_run.tokenizer(),
        )

    whole = trainer()
    whole.train()
    history = RewardHistory.from_parquet(tmp_path / "history.parquet")
    for checkpoint in (7, 14):  # the rule is found by the 13th step, of 16 rollouts each
        resumed = trainer()
        resumed.train(str(tmp_path / f"checkpoint-{checkpoint}"))
        assert resumed.selector.success == whole.selector.success
        again = RewardHistory.from_parquet(tmp_path / "history.parquet")
        assert again.success == history.success
        np.testing.assert_array_equal(again.num_successes, history.num_successes)
        np.testing.assert_array_equal(again.prompt_ids[again.prompt], history.prompt_ids[history.prompt])
    assert caplog.text.count("found from the first 208 rollouts") == 2


def test_success_is_said_to_trainer_recipe_and_command(tmp_path: Path) -> None:
    arguments = grpo_run.config(tmp_path / "run", max_steps=1, save_strategy="no")
    pool, tokenizer = grpo_run.POOL, grpo_run.tokenizer()

    def trainer(**named) -> SelectionGRPOTrainer:
        return SelectionGRPOTrainer(
            grpo_run.model(), [letters, length], arguments, pool, processing_class=tokenizer, **named
        )

    assert trainer(success="length>=0.3").selector.success == "length>=0.3"
    assert trainer(selector=Recipe("dps", success="length>=0.2")).selector.success == "length>=0.2"
    assert trainer(selector=Recipe("dps", success=1.5), success=0.7).selector.success == "0.7"
    with pytest.raises(InputError, match="no reward function is called 'lenght': did you mean 'length'"):
        trainer(success="lenght")
    with pytest.raises(InputError, match="give success to the Selector, not to the trainer"):
        trainer(selector=grpo_run.selector(), success=0.5)

    (tmp_path / "rewards.py").write_text(
        "def form(completions, **_):\n    return [1.0] * len(completions)\n"
        "def solved(rewards):\n    return rewards['exact_answer'] >= 1\n"
    )
    config = tmp_path / "run.yaml"
    config.write_text(f"success: {tmp_path}/rewards.py:solved\nnum_prompts: 40\nprompts_per_step: 4\nmax_steps: 2\n")
    common = ("train", "--output-dir", tmp_path / "cli", "--config", config)
    functions = ("--reward", f"exact_answer,{tmp_path}/rewards.py:form")
    done = promptdyn_here(*common, *functions)
    assert done.returncode == 0, done.stderr
    assert RewardHistory.from_parquet(tmp_path / "cli" / "history.parquet").success == f"{tmp_path}/rewards.py:solved"
    done = promptdyn_here(*common, *functions, "--success", "exact_anser>=1")
    assert done.returncode == 2
    assert "no reward function is called 'exact_anser': did you mean 'exact_answer'" in done.stderr
