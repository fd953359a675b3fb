"""Selection inside TRL's RLOOTrainer, and what of TRL's is relied on in any of its trainers."""

from __future__ import annotations

import ast
import inspect
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trl
from datasets import Dataset
from transformers import LlamaForCausalLM, PreTrainedModel
from trl import GRPOTrainer, RLOOConfig

import grpo_run
from grpo_run import POOL, Grader, history_of, rows
from promptdyn.errors import InputError
from promptdyn.training.dynamic_sampling import DynamicSampling
from promptdyn.training.trl import SelectionGRPOTrainer, SelectionMixin, SelectionRLOOTrainer, relied_on
from promptdyn.training.trl.choosing import ChoosingMixin
from promptdyn.training.trl.refresh import read_pool
from promptdyn.training.trl.relied_on import RELIED_ON


class WatchedTrainer(SelectionRLOOTrainer):
    """What the runs here have, more narrowly than TRL says."""

    model: PreTrainedModel
    reward_funcs: list[Any]
    selector: grpo_run.WatchedSelector


def trainer(folder: Path, dynamic_sampling: Any = None, model: Any = None, **settings: Any) -> WatchedTrainer:
    common = grpo_run.config(folder).to_dict()
    fields = RLOOConfig.__dataclass_fields__
    args = {name: value for name, value in common.items() if name in fields and fields[name].init}
    for name in ("generation_batch_size", "steps_per_generation"):  # follow from the batch's size
        args[name] = None
    return WatchedTrainer(
        model or grpo_run.model(),
        Grader(),
        RLOOConfig(**{**args, "beta": 0.0, **settings}),
        POOL,
        processing_class=grpo_run.tokenizer(),
        selector=grpo_run.selector(),
        dynamic_sampling=dynamic_sampling,
    )


def weights(run: WatchedTrainer) -> float:
    return sum(float(p.double().sum().item()) for p in run.model.parameters())


@pytest.mark.parametrize("rule", [None, DynamicSampling(max_rounds=3)], ids=["plain", "dynamic sampling"])
def test_it_chooses_learns_records_and_resumes(tmp_path: Path, rule: DynamicSampling | None) -> None:
    run = trainer(tmp_path / "run", rule)
    before = weights(run)
    run.train()
    assert weights(run) != before
    graded = [reward for _, _, _, rewards in run.reward_funcs[0].graded for reward in rewards]
    observed = run.selector.observed
    assert [reward for _, rewards, _ in observed for reward in rewards.ravel()] == graded
    expected = [
        (step, prompt_id, 4, int(group.sum()), bool(trained))
        for step, (ids, rewards, seen) in enumerate(observed)
        for prompt_id, group, trained in zip(ids, rewards, seen.trained, strict=True)
    ]
    assert rows(history_of(tmp_path / "run")) == sorted(expected)
    assert all(seen.trained.sum() == 2 for _, _, seen in observed)
    assert (max(len(ids) for ids, _, _ in observed) > 2) == (rule is not None)
    shutil.copytree(tmp_path / "run", tmp_path / "resumed")
    resumed = trainer(tmp_path / "resumed", rule)
    resumed.train(resume_from_checkpoint=str(tmp_path / "resumed" / "checkpoint-4"))
    assert [ids for ids, _, _ in resumed.selector.observed] == [ids for ids, _, _ in observed[4:]]
    assert rows(history_of(tmp_path / "resumed")) == sorted(expected)
    assert weights(resumed) == weights(run)


@pytest.mark.parametrize("at_cap", ["train", "drop"])
def test_batches_of_several_generations_keep_what_the_loss_goes_by(tmp_path: Path, at_cap: Any) -> None:
    grpo_run.model().save_pretrained(tmp_path / "start")  # the reference model is loaded by its name
    start = LlamaForCausalLM.from_pretrained(tmp_path / "start")
    run = trainer(tmp_path, DynamicSampling(max_rounds=2, at_cap=at_cap), start, beta=0.1, num_iterations=2)
    run.model.train()
    run.current_gradient_accumulation_steps = 1
    short = 0
    for _ in range(8):
        run.state.global_step += 1
        batch = run._generate_and_score_completions([{}] * 8)
        assert set(batch) == {
            *("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "old_logps", "advantages")
        }
        tokens = batch["completion_mask"].sum(dim=1)
        assert all(len(value) == 8 for value in batch.values())
        short += int((tokens == 0).sum())
        assert (batch["old_logps"][tokens == 0] == 0).all()
        # At the start the policy is what rolled out, so the ratio is 1 and the loss that of the advantages.
        loss = run._compute_loss(run.model, dict(batch))
        assert loss.item() == pytest.approx(-batch["advantages"].mean().item(), abs=1e-5)
    assert (short > 0) == (at_cap == "drop")


def test_rewards_that_are_clipped_alike_fill_no_batch(tmp_path: Path) -> None:
    rule = DynamicSampling(max_rounds=2, keep="reward")
    run = trainer(tmp_path, rule, reward_clip_range=(-1.0, 0.0))  # 0 and 1 are alike then
    run.model.train()
    run._generate_and_score_completions([{}] * 8)
    assert run._metrics["train"]["selection/full"] == [0.0]


def test_advantages_scaled_over_a_generation_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"normalize_advantages=True scales advantages over a generation.*set False"):
        trainer(tmp_path, True, normalize_advantages=True)
    assert trainer(tmp_path, None, normalize_advantages=True).dynamic_sampling is None


class Derived(GRPOTrainer):
    """Takes its dataset by name alone, as TRL's GMPOTrainer does."""

    def __init__(self, model: Any, reward_funcs: Any = None, args: Any = None, *, train_dataset: Any, **named: Any):
        super().__init__(model, reward_funcs, args, train_dataset, **named)


class SelectionDerived(SelectionMixin, Derived):
    pass


def test_the_mixin_makes_one_of_a_trainer_that_is_derived_from_trls(tmp_path: Path) -> None:
    run = SelectionDerived(
        grpo_run.model(),
        Grader(),
        grpo_run.config(tmp_path, max_steps=2),
        POOL,
        processing_class=grpo_run.tokenizer(),
        selector=grpo_run.selector(),
    )
    run.train()
    assert len(history_of(tmp_path)) == 4


def attributes_of(tree: ast.AST, *names: str) -> set[str]:
    """The attributes that are read of variables with these names, or of super()."""
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and (
            (isinstance(node.value, ast.Name) and node.value.id in names)
            or (isinstance(node.value, ast.Call) and getattr(node.value.func, "id", "") == "super")
        )
    }


def test_all_that_is_relied_on_of_trl_is_listed() -> None:
    """Every private name that the mixins use and do not set themselves is in the list, and nothing else."""
    mixins = [ast.parse(inspect.getsource(mixin)) for mixin in (ChoosingMixin, SelectionMixin)]
    methods = {node.name: node for tree in mixins for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    sets = {
        target.attr
        for name in ("__init__", "_start_choosing", "_begin_step")
        for node in ast.walk(methods[name])
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        for target in (target.elts if isinstance(target, ast.Tuple) else [target])
        if isinstance(target, ast.Attribute)
    }
    called = set().union(*map(attributes_of, mixins))  # by super()
    read = set().union(*(attributes_of(tree, "self") for tree in mixins))
    read |= attributes_of(ast.parse(inspect.getsource(read_pool)), "trainer")
    theirs = called | (read - sets - set(methods))
    private = {name for name in theirs if name.startswith("_") and not name.startswith("__")}
    assert private == {name for name in RELIED_ON if name.startswith("_")}
    assert set(RELIED_ON) <= theirs


@pytest.mark.parametrize("kind", [SelectionGRPOTrainer, SelectionRLOOTrainer])
def test_trl_has_what_is_relied_on(kind: type[SelectionMixin], tmp_path: Path) -> None:
    run = trainer(tmp_path) if kind is SelectionRLOOTrainer else grpo_run.trainer(tmp_path)
    assert isinstance(run, kind)
    assert [name for name in RELIED_ON if not hasattr(run, name)] == []
    base = kind.__mro__[3]
    assert base.__module__.startswith("trl.")
    overridden = {
        name for name in (*vars(ChoosingMixin), *vars(SelectionMixin)) if name.startswith("_") and name in RELIED_ON
    }
    assert [name for name in overridden if not hasattr(base, name)] == []


def test_a_version_of_trl_that_lacks_something_is_told(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(relied_on, "RELIED_ON", (*RELIED_ON, "_of_another_version"))
    message = f"relies on _of_another_version of WatchedTrainer, which TRL {trl.__version__} lacks: install"
    with pytest.raises(InputError, match=message):
        trainer(tmp_path)


def test_rewards_are_folded_as_trl_folds_them(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.train()
    means = [entry["reward"] for entry in run.state.log_history if "reward" in entry]
    assert means == pytest.approx([float(np.mean(rewards)) for _, rewards, _ in run.selector.observed])


@pytest.mark.filterwarnings("ignore:You are using 'rollout_func':UserWarning")
def test_a_rollout_function_gets_the_chosen_prompts(tmp_path: Path) -> None:
    asked: list[list[str]] = []

    def rolls_out(prompts: list[str], trainer: Any) -> dict[str, Any]:
        asked.append(list(prompts))
        ids = [trainer.processing_class(prompt)["input_ids"] for prompt in prompts]
        completions = [[3 + i % 8, 1] for i in range(len(prompts))]
        return {"prompt_ids": ids, "completion_ids": completions, "logprobs": [[-1.0, -1.0]] * len(prompts)}

    run = SelectionGRPOTrainer(
        grpo_run.model(),
        Grader(),
        grpo_run.config(tmp_path, max_steps=3),
        POOL,
        processing_class=grpo_run.tokenizer(),
        selector="dps",
        rollout_func=rolls_out,
    )
    run.train()
    text_of = dict(zip(POOL["prompt_id"], POOL["prompt"], strict=True))
    recorded = [(step, text_of[prompt_id]) for step, prompt_id, *_ in rows(history_of(tmp_path))]
    assert sorted(recorded) == sorted((step, text) for step, texts in enumerate(asked) for text in set(texts))


class Adding:
    """An environment that gives its prompts itself, and has two kinds."""

    def reset(self, prompt_id: str, **_: Any) -> str:
        self.number = int(prompt_id.removeprefix("e"))
        return f"{self.number:x}"

    def get_reward(self) -> float:
        return float(self.number % 3 == 0)


class Counting(Adding):
    pass


def chat_tokenizer() -> Any:
    tokenizer: Any = grpo_run.tokenizer()
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message.content }}{% for call in message.tool_calls or [] %}"
        "{{ call.function.name }}{{ call.function.arguments | tojson }}{% endfor %}{% endfor %}"
    )
    tokenizer.response_template = {
        "defaults": {"role": "assistant"},
        "start_anchor": "f",
        "fields": {"content": {"close": "eos"}},
    }
    return tokenizer


def in_environments(folder: Path, columns: dict[str, list[Any]], factory: Any, **settings: Any) -> SelectionGRPOTrainer:
    return SelectionGRPOTrainer(
        grpo_run.model(),
        None,
        grpo_run.config(folder, max_steps=3),
        Dataset.from_dict(columns),
        processing_class=chat_tokenizer(),
        environment_factory=factory,
        **settings,
    )


IDS = [f"e{i}" for i in range(12)]
KINDS = ["adding", "counting"] * 6


@pytest.mark.filterwarnings("ignore:You are using 'environment_factory':UserWarning")
def test_environments_may_give_the_prompts_if_the_dataset_has_ids(tmp_path: Path) -> None:
    factories = {"adding": Adding, "counting": Counting}
    run = in_environments(tmp_path, {"prompt_id": IDS, "environment": KINDS}, factories, selector="rate")
    run.train()
    history = history_of(tmp_path)
    assert set(history.columns) == {"environment"}
    solved = {prompt_id: 4 * (int(prompt_id[1:]) % 3 == 0) for prompt_id in IDS}
    assert [row[1:4] for row in rows(history)] == [(row[1], 4, solved[row[1]]) for row in rows(history)]
    assert len(history.step) == 6


def test_prompts_that_are_not_there_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"has no column 'prompt': it has task; if an environment gives the prompts, add"
    ):
        in_environments(tmp_path, {"task": KINDS}, Adding)
    with pytest.raises(
        InputError, match=r"wants the policy to read the prompts, and the dataset has no column 'prompt'"
    ):
        in_environments(tmp_path, {"prompt_id": IDS}, Adding)
