"""Read and write the file of a fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError
from promptdyn.models import MODELS
from promptdyn.models.base import DynamicsLike
from promptdyn.models.checks import model_fault
from promptdyn.plugins import object_reference
from promptdyn.registry import Registry, describe
from promptdyn.storage import flatten, nest, read_state

__all__ = ["packed", "read_fit", "unpacked"]

Arrays = Mapping[str, NDArray]
T = TypeVar("T")
# How a fit's attributes are saved.
PLAIN = ("log_marginal", "num_observed", "method", "converged", "verdict", "diagnostics", "seconds")
NAMES = ("cluster_names", "prompt_ids")
SEEN = {"steps": np.int32, "marks": np.uint64}
ARRAYS = ("trace", "prompt_clusters", *SEEN)
DICTS = ("params", "draws", "sample_stats")


def packed(fit: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, NDArray]]:
    """Return JSON-able values and arrays from a fit's attributes by name.

    Raises:
        InputError: the model is no dataclass, or has a setting that is not a number, a word, or a tuple of these.
    """
    values = {
        "model": describe(fit["model"], exact=True),
        "declared": object_reference(type(fit["model"])),
        **{name: list(fit[name]) for name in NAMES},
        **{name: fit[name] for name in PLAIN},
    }
    return values, flatten({"": {name: fit[name] for name in ARRAYS}, **{part: fit[part] for part in DICTS}})


def unpacked(values: Mapping[str, Any], arrays: Arrays, model: type[DynamicsLike]) -> dict[str, Any]:
    """Return a fit's attributes by name from what `packed` returned and the model's class.

    Raises:
        InputError, KeyError, TypeError, AttributeError: something is missing, or has another type.
    """
    parts = nest(arrays, DICTS)
    # Earlier versions did not save the steps that a fit was made on.
    own = {name: np.zeros(0, kind) for name, kind in SEEN.items()} | parts.pop("")
    if unknown := parts.keys() - set(DICTS):
        raise KeyError(min(unknown))
    registry: Registry[Any, Any] = Registry("model")
    registry.register(model)
    return {
        "model": registry.from_description(values["model"]),
        **{name: values[name] for name in PLAIN},
        **{name: tuple(values[name]) for name in NAMES},
        **{name: own[name] for name in ARRAYS},
        **parts,
    }


def read_fit(
    path: str | Path,
    model: type[DynamicsLike] | None,
    from_state: Callable[[Mapping[str, Any], Arrays, type[DynamicsLike]], T],
) -> T:
    """Read the values, the arrays and the model's class of a fit's file, and return what `from_state` makes of them.

    Args:
        path: the file.
        model: class of the model. Default: the class of that name in `MODELS`.
        from_state: a function that raises the errors of `unpacked`.

    Raises:
        InputError: the file is missing or damaged, or of another model, or of a model that is not registered.
    """
    values, arrays = read_state(path, "fit")
    with _damage_named(path):
        described: dict[str, Any] = values["model"]
        name, declared = str(described["name"]), str(values.get("declared", "FILE.py:NAME"))
    registry: Registry[Any, Any] = MODELS
    if model is not None:
        registry = Registry("model", fault=model_fault)
        if registry.register(model).name != name:
            raise InputError(f"{path}: a fit of model {name!r}, not of {model.name!r}")
    if name not in registry:
        raise InputError(
            f"{path}: a fit of model {name!r}, which is not registered: on the command line write "
            f"{declared}@{path}, in Python first MODELS.register({declared.rpartition(':')[2]})"
        )
    with _damage_named(path):
        return from_state(values, arrays, registry[name])


@contextmanager
def _damage_named(path: str | Path) -> Iterator[None]:
    """Turn errors of a damaged file into an InputError that names it."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, InputError) as error:
        raise InputError(f"{path}: not a whole fit ({error}): fit again") from None
