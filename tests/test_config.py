"""Settings of a run in a file: TRL's style, every field of GRPOConfig, what is typed wins."""

import json
import os

import pytest
import yaml

import promptdyn
from promptdyn.errors import InputError
from promptdyn.training.config import read_config
from promptdyn.training.run import RunSettings, make_trainer
from test_cli import promptdyn_here

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
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
    assert ours == {
        "model": "some/model",
        "dataset": "data.jsonl",
        "reward": "a.py:f,exact_answer",
        "learning_rate": "1e-6",  # a word to YAML; the command line makes a number of it
        "max_steps": 7,
    }
    assert grpo == {
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
        ("zebra: 3", "'zebra' is no setting of ours, as train --help lists them, or of trl.GRPOConfig"),
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
    assert len(promptdyn.read_history(tmp_path / "run" / "history.parquet")) == 4 * 4 * 2
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
