"""What a dataset tells of its prompts: ids by content, whatever its format, and labels that never stop a run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Audio, Dataset, Image, List
from PIL import Image as Picture

import grpo_run
from grpo_run import POOL, Grader, WatchedTrainer, history_of, rows
from promptdyn.clusters import cross, uncross
from promptdyn.errors import InputError
from promptdyn.training.dataset import prompt_rows, prompts
from promptdyn.training.recipes import Recipe
from promptdyn.training.trl import SelectionGRPOTrainer

FORMATS = (None, "numpy", "torch", "pandas", "arrow")


def picture(shade: int) -> Picture.Image:
    return Picture.fromarray(np.full((8, 8, 3), shade, np.uint8))


def test_content_ids_are_stable_and_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    bare = Dataset.from_list([{"prompt": [{"role": "user", "content": text}]} for text in ("one", "two")])
    ids = list(prompts(bare).ids)
    assert "no column 'prompt_id'" in caplog.text
    assert len(set(ids)) == 2
    assert ids == list(reversed(prompts(bare.select([1, 0])).ids))


def test_rows_that_repeat_are_one_prompt_and_other_answers_another(caplog: pytest.LogCaptureFixture) -> None:
    data = [
        {"prompt": "1 + 1 =", "answer": "2"},
        {"prompt": "x =", "answer": "1"},
        {"prompt": "1 + 1 =", "answer": "2"},
        {"prompt": "x =", "answer": "2"},
        {"prompt": "x =", "answer": "2"},
    ]
    found = prompt_rows(Dataset.from_list(data))
    assert list(found.values()) == [0, 1, 3]
    assert "2 of 5 rows of the dataset repeat others and are left out" in caplog.text
    assert "2 rows share their prompt with others and differ in another column" in caplog.text
    # Ids do not hang on the rows' order.
    again = prompt_rows(Dataset.from_list(data[::-1]))
    assert {i: data[row] for i, row in found.items()} == {i: data[::-1][row] for i, row in again.items()}
    with pytest.raises(InputError, match="no column 'prompt': it has text"):
        prompt_rows(Dataset.from_list([{"text": "x"}]))
    with pytest.raises(InputError, match="prompt id 'a' is that of rows 0 and 2, which differ"):
        prompt_rows(
            Dataset.from_list([{**row, "prompt_id": name} for row, name in zip(data, "dabac", strict=True)][1:])
        )


@pytest.mark.parametrize("kind", FORMATS)
def test_rows_that_differ_anywhere_stay_apart_in_every_format(kind: str | None) -> None:
    grids = [[float(i) for i in range(2000)] for _ in range(3)]
    grids[1][1000], grids[2][900] = -1.0, -2.0
    for columns in (
        {"grid": grids},
        {"answer": [3.141592, 3.141617, 3.14159200000001]},
        {"answer": [2**60, 2**60 + 1, 2**60 + 2]},
        {"test": [[{"in": "1", "out": [1]}], [{"in": "1", "out": [2]}], [{"in": "1", "out": None}]]},
        {"a": ["x", "y", None]},
    ):
        pool = Dataset.from_dict({"prompt": ["Solve it."] * 3, **columns})
        plain = prompts(pool).ids
        assert len(set(plain)) == 3, columns
        assert prompts(pool.with_format(kind)).ids == plain
        assert len(prompts(Dataset.from_list([*pool, *pool]).with_format(kind)).ids) == 3


def test_ids_of_rows_with_files_come_of_the_files_bytes(tmp_path: Path) -> None:
    """Pictures from memory, from files of any name and from a list in a column; sounds, undecoded."""
    for shade, name in ((0, "a"), (1, "b"), (0, "again")):
        picture(shade).save(tmp_path / f"{name}.png")
    paths = [str(tmp_path / f"{name}.png") for name in ("a", "b", "again")]
    texts = {"prompt": ["How many circles?"] * 3}
    shown = Dataset.from_dict({**texts, "image": [picture(0), picture(1), picture(0)]}).cast_column("image", Image())
    lying = Dataset.from_dict({**texts, "image": paths}).cast_column("image", Image())
    assert list(prompt_rows(shown).values()) == [0, 1]
    assert prompts(shown).ids == prompts(lying).ids == prompts(lying.with_format("torch")).ids
    several = Dataset.from_dict({**texts, "images": [paths[:2], paths[1:], paths[:2]]})
    assert list(prompt_rows(several.cast_column("images", List(Image()))).values()) == [0, 1]
    sounds = [{"bytes": sound, "path": None} for sound in (b"RIFFa", b"RIFFb", b"RIFFa")]
    heard = Dataset.from_dict({**texts, "audio": sounds}).cast_column("audio", Audio())
    assert list(prompt_rows(heard).values()) == [0, 1]

    Path(paths[1]).unlink()
    with pytest.raises(InputError, match=r"a file in column 'image' of the dataset cannot be read: .*b\.png"):
        prompts(lying)


def test_ids_are_the_same_in_another_process(tmp_path: Path) -> None:
    data = [{"prompt": "How many?", "image": picture(i), "when": datetime(2026, 1, 2, 3, 4, 5, 6)} for i in range(3)]
    pool = Dataset.from_list(data).cast_column("image", Image())
    pool.save_to_disk(tmp_path / "pool")
    code = (
        "import json, sys; from datasets import load_from_disk; from promptdyn.training.dataset import prompts; "
        "print(json.dumps(prompts(load_from_disk(sys.argv[1])).ids))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "pool")], capture_output=True, text=True, check=True
    )
    assert json.loads(out.stdout.splitlines()[-1]) == list(prompts(pool).ids)


@pytest.mark.parametrize("kind", FORMATS)
def test_labels_are_the_same_in_every_format(kind: str | None) -> None:
    pool = Dataset.from_dict(
        {
            "prompt": list("abcd"),
            "task": ["x", "", None, "y|z"],
            "level": [1.0, float("nan"), None, 2.5],
            "k": [1, 2, 3, 4],
        }
    ).with_format(kind)
    assert prompts(pool).labels("task").tolist() == ["x", "(none)", "(none)", "y|z"]
    assert prompts(pool).labels("level").tolist() == ["1.0", "(none)", "(none)", "2.5"]
    assert prompts(pool).labels("k").tolist() == list("1234")


def test_labels_with_separators_are_crossed_and_told_apart() -> None:
    first, second = ["a|b", "a", "a\\", "a\\|b", ""], ["c", "b|c", "|b", "c", "\\"]
    crossed = cross([first, second])
    assert len(set(crossed)) == 5
    assert [uncross(label) for label in crossed] == [list(pair) for pair in zip(first, second, strict=True)]
    assert cross([["a|b"]]).tolist() == ["a|b"]


def test_label_columns_with_gaps_and_separators_stop_no_run(tmp_path: Path) -> None:
    odd = ["", None, "a|b", "(none)"]
    data = [
        {**row, "prompt_id": f"e{i}", "task": odd[i % 4], "level": [float("nan"), 1.0][i % 2]}
        for i, row in enumerate([*POOL] * 6)
    ]
    run = SelectionGRPOTrainer(
        grpo_run.model(),
        Grader(),
        grpo_run.config(tmp_path, max_steps=4),
        Dataset.from_list(data),
        processing_class=grpo_run.tokenizer(),
    )
    model: Any = run.selector.online.model
    assert model.cluster == ("task", "level")
    run.train()
    history = history_of(tmp_path)
    assert set(history.columns["task"]) <= {"(none)", "a|b"}
    assert set(history.columns["level"]) <= {"(none)", "1.0"}
    assert set(history.prompts.labels(["task", "level"])) <= {r"a\|b|(none)", "(none)|1.0", "(none)|(none)"}


# Ids decide where a run resumes: the same prompts in another order, more of them, fewer of them.


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> WatchedTrainer:
    return trained(tmp_path_factory.mktemp("whole"), POOL)


def trained(folder: Path, pool: Dataset, resume: bool | None = None, max_steps: int = 8) -> WatchedTrainer:
    run = grpo_run.trainer(folder, ["task"], pool, selector="rate:cluster=task", save_steps=4, max_steps=max_steps)
    run.train(resume_from_checkpoint=resume)
    return run


@pytest.fixture
def half(whole: WatchedTrainer, tmp_path: Path) -> Path:
    """A copy of the run as it was after step 4."""
    shutil.copytree(str(whole.args.output_dir), tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoint-8")
    return tmp_path / "run"


def test_a_run_resumes_in_another_order_as_if_never_stopped(whole: WatchedTrainer, half: Path) -> None:
    resumed = trained(half, POOL.shuffle(seed=1), resume=True)
    assert resumed.trained == whole.trained[4:]
    assert rows(history_of(half)) == rows(history_of(str(whole.args.output_dir)))


def test_a_run_resumes_with_more_prompts(half: Path, caplog: pytest.LogCaptureFixture) -> None:
    more = [{**row, "prompt_id": f"e{i}", "task": "new"} for i, row in enumerate(POOL)]
    resumed = trained(half, Dataset.from_list([*more, *POOL]), resume=True)
    assert "12 prompts were not there when the selector was saved: they join the pool" in caplog.text
    assert resumed.selector.num_prompts == 24
    assert any(row[1].startswith("e") for row in rows(history_of(half)))
    graded = {i for _, ids, *_ in resumed.reward_funcs[0].graded for i in ids}
    assert {i[0] for i in graded} == {"e", "p"}


def test_a_run_resumes_with_fewer_prompts(half: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = {row[1] for row in rows(history_of(half)) if row[0] < 4}
    fewer = POOL.filter(lambda row: row["prompt_id"] not in sorted(before)[:2])
    resumed = trained(half, fewer, resume=True)
    gone = sorted(before)[:2]
    assert "2 prompts of the saved run are not in the pool any more, such as " in caplog.text
    graded = {i for _, ids, *_ in resumed.reward_funcs[0].graded for i in ids}
    assert graded
    assert not graded & set(gone)
    # What the record knows of them stays, labels and all.
    history = history_of(half)
    task = dict(zip(history.prompt_ids, history.columns["task"], strict=True))
    assert set(gone) <= set(task)
    assert set(task.values()) <= {"even", "odd"}
    # Put back, they are chosen again.
    caplog.clear()
    trained(half, POOL, resume=True, max_steps=10)
    assert "not in the dataset" not in caplog.text


def test_a_run_resumes_with_other_labels(half: Path) -> None:
    renamed = POOL.map(lambda row: {"task": row["task"].upper()})
    with pytest.warns(UserWarning, match="12 prompts had another cluster label .* 'even', now 'EVEN'"):
        trained(half, renamed, resume=True)


def test_a_run_goes_on_by_the_columns_that_it_began_with(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Columns that "auto" would take of the dataset as it is now do not stop a run that began by others."""
    two = Dataset.from_list([{**row, "prompt_id": f"e{i}"} for i, row in enumerate([*POOL] * 2)])
    grpo_run.trainer(tmp_path, ["task"], two, selector="auto", save_steps=4, max_steps=4).train()
    level = two.add_column("level", [row["task"] for row in two]).map(lambda row: {"task": "sum"})
    grpo_run.trainer(tmp_path, ["task"], two, selector="auto", max_steps=5).train(resume_from_checkpoint=True)
    assert "as before" not in caplog.text
    resumed = grpo_run.trainer(tmp_path, ["task"], level, selector="auto", max_steps=6)
    assert resumed.selector.online.model.cluster == ("level",)
    with pytest.warns(UserWarning, match="24 prompts had another cluster label"):
        resumed.train(resume_from_checkpoint=True)
    assert resumed.selector.online.model.cluster == ("task",)
    assert "as before: the dataset would suggest others now" in caplog.text

    # Another model is refused, as ever: it was asked for by name.
    shutil.copytree(tmp_path, tmp_path / "dps")
    with pytest.raises(InputError, match=r"saved by model .*'rate'.*, this filter's is .*'dps'"):
        grpo_run.trainer(tmp_path / "dps", ["task"], two, selector=Recipe("dps"), max_steps=8).train(True)
    grpo_run.trainer(tmp_path / "other", ["task"], two, selector=Recipe("dps"), save_steps=4, max_steps=4).train()
    with pytest.raises(InputError, match=r"saved by model .*'dps'.*, this filter's is .*'rate'"):
        grpo_run.trainer(tmp_path / "other", ["task"], two, selector="auto", max_steps=8).train(True)

    reading = tmp_path / "reading"
    bare = two.remove_columns("task")
    grpo_run.trainer(reading, [], bare, selector="auto", save_steps=4, max_steps=4).train()
    with pytest.raises(InputError, match=r"chosen by 'features' before, .* as before, set selector='features'"):
        grpo_run.trainer(reading, ["task"], two, selector="auto", max_steps=5).train(resume_from_checkpoint=True)
    grpo_run.trainer(reading, ["task"], two, selector="features", max_steps=5).train(resume_from_checkpoint=True)


def test_features_follow_their_prompts_into_another_order(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The policy's reading is kept and refreshed by prompt, not by place."""
    runs = {}
    pool = POOL.remove_columns("task")
    for name, data in (("whole", pool), ("shuffled", pool.shuffle(seed=2))):
        if name != "whole":
            shutil.copytree(tmp_path / "whole", tmp_path / name)
        run = grpo_run.trainer(
            tmp_path / name, (), data, selector=Recipe(refresh_features=2), max_steps=6, save_steps=3
        )
        run.train(resume_from_checkpoint=None if name == "whole" else str(tmp_path / name / "checkpoint-3"))
        runs[name] = run
    assert runs["shuffled"].trained == runs["whole"].trained[3:]
    one, other = (run.selector.online.informative(4) for run in runs.values())
    np.testing.assert_allclose(one, other, atol=1e-5)
