"""Procedural arithmetic and sequence tasks: short prompts and exact answers, within reach of the embedded policy.

A *kind* is a task at one difficulty: `add-2` is addition of 2-digit numbers. A *family* is made of parts, each with its
kinds and its share of a pool. Items come from reasoning-gym if it has the task, with their questions written shortly. A
prompt belongs either to the train split or to the test split in every pool, so a held-out pool shares no prompt with
any training pool.

This module knows nothing of policies and trainers.
"""

from __future__ import annotations

import ast
import hashlib
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

from promptdyn.errors import InputError

__all__ = [
    "FAMILIES",
    "SPLITS",
    "Kind",
    "Part",
    "exact_answer",
    "held_out",
    "make_pool",
    "makes_target",
    "stream",
]

SPLITS = ("train", "test")
TEST_SHARE = 5  # one prompt in five is in the test split
PATIENCE = 2000  # draws without a new prompt after which a kind counts as exhausted

Draw = Callable[[int], tuple[str, str] | None]  # index -> (prompt, answer), or None to skip the index


@dataclass(frozen=True)
class Kind:
    """A task at one difficulty.

    Attributes:
        task: name of the task, such as "add".
        difficulty: 1 is easiest; comparable within a task only.
        source: function of a seed that returns the function which draws the (prompt, answer) of an index.
        longest_prompt: most characters of a prompt; items with longer ones are skipped. Default 17.
        longest_answer: most characters of an answer; default 7, which with the end-of-sequence token makes 8 tokens.
    """

    task: str
    difficulty: int
    source: Callable[[int], Draw]
    longest_prompt: int = 17
    longest_answer: int = 7

    @property
    def name(self) -> str:
        """Task and difficulty, such as "add-2"."""
        return f"{self.task}-{self.difficulty}"


@dataclass(frozen=True)
class Part:
    """A part of a family: some kinds and their common share of a pool.

    Attributes:
        name: name of the part, such as "frontier".
        share: share of a pool's prompts; the shares of a family add up to 1.
        kinds: kinds with equal shares, as far as each has enough prompts.
    """

    name: str
    share: float
    kinds: tuple[Kind, ...]


def make_pool(
    name: str = "arithmetic", num_prompts: int = 1000, seed: int = 0, split: str = "train"
) -> list[dict[str, Any]]:
    """Draw a pool of distinct prompts, with each part of a family in its share.

    Args:
        name: family, one of `FAMILIES`.
        num_prompts: prompts in the pool, at least 1.
        seed: random seed; the same arguments give the same pool on every machine.
        split: "train" or "test"; they share no prompt, whatever the other arguments.

    Returns:
        One row per prompt, with the kinds of a part interleaved. Columns: `prompt_id` (such as "add-2/47+85=", the same
        in every pool), `prompt` (at most 17 characters), `answer` (at most 7), `task`, `difficulty` (int).

    Raises:
        InputError: the family or split is unknown, or `num_prompts` is below 1 or more than the family has.
    """
    parts = _parts(name)
    if num_prompts < 1:
        raise InputError(f"num_prompts is {num_prompts}: ask for at least 1")
    pool: dict[str, dict[str, Any]] = {}  # by prompt, since two kinds may draw the same prompt
    share = 0.0
    for part in parts:
        share += part.share
        target_size = round(num_prompts * share)
        streams = [stream(kind, seed, split) for kind in part.kinds]
        while len(pool) < target_size:
            if not streams:
                source = f"family {name!r}" + (f", part {part.name!r}," if len(parts) > 1 else "")
                raise InputError(
                    f"{source} has {len(pool)} prompts in split {split!r}: ask for no more, not {target_size}"
                )
            for rows in list(streams):
                row = _fresh(rows, pool)
                if row is None:
                    streams.remove(rows)
                elif len(pool) < target_size:
                    pool[row["prompt"]] = row
    return list(pool.values())


def held_out(name: str, prompts_per_kind: int, seed: int = 0) -> list[dict[str, Any]]:
    """Draw distinct prompts of the test split, equally many of each kind of a family, to measure accuracy by kind.

    Args:
        name: family, one of `FAMILIES`.
        prompts_per_kind: at least 1; a kind with fewer prompts gives all it has.
        seed: random seed.

    Returns:
        Rows as those of `make_pool`, kind after kind.

    Raises:
        InputError: the family is unknown, or `prompts_per_kind` is below 1.
    """
    parts = _parts(name)
    if prompts_per_kind < 1:
        raise InputError(f"prompts_per_kind is {prompts_per_kind}: ask for at least 1")
    rows_by_prompt: dict[str, dict[str, Any]] = {}
    for kind in (kind for part in parts for kind in part.kinds):
        rows, missing = stream(kind, seed, "test"), prompts_per_kind
        while missing and (row := _fresh(rows, rows_by_prompt)):
            rows_by_prompt[row["prompt"]] = row
            missing -= 1
    return list(rows_by_prompt.values())


def _parts(name: str) -> tuple[Part, ...]:
    if name not in FAMILIES:
        raise InputError(f"no task family {name!r}: choose one of {', '.join(FAMILIES)}")
    return FAMILIES[name]


def _fresh(rows: Iterator[dict[str, Any]], pool: dict[str, Any]) -> dict[str, Any] | None:
    """Return the next row whose prompt is not in the pool; None if the kind is exhausted."""
    return next((row for row in islice(rows, PATIENCE) if row["prompt"] not in pool), None)


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
            "prompt_id": f"{kind.name}/{prompt}",
            "prompt": prompt,
            "answer": answer,
            "task": kind.task,
            "difficulty": kind.difficulty,
        }
        for prompt, answer in filter(None, map(draw, count()))
        if len(prompt) <= kind.longest_prompt and len(answer) <= kind.longest_answer and _split(prompt) == split
    )


def exact_answer(completions: list[Any], answer: list[Any], **_: Any) -> list[float]:
    """Reward 1.0 if the first line of a completion is the answer, else 0.0: a reward function in TRL's form.

    Args:
        completions: (rollout,) texts without special tokens, or lists of messages, whose last message counts.
        answer: (rollout,) right answers; blanks around answer and completion are ignored.

    Returns:
        (rollout,) rewards.
    """
    texts = [completion if isinstance(completion, str) else completion[-1]["content"] for completion in completions]
    return [
        float(text.split("\n", 1)[0].strip() == str(right).strip()) for text, right in zip(texts, answer, strict=True)
    ]


def makes_target(completions: list[Any], prompts: list[Any], **_: Any) -> list[float]:
    """Reward 1.0 if a completion makes the target from all the numbers, each once, else 0.0: for "countdown".

    Args:
        completions: (rollout,) texts without special tokens: sums, differences and products, with brackets.
        prompts: (rollout,) such as "24?8,3,1=": make 24 of 8, 3 and 1.

    Returns:
        (rollout,) rewards.
    """
    return [float(_makes(text.strip(), *_goal(prompt))) for text, prompt in zip(completions, prompts, strict=True)]


def _goal(prompt: str) -> tuple[int, list[int]]:
    target, numbers = prompt.rstrip("=").split("?")
    return int(target), sorted(map(int, numbers.split(",")))


def _makes(expression: str, target: int, numbers: list[int]) -> bool:
    if sorted(map(int, re.findall(r"\d+", expression))) != numbers or not re.fullmatch(r"[-+*()\d]*", expression):
        return False
    try:
        tree = ast.parse(expression, mode="eval")
        return _value(tree.body) == target
    except (SyntaxError, ValueError):
        return False


def _value(node: ast.expr) -> int:
    """Return the value of an expression of numbers with +, - and *; raise ValueError for any other."""
    match node:
        case ast.Constant(value=int(number)):
            return number
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _value(left) + _value(right)
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return _value(left) - _value(right)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _value(left) * _value(right)
        case _:
            raise ValueError(ast.dump(node))


def _split(prompt: str) -> str:
    digest = hashlib.sha256(prompt.encode()).digest()
    return "test" if int.from_bytes(digest[:8], "big") % TEST_SHARE == 0 else "train"


def _countdown(**config: Any) -> Callable[[int], Draw]:
    """Draw numbers and a target that an expression of all of them makes; the answer is such an expression."""

    def source(seed: int) -> Draw:
        import reasoning_gym

        items = reasoning_gym.create_dataset("countdown", seed=seed, **config)

        def draw(index: int) -> tuple[str, str]:
            metadata = items[index]["metadata"]
            numbers = ",".join(map(str, metadata["numbers"]))
            return f"{metadata['target']}?{numbers}=", metadata["expression"].replace(" ", "")

        return draw

    return source


def _gym(dataset: str, render: Callable[[dict[str, Any]], str | None], **config: Any) -> Callable[[int], Draw]:
    """Draw items of a reasoning-gym dataset; `render` writes the prompt from an item's metadata, or skips the item."""

    def source(seed: int) -> Draw:
        import reasoning_gym  # the import takes a second, and the reward function does not need it

        items = reasoning_gym.create_dataset(dataset, seed=seed, **config)

        def draw(index: int) -> tuple[str, str] | None:
            item = items[index]
            prompt = render(item["metadata"])
            return None if prompt is None else (prompt, str(item["answer"]))

        return draw

    return source


def _sum(num_terms: int, num_digits: int, signs: str = "+-") -> Callable[[int], Draw]:
    def render(metadata: dict[str, Any]) -> str | None:
        expression = metadata["expression"].replace(" ", "")
        return f"{expression}=" if any(sign in expression for sign in signs) else None

    size = {"min_terms": num_terms, "max_terms": num_terms, "min_digits": num_digits, "max_digits": num_digits}
    return _gym("chain_sum", render, **size)


def _product(first_digits: int, second_digits: int) -> Callable[[int], Draw]:
    """Draw products of numbers of different length, which reasoning-gym's `products` does not offer."""

    def source(seed: int) -> Draw:
        def draw(index: int) -> tuple[str, str]:
            generator = random.Random(seed + index)
            first, second = (
                generator.randrange(10 ** (digits - 1) if digits > 1 else 0, 10**digits)
                for digits in (first_digits, second_digits)
            )
            return f"{first}*{second}=", str(first * second)

        return draw

    return source


def _of_two(function: str, **config: Any) -> Callable[[int], Draw]:
    return _gym(function, lambda metadata: f"{function}({','.join(map(str, metadata['numbers']))})=", **config)


def _next_number(num_operations: int) -> Callable[[int], Draw]:
    """Draw sequences that follow a rule of `num_operations` operations, with three of the numbers shown."""

    def render(metadata: dict[str, Any]) -> str | None:
        terms = ",".join(map(str, metadata["sequence"][:-1]))
        return f"{terms},?" if metadata["rule"].count(" then ") == num_operations - 1 else None

    return _gym("number_sequence", render, min_terms=4, max_terms=4, max_complexity=num_operations)


def _digits(function: str, solve: Callable[[str], str], length: int) -> Callable[[int], Draw]:
    """Draw strings of `length` digits, which `solve` answers."""

    def source(seed: int) -> Draw:
        def draw(index: int) -> tuple[str, str]:
            digits = "".join(random.Random(seed + index).choices("0123456789", k=length))
            return f"{function}({digits})=", solve(digits)

        return draw

    return source


_ARITHMETIC = (
    *(Kind("add", digits, _sum(2, digits, "+")) for digits in (1, 2, 3)),
    *(Kind("subtract", digits, _sum(2, digits, "-")) for digits in (1, 2, 3)),
    *(Kind("chain", digits, _sum(3, digits)) for digits in (1, 2)),
    *(Kind("multiply", level, _product(*digits)) for level, digits in ((1, (1, 1)), (2, (2, 1)), (3, (2, 2)))),
    Kind("gcd", 1, _of_two("gcd", max_value=99)),
    Kind("lcm", 1, _of_two("lcm", max_value=30)),
)
_SEQUENCES = (
    *(Kind("next", operations, _next_number(operations)) for operations in (1, 2)),
    *(Kind("reverse", length - 3, _digits("rev", lambda text: text[::-1], length)) for length in (4, 5, 6, 7)),
    *(Kind("sort", length - 3, _digits("sort", lambda text: "".join(sorted(text)), length)) for length in (4, 5, 6, 7)),
)

_KINDS = {
    kind.name: kind
    for kind in (
        *_ARITHMETIC,
        *_SEQUENCES,
        Kind("add", 4, _sum(2, 4, "+")),
        Kind("subtract", 4, _sum(2, 4, "-")),
        Kind("chain", 3, _sum(3, 3)),
        Kind("chain", 4, _sum(4, 2)),
        Kind("multiply", 4, _product(3, 2)),
        Kind("multiply", 5, _product(3, 3)),
    )
}


_COUNTDOWN = _countdown(
    min_numbers=3, max_numbers=5, min_value=1, max_value=15, min_target=1, max_target=250, operators=("+", "-", "*")
)


def _part(name: str, share: float, *kinds: str) -> Part:
    return Part(name, share, tuple(_KINDS[kind] for kind in kinds))


FAMILIES: dict[str, tuple[Part, ...]] = {
    "arithmetic": (Part("all", 1.0, _ARITHMETIC),),
    "sequences": (Part("all", 1.0, _SEQUENCES),),
    "mixed": (Part("all", 1.0, (*_ARITHMETIC, *_SEQUENCES)),),
    # A search task of one kind: only the prompt itself tells whether it is within reach. The embedded policy was
    # trained on none with five numbers; answers have up to 16 tokens.
    "countdown": (Part("all", 1.0, (Kind("countdown", 1, _COUNTDOWN, longest_prompt=19, longest_answer=15),)),),
    # Prompts that the embedded policy solves, that are out of its reach, and that it can learn, which are scarce.
    "scarce": (
        _part("solved", 0.45, "add-1", "subtract-1", "reverse-1", "sort-1"),
        _part("out of reach", 0.43, "add-4", "subtract-4", "chain-3", "chain-4", "multiply-4", "multiply-5"),
        _part("frontier", 0.12, "add-2", "subtract-2", "reverse-3", "reverse-4", "sort-3", "sort-4"),
    ),
}
