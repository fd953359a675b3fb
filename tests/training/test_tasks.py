"""The embedded tasks and policy: pools that repeat, answers that are right, a policy with something left to learn."""

import asyncio
import math
import re
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch

from known import known
from promptdyn.errors import InputError
from promptdyn.training import policy, tasks

# Of a family that is slow to draw.
SMALLER = {"countdown": 30}
SOLVE = {
    "add": lambda text: eval(text),
    "subtract": lambda text: eval(text),
    "chain": lambda text: eval(text),
    "multiply": lambda text: eval(text),
    "gcd": lambda text: math.gcd(*map(int, re.findall(r"\d+", text))),
    "lcm": lambda text: math.lcm(*map(int, re.findall(r"\d+", text))),
    "reverse": lambda text: known(re.search(r"\d+", text))[0][::-1],
    "sort": lambda text: "".join(sorted(known(re.search(r"\d+", text))[0])),
}


@pytest.mark.parametrize("family", tasks.FAMILIES)
def test_pools_repeat_and_their_rows_are_what_is_promised(family):
    size = SMALLER.get(family, 300)
    pool = tasks.make_pool(family, size, seed=1)
    assert pool == tasks.make_pool(family, size, seed=1)
    assert pool != tasks.make_pool(family, size, seed=2)
    assert len({row["prompt_id"] for row in pool}) == len({row["prompt"] for row in pool}) == size
    kinds = {(kind.task, kind.difficulty): kind for part in tasks.FAMILIES[family] for kind in part.kinds}
    for row in pool:
        assert row.keys() == {"prompt_id", "prompt", "answer", "task", "difficulty"}
        kind = kinds[row["task"], row["difficulty"]]
        assert row["prompt"].startswith(kind.examples)
        assert len(row["prompt"]) - len(kind.examples) <= kind.longest_prompt
        assert 1 <= len(row["answer"]) <= kind.longest_answer
    assert {(row["task"], row["difficulty"]) for row in pool} == kinds.keys()


@pytest.mark.parametrize("family", tasks.FAMILIES)
def test_answers_are_right(family):
    pool = tasks.make_pool(family, SMALLER.get(family, 300))
    if family == "countdown":
        rewards = tasks.makes_target([row["answer"] for row in pool], [row["prompt"] for row in pool])
        assert rewards == [1.0] * len(pool)
        return
    checked = [row for row in pool if row["task"] in SOLVE]
    for row in checked:
        text = row["prompt"].split("\n")[-1].rstrip("=").replace("x", "*")
        assert str(SOLVE[row["task"]](text)) == row["answer"], row
    assert len(checked) >= 0.8 * len(pool)


def test_what_is_held_out_is_in_no_training_pool():
    for family in tasks.FAMILIES:
        size = SMALLER.get(family, 100)
        test, train = (
            {row["prompt_id"] for seed in range(2) for row in tasks.make_pool(family, size, seed, split=split)}
            for split in ("test", "train")
        )
        assert not test & train


def test_exact_answer_reads_the_first_line():
    completions = ["42", " 42 ", "42\nnoise", "43", "", "421"]
    assert tasks.exact_answer(completions, [42] * 6) == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    chat = [[{"role": "assistant", "content": "7"}]]
    assert tasks.exact_answer(chat, ["7"], trainer_state=None) == [1.0]
    with pytest.raises(ValueError, match="shorter"):
        tasks.exact_answer(["1", "2"], ["1"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("poetry",), "no task family 'poetry': choose one of arithmetic"),
        (("arithmetic", 0), "num_prompts is 0"),
        (("arithmetic", 10, 0, "dev"), "no split 'dev': choose one of train, test"),
    ],
)
def test_bad_pools_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        tasks.make_pool(*arguments)


@pytest.mark.parametrize(
    ("completion", "reward"),
    [
        ("8*3*1", 1.0),
        ("3*8*1", 1.0),
        ("(8*3)*1", 1.0),
        ("8*3", 0.0),  # not all the numbers
        ("8+8+8", 0.0),
        ("8*3*1*1", 0.0),
        ("8*3-1", 0.0),  # 23
        ("8*3**1", 0.0),  # no power
        ("8*3*(1", 0.0),
        ("24*1*1", 0.0),
        ("83*1", 0.0),
        ("8*3*1=24", 0.0),
        ("", 0.0),
        ("-8*-3*1", 1.0),
        ("8*3*01", 0.0),
        ("8(3)*1", 0.0),
    ],
)
def test_a_target_is_made_of_all_the_numbers(completion, reward):
    assert tasks.makes_target([f" {completion}\n"], ["24?8,3,1="], trainer_state=None) == [reward]


@pytest.mark.parametrize("name", policy.EMBEDDED)
def test_the_policies_are_small_and_load_without_a_network(monkeypatch, name):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert sum(file.stat().st_size for file in policy.EMBEDDED[name].iterdir()) < 2e6
    model, tokenizer = policy.load_policy(name)
    assert 100e3 < model.num_parameters() < 400e3
    assert tokenizer.padding_side == "left"
    for family in tasks.FAMILIES.keys() - {"few_shot"}:  # whose lines are for a general language model
        for row in tasks.make_pool(family, 100):
            for text in (row["prompt"], row["answer"]):
                assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_the_pool_has_unsolved_partly_solved_and_solved_prompts():
    model, tokenizer = policy.load_policy()
    pool = tasks.make_pool("arithmetic", 150)
    generators = torch.get_rng_state()
    counts = policy.pass_counts(model, tokenizer, pool, seed=3)
    assert torch.equal(torch.get_rng_state(), generators)
    assert (counts == policy.pass_counts(model, tokenizer, pool, seed=3)).all()
    assert counts.shape == (150,)
    shares = np.array([np.mean(counts == 0), np.mean((counts > 0) & (counts < 8)), np.mean(counts == 8)])
    assert (shares > 0.15).all(), shares
    graded = policy.pass_counts(model, tokenizer, pool, [lambda prompts, task, **_: [0.7] * len(task)], 2)
    assert (graded == 2).all()
    rewards: list[Any] = [tasks.exact_answer, lambda completions, **_: [0.3] * len(completions)]
    both = policy.pass_counts(model, tokenizer, pool, rewards, success="exact_answer", seed=3)
    assert (both == counts).all()

    async def judge(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        await asyncio.sleep(0)
        return tasks.exact_answer(completions, **columns)

    assert (policy.pass_counts(model, tokenizer, pool, [judge], seed=3) == counts).all()


def test_a_family_gives_all_it_has_and_no_more(monkeypatch):
    (whole,) = tasks.FAMILIES["arithmetic"]
    products = tuple(kind for kind in whole.kinds if kind.name == "multiply-1")
    monkeypatch.setitem(tasks.FAMILIES, "products", (tasks.Part("all", 1.0, products),))
    train, test = (len(_all_of("products", split)) for split in tasks.SPLITS)
    assert train + test == 100


def _all_of(family, split):
    with pytest.raises(InputError, match="ask for no more, not 101") as refusal:
        tasks.make_pool(family, 101, split=split)
    most = int(known(re.search(r"has (\d+) prompts", str(refusal.value)))[1])
    return tasks.make_pool(family, most, split=split)


def test_a_family_in_parts_keeps_their_shares():
    pool = tasks.make_pool("scarce", 1000, seed=5)
    kinds = [f"{row['task']}-{row['difficulty']}" for row in pool]
    for part in tasks.FAMILIES["scarce"]:
        names = {kind.name for kind in part.kinds}
        assert sum(kind in names for kind in kinds) == round(1000 * part.share)
    with pytest.raises(InputError, match=r"'scarce', part 'solved', has \d+ prompts in split 'train'"):
        tasks.make_pool("scarce", 40_000)


def test_the_questions_of_the_examples_are_not_asked():
    kinds = [kind for part in tasks.FAMILIES["few_shot"] for kind in part.kinds]
    assert {kind.examples for kind in kinds} == {"2+3=5\n17-4=13\n6*7=42\n"}
    asked = {row["prompt_id"] for kind in kinds[:3] for row in islice(tasks.stream(kind), 2000)}
    assert not asked & {"add-1/2+3=", "multiply-1/6*7="}
    assert {"add-1/2+2=", "multiply-1/6*8="} < asked


def test_held_out_prompts_are_as_many_of_each_kind():
    rows = tasks.held_out("scarce", 30, seed=2)
    train = {row["prompt"] for row in tasks.make_pool("scarce", 3000)}
    assert not train & {row["prompt"] for row in rows}
    count: dict[tuple[str, int], int] = {}
    for row in rows:
        count[row["task"], row["difficulty"]] = count.get((row["task"], row["difficulty"]), 0) + 1
    assert len(count) == 16
    assert count.pop(("add", 1)) < 30 > count.pop(("subtract", 1))  # all there are
    assert set(count.values()) == {30}
    for arguments in (("poetry", 5), ("scarce", 0)):
        with pytest.raises(InputError, match=r"poetry|prompts_per_kind is 0"):
            tasks.held_out(*arguments)
