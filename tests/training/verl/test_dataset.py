"""The dataset: which rows are handed out, and what is refused when verl makes or resumes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import verl_run
from promptdyn.errors import InputError
from promptdyn.history import RewardHistory
from verl_run import BATCH, Driver

pytestmark = [pytest.mark.verl, pytest.mark.filterwarnings("ignore")]

MakeDriver = Callable[..., Driver]


def write(path: Path, rows: list[dict]) -> str:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return f"data.train_files={path}"


def test_validation_data_are_as_they_were(driver: MakeDriver) -> None:
    run = driver("data.validation_shuffle=False")
    run.step()
    (batch,) = list(run.trainer.val_dataloader)
    assert "promptdyn_id" not in batch
    expected = [row["prompt"][0]["content"] for row in verl_run.sums()[:8]]
    assert [messages[0]["content"] for messages in batch["raw_prompt"]] == expected


def test_rows_that_repeat_are_one_prompt_and_ids_may_be_given(driver: MakeDriver, tmp_path: Path) -> None:
    rows = [{**row, "prompt_id": f"p{i}"} for i, row in enumerate(verl_run.sums()[:20])]
    run = driver(write(tmp_path / "rows.parquet", [*rows, *rows]))
    assert run.session.selector.prompt_ids == [row["prompt_id"] for row in rows]
    sent = [prompt_id for _ in range(3) for prompt_id in run.step()[0]]
    assert set(sent) <= {row["prompt_id"] for row in rows}


def test_prompts_may_stand_in_another_column(driver: MakeDriver, tmp_path: Path) -> None:
    rows = [{"question" if name == "prompt" else name: v for name, v in row.items()} for row in verl_run.sums()]
    run = driver(write(tmp_path / "rows.parquet", rows), "data.prompt_key=question")
    assert len(run.step()[0]) == BATCH


def test_the_history_holds_labels(driver: MakeDriver) -> None:
    run = driver()
    run.step()
    run.session.write()
    history = RewardHistory.from_parquet(run.session.recorder.path)
    assert {name: set(labels) for name, labels in history.columns.items()} == {
        "data_source": {"add"},
        "ability": {"easy", "hard"},
    }


def test_a_dataset_without_its_replay_buffer_is_refused(driver: MakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    from promptdyn.training.verl.run import Run

    monkeypatch.setattr(Run, "current", None)
    with pytest.raises(InputError, match=r"needs its replay buffer: set .*name=SelectionReplayBuffer"):
        driver("trainer.v1.sampler.custom_sampler.path=null", "trainer.v1.sampler.custom_sampler.name=null")


def test_a_checkpoint_of_another_pool_or_model_is_refused(driver: MakeDriver, tmp_path: Path) -> None:
    run = driver()
    run.step()
    state = run.trainer.train_dataloader.state_dict()
    rows = [{**row, "prompt_id": f"p{i}"} for i, row in enumerate(verl_run.sums())]
    for setting in (write(tmp_path / "rows.parquet", rows), "trainer.v1.sampler.sampler_kwargs.selector=dps"):
        other = driver(setting)
        other.trainer.train_dataloader.load_state_dict(state)
        with pytest.raises(InputError, match=r"data.pt of the checkpoint: .*trainer.resume_mode=disable starts anew"):
            other.step()


def test_a_run_without_selection_goes_on_with_it(driver: MakeDriver, caplog: pytest.LogCaptureFixture) -> None:
    before = driver("data.dataloader_num_workers=0", selection=False)
    rows = iter(before.trainer.train_dataloader)
    next(rows)
    state = before.trainer.train_dataloader.state_dict()
    run = driver()
    run.trainer.train_dataloader.load_state_dict(state)
    run.trainer.global_steps = 5
    assert len(run.step()[0]) == BATCH
    assert "is not there: the history begins at step 5" in caplog.text
    with pytest.raises(InputError, match=r"data.pt of the checkpoint: it has no selector's state"):
        run.trainer.train_dataset.load_state_dict({"position": 3})
