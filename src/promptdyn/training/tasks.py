"""Procedural arithmetic and sequence tasks with short prompts and exact answers, small enough for the embedded policy.

A *kind* is a task at one difficulty ("add" of 2-digit numbers is `add-2`); a *family* is a list of kinds. Where
reasoning-gym has a fitting task we draw from it and render its question shortly. Every content is in the train
split or in the test split, whatever the seed and family, so a held-out pool shares no prompt with any training pool.

Knows nothing of policies and trainers.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

from promptdyn.errors import InputError

__all__ = ["FAMILIES", "MAX_ANSWER_LENGTH", "MAX_PROMPT_LENGTH", "SPLITS", "Kind", "exact_answer", "make_pool", "stream"]

MAX_PROMPT_LENGTH = 16  # characters
MAX_ANSWER_LENGTH = 7  # characters; with the end-of-sequence token, 8 tokens
SPLITS = ("train", "test")
TEST_SHARE = 5  # one content in five is held out
PATIENCE = 2000  # draws without a new content after which a kind counts as exhausted

Drawer = Callable[[int], tuple[str, str]]  # index -> prompt, answer


@dataclass(frozen=True)
class Kind:
    """A task at one difficulty.

    Attributes:
        task: name of the task, such as "add".
        difficulty: 1 is easiest; comparable within a task only.
        drawer: from a seed to a function that draws the i-th (prompt, answer).
        accepts: which prompts belong to the kind; others are drawn again.
    """

    task: str
    difficulty: int
    drawer: Callable[[int], Drawer]
    accepts: Callable[[str], bool] = lambda prompt: True

    @property
    def name(self) -> str:
        return f"{self.task}-{self.difficulty}"


def make_pool(
    name: str = "arithmetic", num_prompts: int = 1000, seed: int = 0, split: str = "train"
) -> list[dict[str, Any]]:
    """A pool of distinct prompts, the family's kinds in equal shares as far as they have enough contents.

    Args:
        name: family, one of `FAMILIES`.
        num_prompts: prompts in the pool, at least 1.
        seed: of the draw; the same arguments give the same pool, on every machine.
        split: "train" or "test"; the two share no content, whatever the other arguments.

    Returns:
        One row per prompt, kinds interleaved, with columns `prompt_id` (such as "add-2/47+85=", stable because made of
        the content), `prompt` (at most 16 characters), `answer` (at most 7), `task` and `difficulty` (int).

    Raises:
        InputError: an unknown family or split, fewer than 1 prompt, or more than the family has.
    """
    if name not in FAMILIES:
        raise InputError(f"no task family {name!r}: choose one of {', '.join(FAMILIES)}")
    if num_prompts < 1:
        raise InputError(f"num_prompts is {num_prompts}: ask for at least 1")
    pool: dict[str, dict[str, Any]] = {}
    streams = [stream(kind, seed, split) for kind in FAMILIES[name]]
    while len(pool) < num_prompts:
        if not streams:
            raise InputError(
                f"family {name!r} has about {len(pool)} prompts in split {split!r}, {num_prompts} were asked for: "
                "ask for fewer"
            )
        for draws in list(streams):
            fresh = next((row for _, row in zip(range(PATIENCE), draws, strict=False) if row["prompt_id"] not in pool), None)
            if fresh is None:
                streams.remove(draws)
            elif len(pool) < num_prompts:
                pool[fresh["prompt_id"]] = fresh
    return list(pool.values())


def stream(kind: Kind, seed: int = 0, split: str = "train") -> Iterator[dict[str, Any]]:
    """Endless draws of one kind, repeats included, as rows of `make_pool`.

    Raises:
        InputError: an unknown split.
    """
    if split not in SPLITS:
        raise InputError(f"no split {split!r}: choose one of {', '.join(SPLITS)}")
    # reasoning-gym seeds its i-th item with seed + i: seeds far apart keep the draws of two pools apart
    draw = kind.drawer(random.Random(f"{kind.name}/{seed}").getrandbits(48))
    return (
        {
            "prompt_id": f"{kind.name}/{prompt}",
            "prompt": prompt,
            "answer": answer,
            "task": kind.task,
            "difficulty": kind.difficulty,
        }
        for prompt, answer in map(draw, count())
        if len(prompt) <= MAX_PROMPT_LENGTH
        and len(answer) <= MAX_ANSWER_LENGTH
        and kind.accepts(prompt)
        and _split(prompt) == split
    )


def exact_answer(completions: list[Any], answer: list[str], **_: Any) -> list[float]:
    """Reward function as TRL calls them: 1.0 where the completion's first line is the answer, else 0.0.

    Args:
        completions: (rollout,) texts, or message lists whose last message counts, without special tokens.
        answer: (rollout,) the right answers; blanks around either are ignored.

    Returns:
        (rollout,) rewards.
    """
    texts = [text if isinstance(text, str) else text[-1]["content"] for text in completions]
    return [
        float(text.split("\n", 1)[0].strip() == str(right).strip())
        for text, right in zip(texts, answer, strict=True)
    ]


def _split(prompt: str) -> str:
    digest = hashlib.sha256(prompt.encode()).digest()
    return "test" if int.from_bytes(digest[:8], "big") % TEST_SHARE == 0 else "train"


def _gym(dataset: str, render: Callable[[dict[str, Any]], str], **config: Any) -> Callable[[int], Drawer]:
    """Draws from a reasoning-gym dataset, with the question rendered from the item's metadata."""

    def drawer(seed: int) -> Drawer:
        import reasoning_gym

        items = reasoning_gym.create_dataset(dataset, seed=seed, **config)

        def draw(index: int) -> tuple[str, str]:
            item = items[index]
            return render(item["metadata"]), str(item["answer"])

        return draw

    return drawer


def _digits(function: str, solve: Callable[[str], str], length: int) -> Callable[[int], Drawer]:
    """Draws a string of digits, to be answered by `solve`."""

    def drawer(seed: int) -> Drawer:
        def draw(index: int) -> tuple[str, str]:
            digits = "".join(random.Random(seed + index).choices("0123456789", k=length))
            return f"{function}({digits})=", solve(digits)

        return draw

    return drawer


def _expression(metadata: dict[str, Any]) -> str:
    return metadata["expression"].replace(" ", "") + "="


def _sum(num_terms: int, num_digits: int) -> Callable[[int], Drawer]:
    size = {"min_terms": num_terms, "max_terms": num_terms, "min_digits": num_digits, "max_digits": num_digits}
    return _gym("chain_sum", _expression, **size)
