"""Make, check, extend and restore states of a pool, which are NamedTuples of arrays whose last axis is `prompt`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError
from promptdyn.online.pool import Pool
from promptdyn.online.recursion import Recursion

__all__ = ["check_axes", "extended", "fresh_state", "restored"]


def fresh_state(
    model: Recursion, ids: Sequence[str], labels: Sequence[str | None], features: NDArray[np.float32] | None
) -> Any:
    """Return a model's initial state of a pool.

    Args:
        model: the model; if it has no clusters, labels are not used.
        ids: (prompt,) ids, for messages.
        labels: (prompt,) cluster labels, None for a prompt without one.
        features: (prompt feature); None if the model uses none.

    Raises:
        InputError: the model has clusters and a prompt has no label, or an unknown one; or the state's fields do not
            have the axes that the model declares.
    """
    if model.cluster is None:
        pool = Pool.of_one_cluster(len(ids), features)
    elif None in labels:
        raise InputError(
            f"model {model.name!r} uses cluster={model.cluster!r}, and prompt {ids[labels.index(None)]!r} has no "
            "label: give each prompt one"
        )
    else:
        pool = Pool.from_labels([str(label) for label in labels], features)
    state = model.init(pool)
    check_axes(f"model {model.name!r}", state, len(ids), model.shared)
    return state


def check_axes(owner: str, state: Any, num_prompts: int, shared: Collection[str]) -> None:
    """Raise InputError unless the last axis of every field is `prompt`, or the field is shared.

    Args:
        owner: the model or strategy whose state it is, for the message.
        state: a NamedTuple of arrays.
        num_prompts: number of prompts.
        shared: names of the fields that all prompts share.
    """
    for name, field in state._asdict().items():
        if name not in shared and field.shape[-1:] != (num_prompts,):
            raise InputError(
                f"{owner}: field {name!r} of its state has shape {field.shape} for {num_prompts} prompts: its last "
                f"axis must be prompt, or the class must name it, shared = ({name!r},)"
            )


def extended(state: Any, fresh: Any) -> Any:
    """Return a state of more prompts, from the state of the first ones.

    Args:
        state: state of the first prompts.
        fresh: initial state of all prompts, the first ones first. It is filled in and returned.
    """
    for field, old in zip(fresh, state, strict=True):
        field[..., : old.shape[-1]] = old
    return fresh


def restored(fresh: Any, arrays: Mapping[str, NDArray], derived: Collection[str] = ()) -> Any:
    """Return a state from saved arrays.

    Args:
        fresh: initial state of the same prompts, which tells the arrays' shapes and types.
        arrays: field -> saved array.
        derived: fields that were not saved; they are taken from `fresh`.

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
