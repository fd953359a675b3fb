"""Run a program at given parameters, in NumPy alone: `sample` returns values from a dict, distributions are ignored.

A fit filters live in this way, so that a training process loads neither JAX, torch, NumPyro nor Pyro for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from promptdyn.errors import InputError
from promptdyn.models.base import Array, Chain, Distribution, DynamicsLike, Params, Pool
from promptdyn.models.checks import check_chain
from promptdyn.ppl.sites import only_what_is_handed_in

__all__ = ["Fixed", "chain_at", "check_around"]

PACKAGES = ("jax", "jaxlib", "numpyro", "torch", "pyro")


class _Ignored:
    """Stands in for distributions, constraints and transforms: every attribute and call returns itself."""

    def __getattr__(self, name: str) -> _Ignored:
        return self

    def __call__(self, *_: Any, **__: Any) -> _Ignored:
        return self


class Fixed:
    """A `PPL` that answers a program's sites with given values."""

    dist = cast(ModuleType, _Ignored())
    xp = np

    def __init__(self, params: Mapping[str, ArrayLike]) -> None:
        self.params = params
        self.recorded: dict[str, tuple[NDArray, tuple[str, ...]]] = {}
        """Values that the program recorded: name -> value and names of its axes."""

    def sample(self, name: str, distribution: Distribution, init: ArrayLike | None = None) -> NDArray:
        if name not in self.params:
            raise InputError(f"parameter {name!r} is missing: there are {', '.join(self.params) or 'none'}")
        return np.asarray(self.params[name])

    def plate(self, name: str, size: int) -> AbstractContextManager:
        return nullcontext(np.arange(size))

    def deterministic(self, name: str, value: Array, dims: Sequence[str] = ()) -> Array:
        self.recorded[name] = np.asarray(value), tuple(dims)
        return value

    def run(self, model: DynamicsLike, pool: Pool) -> Chain:
        """Run a model's program; raises InputError if a parameter is missing or has the wrong shape."""
        try:
            with only_what_is_handed_in(model.name, *PACKAGES):
                return model.program(self, pool)
        except (IndexError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"model {model.name!r}: parameters of the wrong shape ({error})") from None


def chain_at(model: DynamicsLike, params: Mapping[str, ArrayLike], pool: Pool) -> Chain:
    """Return a model's chain at given parameters, checked.

    Raises:
        InputError: a parameter is missing, or the chain is invalid (see `check_chain`).
    """
    chain = Fixed(params).run(model, pool)
    check_chain(model.name, chain, pool)
    return chain


def check_around(model: DynamicsLike, points: Sequence[Params], pool: Pool) -> None:
    """Raise InputError unless the chain is valid also at points away from the start, which a fit may reach."""
    for point in points:
        try:
            with np.errstate(all="ignore"):
                chain_at(model, point, pool)
        except InputError as error:
            values_text = ", ".join(
                f"{name}={np.array2string(value, precision=3, threshold=6)}" for name, value in point.items()
            )
            raise InputError(
                f"{error}; this happens at values that the sites' supports allow ({values_text}): give sites a "
                "support that keeps them probabilities (Beta, Dirichlet), or transform them in the program"
            ) from None
