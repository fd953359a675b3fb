"""Pre-train an embedded policy, which ships as package data. About three minutes on two cores:

    python scripts/pretrain_policy.py --seed 0
    python scripts/pretrain_policy.py --policy embedded_countdown --seed 0

A small Llama learns to answer the tasks of `promptdyn.training.tasks` (train split only) a character at a time. Harder
kinds are shown less often, and training stops early, so that pools are left with unsolved, partly solved and solved
prompts for GRPO to work on; the shares are printed at the end.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from promptdyn.training import tasks
from promptdyn.training.loading import RewardFunction
from promptdyn.training.policy import EMBEDDED, pass_counts

CHARACTERS = "0123456789+-*=?,() abcdefghijklmnopqrstuvwxyz"
PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
# What each policy is trained on, items of each kind, and how they are graded afterwards.
FAMILY = {"embedded": "mixed", "embedded_countdown": "countdown"}
# A third of the countdown prompts are of more numbers than the policy has ever seen.
MOST_NUMBERS = 4
LENGTH = {"embedded": 8, "embedded_countdown": 16}  # tokens of an answer
ITEMS_PER_KIND = {"embedded": 4000, "embedded_countdown": 20_000}
REWARD: dict[str, RewardFunction] = {"embedded": tasks.exact_answer, "embedded_countdown": tasks.makes_target}
BATCH_SIZE, LEARNING_RATE = 256, 3e-3
# How much less often a kind is shown for every step of difficulty, and these tasks altogether: copying digits is
# learned much sooner than arithmetic.
FADE = 0.5
SHARE = {"reverse": 0.5, "sort": 0.5}
# Share of answers shown with a wrong digit, by difficulty. What is learned from them, a habit of slips on top of the
# right rule, is what reinforcement learning can unlearn for prompts it has never seen.
MISTAKES = {1: 0.0, 2: 0.25, 3: 0.35, 4: 0.45}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Characters, "<bos>" in front, padding on the left."""
    vocabulary = {token: index for index, token in enumerate([PAD, BOS, EOS, *CHARACTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=PAD))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, vocabulary[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        padding_side="left",
        model_max_length=64,
    )


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=96,
            intermediate_size=192,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=64,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def shown(rows: Iterable[dict]) -> Iterator[dict]:
    """The rows that a policy learns from."""
    return (row for row in rows if row["task"] != "countdown" or row["prompt"].count(",") < MOST_NUMBERS)


def slip(row: dict, generator: random.Random) -> dict:
    """The row, sometimes with a wrong digit in its answer."""
    if generator.random() >= MISTAKES[row["difficulty"]]:
        return row
    answer = list(row["answer"])
    place = generator.choice([i for i, character in enumerate(answer) if character.isdigit()])
    answer[place] = generator.choice([digit for digit in "0123456789" if digit != answer[place]])
    return {**row, "answer": "".join(answer)}


def make_batch(rows: list[dict], tokenizer: PreTrainedTokenizerFast) -> dict[str, torch.Tensor]:
    """Left-padded prompts with their answers; only answers and the end are learned."""
    texts = [row["prompt"] + row["answer"] + EOS for row in rows]
    batch = tokenizer(texts, return_tensors="pt", padding=True, return_token_type_ids=False)
    labels = batch["input_ids"].clone()
    for row, label in zip(rows, labels, strict=True):
        label[: -len(row["answer"]) - 1] = -100
    positions = (batch["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
    return {**batch, "labels": labels, "position_ids": positions}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--policy", choices=EMBEDDED, default="embedded")
    parser.add_argument("--out", type=Path, help="folder; default where the package has it")
    arguments = parser.parse_args()
    out = arguments.out or EMBEDDED[arguments.policy]
    torch.manual_seed(arguments.seed)
    generator = random.Random(arguments.seed)
    console = Console()

    kinds = [kind for part in tasks.FAMILIES[FAMILY[arguments.policy]] for kind in part.kinds]
    # A seed of its own: pools are drawn with small seeds.
    each = ITEMS_PER_KIND[arguments.policy]
    items = {kind.name: list(islice(shown(tasks.stream(kind, 10_000 + arguments.seed)), each)) for kind in kinds}
    weights = [SHARE.get(kind.task, 1.0) * FADE ** (kind.difficulty - 1) for kind in kinds]
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    console.print(f"{model.num_parameters():,} parameters, {len(kinds)} kinds of prompts")

    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, arguments.steps, pct_start=0.1)
    for step in track(range(arguments.steps), "pre-training", console=console):
        drawn = generator.choices(kinds, weights, k=BATCH_SIZE)
        rows = [slip(generator.choice(items[kind.name]), generator) for kind in drawn]
        loss = model(**make_batch(rows, tokenizer)).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 200 == 0 or step == arguments.steps - 1:
            console.print(f"step {step}: loss {loss.item():.3f}")

    with tempfile.TemporaryDirectory() as folder:
        # Half precision on disk; `load_policy` widens it again, so what is measured below is what ships.
        model.half().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        out.mkdir(parents=True, exist_ok=True)
        for file in Path(folder).iterdir():
            shutil.copyfile(file, out / file.name)
    model.float()

    table = Table("pool", "unsolved", "partly", "solved", "accuracy")
    for family in tasks.FAMILIES:
        if (family == "countdown") != (arguments.policy == "embedded_countdown"):
            continue
        pool = tasks.make_pool(family, 600)
        length = LENGTH[arguments.policy]
        counts = pass_counts(model, tokenizer, pool, [REWARD[arguments.policy]], max_completion_length=length)
        by_kind: dict[str, list[int]] = {}
        for row, count in zip(pool, counts, strict=True):
            numbers = f"{row['prompt'].count(',') + 1} numbers"
            name = numbers if family == "countdown" else f"{row['task']}-{row['difficulty']}"
            by_kind.setdefault(name, []).append(count)
        for name, values in {f"[b]{family}[/b]": counts, **dict(sorted(by_kind.items()))}.items():
            k = np.asarray(values)
            shares = (np.mean(k == 0), np.mean((k > 0) & (k < 8)), np.mean(k == 8), k.mean() / 8)
            table.add_row(name, *(f"{share:.2f}" for share in shares))
    console.print(table)


if __name__ == "__main__":
    main()
