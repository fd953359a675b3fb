"""Check the saved state of a filter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from promptdyn.errors import InputError
from promptdyn.features import as_features
from promptdyn.online.recursion import Recursion
from promptdyn.online.state import fresh_state, restored

__all__ = ["SavedFilter", "load_state"]

# A state is checked by its forecasts for so many rollouts, which may be so far from probabilities.
TRIED, TOLERANCE = 8, 1e-4


class SavedFilter(NamedTuple):
    """What a filter was when it was saved."""

    ids: list[str]  # (prompt,)
    clusters: list[str | None]  # (prompt,)
    steps: int  # number of steps that it had absorbed
    state: Any  # of the model


def load_state(saved: Mapping[str, Any], model: Recursion, ids: Sequence[str], num_features: int | None) -> SavedFilter:
    """Check what `OnlineFilter.state_dict` returned, and return its parts.

    Args:
        saved: the saved state.
        model: the model of the filter that loads it.
        ids: (prompt,) ids of that filter.
        num_features: number of features of a prompt; None if the model uses none.

    Raises:
        InputError: the state is of another model, has none of the ids, or is damaged.
    """
    missing = [part for part in ("model", "steps", "prompt_ids", "clusters", "arrays") if part not in saved]
    if missing:
        raise InputError(f"the state has no {missing[0]!r}: it is not whole, start without it")
    if saved["model"] != model.describe():
        raise InputError(f"the state was saved by model {saved['model']}, this filter's is {model.describe()}")
    saved_ids, clusters = _names(saved, ids)
    saved_features = None
    if num_features is not None:
        features = saved["arrays"].get("features")
        if features is None or features.shape != (num_features, len(saved_ids)):
            raise InputError("the state's 'features' are not one column per prompt: start without it")
        saved_features = as_features(features.T, saved_ids)
    fresh = fresh_state(model, saved_ids, clusters, saved_features)
    state = restored(fresh, saved["arrays"], model.derived)
    for name, array in state._asdict().items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InputError(f"the state's {name!r} holds numbers that are not finite: start without it")
    if "cluster" in fresh._fields and not np.array_equal(state.cluster, fresh.cluster):
        raise InputError("the state's clusters and its labels differ: start without it")
    chances = model.outcome(state, TRIED)
    if not (np.abs(chances.sum(axis=0) - 1.0) < TOLERANCE).all() or not (chances > -TOLERANCE).all():
        raise InputError("the state's numbers give forecasts that are no probabilities: start without it")
    steps = saved["steps"]
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 0:
        raise InputError(f"the state has steps={steps!r}, which is no whole number: start without it")
    return SavedFilter(saved_ids, clusters, steps, state)


def _names(saved: Mapping[str, Any], ids: Sequence[str]) -> tuple[list[str], list[str | None]]:
    """Return the ids and cluster labels of a saved state. Raises as `load_state` does."""
    if not all(isinstance(saved[part], list | tuple) for part in ("prompt_ids", "clusters")):
        raise InputError("the state's prompt_ids or clusters are no lists: it is not whole, start without it")
    if not all(isinstance(prompt_id, str) for prompt_id in saved["prompt_ids"]):
        raise InputError("the state's prompt_ids are not all texts: it is not whole, start without it")
    saved_ids, clusters = list(saved["prompt_ids"]), list(saved["clusters"])
    row_there = {prompt_id: row for row, prompt_id in enumerate(saved_ids)}
    if len(row_there) < len(saved_ids):
        twice = next(prompt_id for row, prompt_id in enumerate(saved_ids) if row_there[prompt_id] != row)
        raise InputError(f"the state has prompt {twice!r} twice: it is not whole, start without it")
    if row_there.keys().isdisjoint(ids):
        raise InputError(
            "the state has no prompts: it is not whole, start without it"
            if not saved_ids
            else f"the state was saved for another pool: none of its {len(saved_ids)} prompts, such as "
            f"{saved_ids[0]!r}, is among this one's {len(ids)}, such as {ids[0]!r}"
        )
    if len(clusters) != len(saved_ids):
        raise InputError(f"the state has {len(clusters)} clusters for {len(saved_ids)} prompts: start without it")
    return saved_ids, clusters
