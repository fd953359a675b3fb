"""Raise AssertionError with the name of the model that is checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["Expect", "expectation"]

Expect = Callable[[Any, str], None]


def expectation(model: Any) -> Expect:
    """Return a function that raises AssertionError, with the model's name, unless a condition holds."""

    def expect(holds: Any, message: str) -> None:
        if not holds:
            raise AssertionError(f"model {getattr(model, 'name', model)!r}: {' '.join(message.split())}")

    return expect
