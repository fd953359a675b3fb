"""What a test knows to be there, for the type checker."""

from typing import TypeVar

Value = TypeVar("Value")


def known(value: Value | None) -> Value:
    """The value, which is not None."""
    assert value is not None
    return value
