"""The file of a selector's state, which a session's state goes into as well."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from promptdyn.errors import InputError
from promptdyn.storage import read_state, write_state

__all__ = ["load_selector", "model_of", "write_selector"]

# Parts of the state that hold arrays of their own, under "arrays".
PARTS = ("online", "strategy", "unsettled")


def write_selector(path: str | Path, state: Mapping[str, Any]) -> None:
    """Write a state to one .npz file (versioned, no pickle), atomically."""
    arrays = {"times_seen": state["times_seen"]}
    values = {name: value for name, value in state.items() if name != "times_seen"}
    for part in PARTS:
        values[part] = {name: value for name, value in state[part].items() if name != "arrays"}
        arrays |= {f"{part}/{name}": array for name, array in state[part]["arrays"].items()}
    write_state(path, "selector", values, arrays)


def _read(path: str | Path) -> dict[str, Any]:
    """The state that `write_selector` wrote."""
    state, arrays = read_state(path, "selector")
    parts: dict[str, dict[str, NDArray]] = {part: {} for part in PARTS}
    for name, array in arrays.items():
        part, _, rest = name.partition("/")
        if part in parts:
            parts[part][rest] = array
        else:
            state[name] = array
    for part, own in parts.items():
        values = state.get(part, {})
        if not isinstance(values, dict):
            raise InputError(f"{path}: the selector's state is not whole ({part}={values!r}): start without it")
        state[part] = {**values, "arrays": own}
    return state


def load_selector(path: str | Path, load_state_dict: Callable[[Mapping[str, Any]], None]) -> None:
    """Hand the state that `write_selector` wrote to what goes on with it.

    Raises:
        InputError: no such file, one of another kind, one that is damaged or not whole, or what `load_state_dict`
            says, with the file's name.
    """
    state = _read(path)
    try:
        load_state_dict(state)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def model_of(path: str | Path) -> dict[str, Any]:
    """What the model that the saved selector of a file goes by is described as; raises as `load_selector`."""
    try:
        return dict(_read(path)["online"]["model"])
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: the selector's state is not whole ({error!r}): start without it") from None
