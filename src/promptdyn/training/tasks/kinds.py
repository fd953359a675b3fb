"""A kind of task at one difficulty, and the stream of its items in each split."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

from promptdyn.errors import InputError

__all__ = ["SPLITS", "Draw", "Kind", "stream"]

SPLITS = ("train", "test")
TEST_SHARE = 5  # one prompt in five is in the test split

Draw = Callable[[int], tuple[str, str] | None]
"""Index -> (prompt, answer), or None to skip the index."""


@dataclass(frozen=True)
class Kind:
    """A task at one difficulty.

    Attributes:
        task: name of the task, such as "add".
        difficulty: 1 is easiest; comparable within a task only.
        source: function of a seed that returns the function which draws the (prompt, answer) of an index.
        examples: solved examples that stand before each question, for a policy that has to be shown what is asked.
            Default "": none.
        longest_prompt: most characters of a question; items with longer ones are skipped. Default 17.
        longest_answer: most characters of an answer; default 7, which with the end-of-sequence token makes 8 tokens.
    """

    task: str
    difficulty: int
    source: Callable[[int], Draw]
    examples: str = ""
    longest_prompt: int = 17
    longest_answer: int = 7

    @property
    def name(self) -> str:
        """Task and difficulty, such as "add-2"."""
        return f"{self.task}-{self.difficulty}"


def stream(kind: Kind, seed: int = 0, split: str = "train") -> Iterator[dict[str, Any]]:
    """Draw rows of one kind without end, as rows of `make_pool`; they may repeat.

    Args:
        kind: kind to draw.
        seed: random seed.
        split: "train" or "test".

    Raises:
        InputError: the split is unknown.
    """
    if split not in SPLITS:
        raise InputError(f"no split {split!r}: choose one of {', '.join(SPLITS)}")
    # The seed of an item is the source's seed + index, so sources with seeds far apart draw different items.
    draw = kind.source(random.Random(f"{kind.name}/{seed}").getrandbits(48))
    return (
        {
            "prompt_id": f"{kind.name}/{question}",
            "prompt": kind.examples + question,
            "answer": answer,
            "task": kind.task,
            "difficulty": kind.difficulty,
        }
        for question, answer in filter(None, map(draw, count()))
        if len(question) <= kind.longest_prompt
        and len(answer) <= kind.longest_answer
        and _split(question) == split
        and f"\n{question}" not in f"\n{kind.examples}"
    )


def _split(question: str) -> str:
    digest = hashlib.sha256(question.encode()).digest()
    return "test" if int.from_bytes(digest[:8], "big") % TEST_SHARE == 0 else "train"
