"""Rollouts are those that TRL would make: the same tokens of prompts, the same ends, the same calls of rewards."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from promptdyn import InputError
from promptdyn.training import policy
from promptdyn.training.rollout import (
    ROLLOUT_ENGINES,
    Sampling,
    TransformersGenerator,
    function_names,
    grade,
    roll_out,
)

TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


@pytest.fixture(scope="module")
def generator():
    return TransformersGenerator(*policy.load_policy(), batch_size=512)


def test_defaults_are_those_of_trl():
    defaults = {name: field.default for name, field in GRPOConfig.__dataclass_fields__.items()}
    assert {field.name: field.default for field in fields(Sampling)} == {
        field.name: defaults[field.name] for field in fields(Sampling)
    }


def test_groups_come_in_order_with_their_ends(generator):
    rollouts = roll_out(generator, ["1+1=", "10+12=", "2+2="], Sampling(5, 2), seed=1)
    assert rollouts.prompts == ["1+1="] * 5 + ["10+12="] * 5 + ["2+2="] * 5
    assert rollouts.completions[:5].count("2") >= 4
    (end,) = generator.end_ids
    for ids, text, cut_off in zip(rollouts.completion_ids, rollouts.completions, rollouts.cut_off, strict=True):
        assert cut_off == (end not in ids)
        assert ids.count(end) <= 1
        assert len(ids) == len(text) + (not cut_off) <= 2
    assert any(rollouts.cut_off) != all(rollouts.cut_off)


def test_rollouts_depend_on_the_seed_alone(generator):
    sampling, prompts = Sampling(4, 8), ["17*3=", "1+1="]
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = roll_out(generator, prompts, sampling, seed=1)
    assert torch.rand(1) == expected  # the state of the run around it is left as it was
    generator.model.train()
    try:
        assert roll_out(generator, prompts, sampling, seed=1) == first
        assert generator.model.training
    finally:
        generator.model.eval()
    assert roll_out(generator, prompts, sampling, seed=2) != first


def test_temperature_0_takes_the_likeliest(generator):
    rollouts = roll_out(generator, ["2+2="], Sampling(3, 8, temperature=0.0))
    assert rollouts.completions == ["4"] * 3


def test_conversations_use_the_chat_template():
    model, tokenizer = policy.load_policy()
    tokenizer.chat_template = TEMPLATE
    chat = [{"role": "user", "content": "1+"}, {"role": "user", "content": "1="}]
    generator = TransformersGenerator(model, tokenizer)
    rollouts = roll_out(generator, [chat, chat], Sampling(2, 8, temperature=0.0))
    assert rollouts.prompts == [chat] * 4
    assert rollouts.completions == [[{"role": "assistant", "content": "2"}]] * 4


def test_prompts_that_cannot_be_completed(generator):
    model, tokenizer = policy.load_policy()
    tokenizer.chat_template = TEMPLATE
    with pytest.raises(InputError, match="has no token: leave it out"):
        roll_out(TransformersGenerator(model, tokenizer), [[{"role": "user", "content": ""}]], Sampling())
    with pytest.raises(InputError, match="no chat template: give texts"):
        roll_out(generator, [[{"role": "user", "content": "1+1="}]], Sampling())


def test_reward_functions_receive_what_trl_gives_them(generator):
    seen: dict[str, object] = {}

    def plain(prompts, completions, completion_ids, answer, trainer_state, log_extra, log_metric):
        log_extra("column", completions)
        log_metric("metric", 1.0)
        seen.update(step=trainer_state.global_step, answer=answer)
        return [float(text == right) for text, right in zip(completions, answer, strict=True)]

    async def judge(completions, **_):
        return [None if text == "4" else 2.0 for text in completions]

    rows = [{"prompt": "1+1=", "answer": "2"}, {"prompt": "2+2=", "answer": "5"}]
    rollouts = roll_out(generator, ["1+1=", "2+2="], Sampling(2, 8, temperature=0.0))
    rewards = grade(rollouts, rows, [plain, judge, judge], [1.0, 0.5, 0.0], step=7)
    assert seen == {"step": 7, "answer": ["2", "2", "5", "5"]}
    assert rewards.functions == ("plain", "judge", "judge_2") == tuple(function_names([plain, judge, judge]))
    expected = np.array([[1, 2, 2], [1, 2, 2], [0, np.nan, np.nan], [0, np.nan, np.nan]])
    assert np.array_equal(rewards.values, expected, equal_nan=True)
    assert rewards.folded.tolist() == [2.0, 2.0, 0.0, 0.0]


def test_trl_makes_the_same_rollouts_and_calls(tmp_path, generator):
    rows = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a, b in ((1, 1), (12, 7), (3, 40), (15, 15))]
    called: list[dict[str, object]] = []

    def noted(**batch):
        called.append(batch)
        return [0.0] * len(batch["completions"])

    args = GRPOConfig(
        str(tmp_path), max_steps=1, per_device_train_batch_size=8, num_generations=2, max_completion_length=8, top_k=1,
        use_cpu=True, bf16=False, report_to="none", save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    model, tokenizer = policy.load_policy()
    GRPOTrainer(model, noted, args, Dataset.from_list(rows), processing_class=tokenizer).train()
    sampling = Sampling(2, 8, top_k=1)
    grade(roll_out(generator, [row["prompt"] for row in rows], sampling), rows, [noted])
    by_trl, here = called
    assert by_trl.keys() == here.keys()
    for name in ("completions", "completion_ids", "answer"):
        pairs = [sorted(zip(batch["prompts"], batch[name], strict=True)) for batch in called]  # type: ignore[call-overload]
        assert pairs[0] == pairs[1], name


def test_engines_are_named_with_their_settings(tmp_path):
    engine = ROLLOUT_ENGINES.parse_one("transformers:batch_size=12,dtype=bfloat16")
    loaded = engine.load(str(policy.EMBEDDED["embedded"]))
    assert isinstance(loaded, TransformersGenerator)
    assert loaded.model.dtype == torch.bfloat16
    with pytest.raises(InputError, match="sample at least 1 rollout"):
        ROLLOUT_ENGINES.parse_one("transformers:batch_size=0")
    with pytest.raises(InputError, match="has no setting 'tensor_parallel'"):
        ROLLOUT_ENGINES.parse_one("vllm:tensor_parallel=2")
    with pytest.raises(InputError, match="cannot be loaded by transformers"):
        engine.load(str(tmp_path / "nothing"))


def test_too_little_memory_says_what_to_set(generator, monkeypatch):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.\nmore")

    monkeypatch.setattr(generator.model, "generate", fail)
    with pytest.raises(InputError, match="transformers:batch_size=256"):
        roll_out(generator, ["1+1="], Sampling())
