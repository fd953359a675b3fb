"""Reward functions of the tasks, in TRL's form."""

from __future__ import annotations

import ast
import re
from typing import Any

__all__ = ["exact_answer", "makes_target"]


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
