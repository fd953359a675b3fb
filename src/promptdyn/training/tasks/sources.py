"""Where items come from: functions that return a `Kind.source`. Those of reasoning-gym are written shortly."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from promptdyn.training.tasks.kinds import Draw

__all__ = ["countdown", "digits", "next_number", "of_two", "product", "sum_of"]


def countdown(**config: Any) -> Callable[[int], Draw]:
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


def sum_of(num_terms: int, num_digits: int, signs: str = "+-") -> Callable[[int], Draw]:
    def render(metadata: dict[str, Any]) -> str | None:
        expression = metadata["expression"].replace(" ", "")
        return f"{expression}=" if any(sign in expression for sign in signs) else None

    size = {"min_terms": num_terms, "max_terms": num_terms, "min_digits": num_digits, "max_digits": num_digits}
    return _gym("chain_sum", render, **size)


def product(first_digits: int, second_digits: int) -> Callable[[int], Draw]:
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


def of_two(function: str, **config: Any) -> Callable[[int], Draw]:
    return _gym(function, lambda metadata: f"{function}({','.join(map(str, metadata['numbers']))})=", **config)


def next_number(num_operations: int) -> Callable[[int], Draw]:
    """Draw sequences that follow a rule of `num_operations` operations, with three of the numbers shown."""

    def render(metadata: dict[str, Any]) -> str | None:
        terms = ",".join(map(str, metadata["sequence"][:-1]))
        return f"{terms},?" if metadata["rule"].count(" then ") == num_operations - 1 else None

    return _gym("number_sequence", render, min_terms=4, max_terms=4, max_complexity=num_operations)


def digits(function: str, solve: Callable[[str], str], length: int) -> Callable[[int], Draw]:
    """Draw strings of `length` digits, which `solve` answers."""

    def source(seed: int) -> Draw:
        def draw(index: int) -> tuple[str, str]:
            digits = "".join(random.Random(seed + index).choices("0123456789", k=length))
            return f"{function}({digits})=", solve(digits)

        return draw

    return source
