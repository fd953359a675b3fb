"""Settings of a run in a file: TRL's style, every field of GRPOConfig, what is typed wins."""

import json
import logging
import os
import shutil
from dataclasses import replace
from typing import Any

import pytest
import torch
import yaml
from datasets import Dataset
from peft import PeftModel
from trl import GRPOConfig, GRPOTrainer

import promptdyn
from command_line import promptdyn_here
from known import known
from promptdyn.errors import InputError
from promptdyn.training import policy, tasks
from promptdyn.training.config import read_config
from promptdyn.training.run import RunSettings, make_trainer, run
from promptdyn.training.trl import SelectionGRPOTrainer

SMALL: dict[str, Any] = {"num_prompts": 40, "prompts_per_step": 4, "num_generations": 4}
OPTIONS = ("output_dir", "model", "dataset", "reward", "max_steps", "num_generations", "learning_rate")


def written(folder, **settings):
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def test_ours_and_those_of_trl_are_told_apart(tmp_path, monkeypatch):
    path = tmp_path / "run.yaml"
    path.write_text(
        "model_name_or_path: some/model\ndataset_name: data.jsonl\nreward_funcs: [a.py:f, exact_answer]\n"
        "learning_rate: 1e-6\nmax_steps: 7\nweight_decay: 1e-2\nloss_type: dr_grpo\ngradient_accumulation_steps: 4\n"
        "model_init_kwargs: {dtype: float32}\neval_strategy: steps\nenv: {OF_THE_RUN: 1}\n"
    )
    monkeypatch.setenv("OF_THE_RUN", "0")
    ours, grpo = read_config(path, OPTIONS)
    assert ours == {"model": "some/model", "dataset": "data.jsonl", "reward": "a.py:f,exact_answer"}
    assert grpo == {
        "learning_rate": 1e-6,  # a word to YAML
        "max_steps": 7,
        "weight_decay": 0.01,
        "loss_type": "dr_grpo",
        "gradient_accumulation_steps": 4,
        "model_init_kwargs": {"dtype": "float32"},
        "eval_strategy": "steps",
    }
    assert os.environ["OF_THE_RUN"] == "1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_step: 3", "'max_step' is no setting of ours: did you mean 'max_steps'?"),
        ("zebra: 3", "'zebra' is no setting of ours, as train --help lists them, nor one of TRL's script"),
        ("model: a\nmodel_name_or_path: b", "'model_name_or_path' and 'model' are one setting"),
        ("weight_decay: heavy", "weight_decay: 'heavy' cannot be used"),
        ("env: 3", "env: give a mapping"),
        ("- 3", "holds no mapping"),
        ("a: [", "is no YAML"),
    ],
)
def test_bad_files_are_named(tmp_path, text, message):
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(InputError) as refused:
        read_config(tmp_path / "run.yaml", OPTIONS)
    assert str(refused.value).startswith(f"{tmp_path / 'run.yaml'}: ")
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_command_takes_a_file_and_what_is_typed_wins(tmp_path):
    path = written(
        tmp_path,
        output_dir=str(tmp_path / "run"),
        dataset="arithmetic",
        eval_dataset="arithmetic",
        num_prompts=40,
        prompts_per_step=4,
        num_generations=4,
        max_steps=9,
        gradient_accumulation_steps=2,
        steps_per_generation=2,
        eval_steps=2,
        beta=0.001,
        selector="mopps",
    )
    done = promptdyn_here("train", "--config", path, "--max-steps", 4, "--json", tmp_path / "told.json")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "told.json").read_text())["steps"] == 4
    # Two batches of two groups a step, as many as are rolled out at a time.
    assert len(promptdyn.read_history(tmp_path / "run" / "history.parquet")) == 4 * 4
    state = json.loads((tmp_path / "run" / "final" / "trainer_state.json").read_text())
    assert [entry["step"] for entry in state["log_history"] if "eval_reward" in entry] == [2, 4]
    assert any("kl" in entry for entry in state["log_history"])

    done = promptdyn_here("train", "--config", written(tmp_path, output_dir=str(tmp_path / "b"), max_stepps=3))
    assert done.returncode == 2
    assert "'max_stepps' is no setting of ours: did you mean 'max_steps'?" in done.stderr


def test_every_field_of_the_trainers_settings_gets_there(tmp_path):
    grpo = {"loss_type": "bnpo", "num_iterations": 2, "steps_per_generation": 2, "scale_rewards": "none", "top_p": 0.9}
    settings = RunSettings(tmp_path, num_prompts=40, prompts_per_step=4, num_generations=4, max_steps=2, grpo=grpo)
    args = make_trainer(settings).args
    assert {name: getattr(args, name) for name in grpo} == grpo
    with pytest.raises(InputError, match=r"trl.GRPOConfig: .*steps_per_generation"):
        make_trainer(RunSettings(tmp_path, grpo={"steps_per_generation": 2, "generation_batch_size": 8}))


def test_several_rewards_are_summed(tmp_path):
    (tmp_path / "short.py").write_text("def short(completions, **_):\n    return [0.25 for _ in completions]\n")
    settings = RunSettings(
        tmp_path / "run",
        reward=f"exact_answer,{tmp_path / 'short.py'}:short",
        num_prompts=40,
        prompts_per_step=4,
        num_generations=4,
        max_steps=1,
        grpo={"reward_weights": [1.0, 2.0]},
    )
    trainer = make_trainer(settings)
    trainer.train()
    (entry,) = [entry for entry in trainer.state.log_history if "reward" in entry]
    assert entry["reward"] == pytest.approx(entry["rewards/exact_answer/mean"] + 0.5)


def rows_file(folder, name, seed, num_prompts=40):
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in tasks.make_pool("arithmetic", num_prompts, seed)))
    return path


def test_a_file_of_trls_script_trains_what_it_says(tmp_path, monkeypatch):
    """A model's dtype, LoRA, splits, reward functions and evaluation sets, all as TRL's GRPO script names them."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(policy.EMBEDDED["embedded"], tmp_path / "model")
    (tmp_path / "grading_of_test_config.py").write_text(
        "def right(completions, answer, **_):\n"
        "    return [float(c.strip() == str(a)) for c, a in zip(completions, answer)]\n"
        "def short(completions, **_):\n"
        "    return [float(len(c) < 4) for c in completions]\n"
    )
    path = written(
        tmp_path,
        model_name_or_path="model",
        model_revision="main",
        dtype="bfloat16",
        attn_implementation="eager",
        use_peft=True,
        lora_r=4,
        lora_target_modules=["q_proj", "v_proj"],
        dataset_name=str(rows_file(tmp_path, "rows", 0)),
        dataset_train_split="train[:30]",
        eval_dataset={"held": str(rows_file(tmp_path, "a", 1, 4)), "other": str(rows_file(tmp_path, "b", 2, 4))},
        reward_funcs=["grading_of_test_config.right", "grading_of_test_config:short"],
        num_train_epochs=1,
        prompts_per_step=5,
        num_generations=4,
        max_completion_length=8,
        eval_steps=3,
        save_steps=0.5,
    )
    done = promptdyn_here("train", "--output-dir", "run", "--config", path, "--json", "told.json")
    assert done.returncode == 0, done.stderr
    assert "num_train_epochs=1: 6 optimizer steps" in done.stderr
    told = json.loads((tmp_path / "told.json").read_text())
    assert (told["steps"], told["rollouts"]) == (6, 6 * 5 * 4)
    assert 0 <= told["mean_reward_first"] <= 2
    assert (tmp_path / "run" / "checkpoint-3").is_dir()
    adapter = json.loads((tmp_path / "run" / "final" / "adapter_config.json").read_text())
    assert (adapter["r"], set(adapter["target_modules"])) == (4, {"q_proj", "v_proj"})
    state = json.loads((tmp_path / "run" / "final" / "trainer_state.json").read_text())
    for name in ("held", "other"):
        steps = [entry["step"] for entry in state["log_history"] if f"eval_{name}_rewards/right/mean" in entry]
        assert steps == [3, 6]

    ours, grpo = read_config(path, ("model", "dataset", "eval_dataset", "reward", "prompts_per_step"))
    script = {name: ours.pop(name) for name in list(ours) if name not in RunSettings.__dataclass_fields__}
    trainer = make_trainer(
        RunSettings(tmp_path / "b", **{**ours, "eval_dataset": None}, grpo={**grpo, "eval_steps": None}, script=script)
    )
    assert isinstance(trainer.model, PeftModel)
    base: Any = trainer.model.get_base_model()
    assert base.config._attn_implementation == "eager"
    assert next(base.parameters()).dtype == torch.bfloat16


def test_a_mixture_of_datasets_is_trained_on_and_its_test_split_evaluated(tmp_path):
    mixture = [
        {"path": "json", "data_files": str(rows_file(tmp_path, name, seed)), "columns": ["prompt", "answer", "task"]}
        for seed, name in enumerate("ab")
    ]
    script = {"datasets": mixture, "test_split_size": 0.25}
    settings = RunSettings(tmp_path / "run", max_steps=2, grpo={"eval_strategy": "steps"}, script=script, **SMALL)
    trainer = make_trainer(settings)
    assert [getattr(trainer, name).num_rows for name in ("train_dataset", "eval_dataset")] == [60, 20]
    with pytest.raises(InputError, match="give one of the two"):
        make_trainer(replace(settings, dataset="arithmetic"))
    with pytest.raises(InputError, match="eval_strategy: there is nothing to evaluate on"):
        make_trainer(replace(settings, script={"datasets": mixture}))


def test_tiny_defaults_are_for_the_embedded_policies_alone(tmp_path):
    shutil.copytree(policy.EMBEDDED["embedded"], tmp_path / "model")
    small = RunSettings(tmp_path / "run", num_prompts=40)
    embedded, other = make_trainer(small).args, make_trainer(replace(small, model=str(tmp_path / "model"))).args
    assert (embedded.max_completion_length, embedded.learning_rate, embedded.bf16) == (8, 3e-5, False)
    assert (embedded.max_steps, embedded.per_device_train_batch_size, embedded.save_strategy) == (200, 32 * 8, "no")
    trls = GRPOConfig(str(tmp_path / "trl"), use_cpu=True)
    assert other.max_steps == 3 * 40  # epochs of one prompt a step
    for name in set(GRPOConfig.__dataclass_fields__) - {"output_dir", "max_steps", "model_init_kwargs", "seed"}:
        if hasattr(trls, name):
            assert str(getattr(other, name)) == str(getattr(trls, name)), name


@pytest.mark.parametrize(
    ("given", "accumulation", "batch"),
    [({}, 1, 16), ({"gradient_accumulation_steps": 2}, 2, 8), ({"per_device_train_batch_size": 4}, 4, 4)],
)
def test_prompts_per_step_are_the_groups_of_an_optimizer_step(tmp_path, given, accumulation, batch):
    trainer = make_trainer(RunSettings(tmp_path, max_steps=2, grpo=given, **SMALL))
    assert (trainer.args.gradient_accumulation_steps, trainer.args.per_device_train_batch_size) == (accumulation, batch)
    trainer.train()
    assert len(promptdyn.read_history(tmp_path / "history.parquet")) == 2 * 4


def test_batches_that_cannot_make_a_step_are_told(tmp_path):
    with pytest.raises(InputError, match="makes 16 rollouts a step, which gradient_accumulation_steps=3 cannot make"):
        make_trainer(RunSettings(tmp_path, grpo={"gradient_accumulation_steps": 3}, **SMALL))


def trainer_of(folder, kind=SelectionGRPOTrainer, **settings):
    pool = Dataset.from_list(tasks.make_pool("arithmetic", 40, 0))
    model, tokenizer = policy.load_policy()
    given = {"per_device_train_batch_size": 12, "num_generations": 4, "bf16": False, "max_completion_length": 4}
    args = GRPOConfig(str(folder), use_cpu=True, **{**given, **settings})
    return kind(model, tasks.exact_answer, args, pool, processing_class=tokenizer)


@pytest.mark.parametrize(
    "settings",
    [
        {"num_train_epochs": 1},
        {"num_train_epochs": 2.5, "gradient_accumulation_steps": 3},
        {"num_train_epochs": 1, "num_iterations": 2, "steps_per_generation": 2, "gradient_accumulation_steps": 4},
        {"num_train_epochs": 0.3, "steps_per_generation": 3, "per_device_train_batch_size": 4},
    ],
)
def test_epochs_become_the_steps_that_trl_takes(tmp_path, caplog, settings):
    theirs = trainer_of(tmp_path, GRPOTrainer, **settings)
    *_, steps = theirs.set_initial_training_values(theirs.args, theirs.get_train_dataloader())
    with caplog.at_level(logging.WARNING, "promptdyn"):
        assert trainer_of(tmp_path, **settings).args.max_steps == steps
    assert f"num_train_epochs={settings['num_train_epochs']:g}: {steps} optimizer steps" in caplog.text


def test_a_run_of_epochs_ends_where_it_says(tmp_path):
    trainer = trainer_of(tmp_path, num_train_epochs=0.5, logging_steps=1)
    trainer.train()
    assert trainer.state.global_step == trainer.args.max_steps == 7  # 13 generations of 3 prompts, halved
    assert len(promptdyn.read_history(tmp_path / "history.parquet")) == 7 * 3


def test_a_checkpoint_may_be_a_path_that_is_not_the_newest(tmp_path):
    settings = {"save_steps": 1, "logging_steps": 1}
    trainer_of(tmp_path, max_steps=2, **settings).train()
    trainer = trainer_of(tmp_path, max_steps=3, **settings)
    begun: list[str] = []
    on_load = trainer._load_optimizer_and_scheduler

    def load(place: str) -> None:
        begun.append(place)
        on_load(place)

    trainer._load_optimizer_and_scheduler = load
    trainer.train(resume_from_checkpoint=tmp_path / "checkpoint-1")
    assert begun == [str(tmp_path / "checkpoint-1")]
    assert promptdyn.read_history(tmp_path / "history.parquet").steps.tolist() == [0, 1, 2]


@pytest.mark.parametrize("wanted", ["true", pytest.param("PATH", marks=pytest.mark.long)])
def test_resume_from_checkpoint_resumes(tmp_path, wanted):
    """As a field of GRPOConfig, in Python and through `run`."""
    settings = {"max_steps": 2, "save_steps": 2, "logging_steps": 1}
    trainer_of(tmp_path, **settings).train()
    wanted = str(tmp_path / "checkpoint-2") if wanted == "PATH" else wanted
    again = trainer_of(tmp_path, **{**settings, "max_steps": 3, "resume_from_checkpoint": wanted})
    again.train()
    assert promptdyn.read_history(tmp_path / "history.parquet").steps.tolist() == [0, 1, 2]
    assert not (tmp_path / "history.parquet.1").exists()

    small = RunSettings(tmp_path / "run", save_steps=2, max_steps=2, **SMALL)
    run(small, lambda *_: None)
    wanted = wanted if wanted == "true" else str(tmp_path / "run" / "checkpoint-2")
    result = run(replace(small, max_steps=3, grpo={"resume_from_checkpoint": wanted}), lambda *_: None)
    assert known(result.history).steps.tolist() == [0, 1, 2]
    with pytest.raises(InputError, match="nowhere: no whole checkpoint"):
        run(replace(small, max_steps=4, grpo={"resume_from_checkpoint": "nowhere"}), lambda *_: None)


def test_a_run_of_epochs_is_resumed_and_found_finished(tmp_path, caplog):
    settings = RunSettings(tmp_path / "run", save_steps=1, grpo={"num_train_epochs": 0.2}, resume=True, **SMALL)
    assert run(settings, lambda *_: None).steps == 2
    assert run(settings, lambda *_: None).seconds == 0
    assert "2 of 2 steps are done: nothing to do" in caplog.text


def test_an_order_that_selection_replaces_is_told(tmp_path, caplog):
    trainer_of(tmp_path, max_steps=1, shuffle_dataset=False)
    assert "shuffle_dataset=False has no effect" in caplog.text
