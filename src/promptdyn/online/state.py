"""States of a pool: NamedTuples of arrays whose last axis is `prompt`, but for fields that the prompts share."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from numpy.typing import NDArray

from promptdyn.errors import InputError

__all__ = ["check_axes", "extended", "restored"]


def check_axes(owner: str, state: Any, num_prompts: int, shared: Collection[str]) -> None:
    """Raise InputError unless the last axis of every field is `prompt`, or the field is one of the shared ones.

    Args:
        owner: whose state it is, for the message.
        state: a NamedTuple of arrays.
        num_prompts: how many prompts it is of.
        shared: names of the fields that the prompts share.
    """
    for name, field in state._asdict().items():
        if name not in shared and field.shape[-1:] != (num_prompts,):
            raise InputError(
                f"{owner}: field {name!r} of its state has shape {field.shape} for {num_prompts} prompts: its last "
                f"axis must be prompt, or the class must name it, shared = ({name!r},)"
            )


def extended(state: Any, fresh: Any) -> Any:
    """A state with room for more prompts.

    Args:
        state: of the prompts so far.
        fresh: of these and of others after them, at their start; it is filled in.
    """
    for field, old in zip(fresh, state, strict=True):
        field[..., : old.shape[-1]] = old
    return fresh


def restored(fresh: Any, arrays: Mapping[str, NDArray], derived: Collection[str] = ()) -> Any:
    """The state that was saved as named arrays.

    Args:
        fresh: a state of the same prompts at their start, whose fields say what the arrays must be.
        arrays: field -> array.
        derived: fields that were not saved, and are as in `fresh`.

    Raises:
        InputError: an array is missing, or has another shape or type.
    """
    fields = {}
    for name, field in fresh._asdict().items():
        array = field if name in derived else arrays.get(name)
        if array is None or array.shape != field.shape or array.dtype != field.dtype:
            raise InputError(f"the state's {name!r} is not the {field.shape} array it should be: start without it")
        fields[name] = array.copy()
    return type(fresh)(**fields)
