"""Read and write the file of a selector's state, which may hold a session's state too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from promptdyn.errors import InputError
from promptdyn.storage import flatten, nest, read_state, write_state

__all__ = ["load_selector", "model_of", "write_selector"]

# Parts of the state that hold arrays, under "arrays".
PARTS = ("online", "strategy", "unsettled")


def write_selector(path: str | Path, state: Mapping[str, Any]) -> None:
    """Write a state to one .npz file, atomically; the file has a version and needs no pickle."""
    values = {name: value for name, value in state.items() if name != "times_seen"}
    for part in PARTS:
        values[part] = {name: value for name, value in state[part].items() if name != "arrays"}
    arrays = {"": {"times_seen": state["times_seen"]}, **{part: state[part]["arrays"] for part in PARTS}}
    write_state(path, "selector", values, flatten(arrays))


def _read(path: str | Path) -> dict[str, Any]:
    """Read the state that `write_selector` wrote."""
    state, arrays = read_state(path, "selector")
    nested = nest(arrays, PARTS)
    for part in PARTS:
        values = state.get(part, {})
        if not isinstance(values, dict):
            raise InputError(f"{path}: the selector's state is not whole ({part}={values!r}): start without it")
        state[part] = {**values, "arrays": nested[part]}
    return state | nested[""]


def load_selector(path: str | Path, load_state_dict: Callable[[Mapping[str, Any]], None]) -> None:
    """Read the state that `write_selector` wrote and hand it to `load_state_dict`.

    Raises:
        InputError: the file is missing, of another kind or damaged, or `load_state_dict` refuses the state; the message
            names the file.
    """
    state = _read(path)
    try:
        load_state_dict(state)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def model_of(path: str | Path) -> dict[str, Any]:
    """Return the name and settings of the model of a saved selector. Raises as `load_selector` does."""
    try:
        return dict(_read(path)["online"]["model"])
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: the selector's state is not whole ({error!r}): start without it") from None
