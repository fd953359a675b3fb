"""Densities: the log joint density of a program and a history's counts, one file per backend. They know no engine.

Engines climb or sample a density. A backend's file is loaded when a fit asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError, check_choice, install_hint
from promptdyn.history import DenseHistory
from promptdyn.kernels.sequences import Sequences
from promptdyn.models.base import Array, DynamicsLike, Params, Statistics
from promptdyn.ppl import BACKENDS, Backend, Program

__all__ = ["Density", "Values", "check_explained", "chunks", "load_density"]

Floats = NDArray[np.float64]
Values = dict[str, Floats]
"""Site -> its value as real numbers, by the bijection of the site's support."""
# Most numbers in the filtered beliefs at a time; a larger history is summed in parts. From the second number on, two
# parts in parallel are faster. The number of cores does not matter, so that a fit is the same on every machine.
LARGEST_CHUNK, SPLIT = 1 << 24, 1 << 18


class Density(Protocol):
    """The log joint density of a program's sites and a history's counts, in one backend and in double precision.

    It takes and returns NumPy arrays. Make one with `load_density(backend)(model, dense)`.

    Attributes:
        backend: one of `BACKENDS`.
        dense: the history.
        program: the model's program in the backend.
        sequences: the observations of all prompts, laid out for the kernels.
    """

    backend: Backend
    dense: DenseHistory
    program: Program
    sequences: Sequences

    def unconstrain(self, params: Mapping[str, Array]) -> Values:
        """Return sites as real numbers."""

    def constrain(self, values: Mapping[str, Array]) -> Params:
        """Return sites from real numbers, which may have further axes in front."""

    def joint(self, values: Values) -> tuple[float, Values]:
        """Return log p(counts | sites) + log p(sites), without a Jacobian (as EM maximizes it), and its gradient."""

    def expected(self, params: Params) -> tuple[Statistics, float, float]:
        """Return expected counts of the paths, log p(counts | sites) summed over prompts, and log p(sites)."""

    def expected_joint(self, values: Values, fixed: Params, statistics: Statistics) -> tuple[float, Values]:
        """Return the expected log joint of paths and counts at values of some sites, others fixed, and its gradient."""

    def log_marginals(self, params: Params) -> Floats:
        """Return (prompt,) log p(a prompt's counts | sites)."""

    def conditioned(self, sequences: Sequences | None, scale: float = 1.0) -> None:
        """Run the program with the counts of some prompts observed; the backend's SVI and samplers take this method.

        Its sites are on their supports, its latent paths are summed out. It needs double precision:
        `jax.enable_x64(True)` in NumPyro, `promptdyn.ppl.pyro.double()` in Pyro.

        Args:
            sequences: observations: `Density.sequences`, or some of its lanes; None: no observations.
            scale: factor of the observations' log density; default 1.
        """


def load_density(backend: Backend) -> Callable[[DynamicsLike, DenseHistory], Density]:
    """Return a backend's class of densities.

    Raises:
        InputError: the name is none of `BACKENDS`.
        ModuleNotFoundError: the backend's library is not installed.
    """
    check_choice("backend", backend, BACKENDS)
    with install_hint():
        module = import_module(f"promptdyn.inference.densities.{backend}")
    density_class: Callable[[DynamicsLike, DenseHistory], Density] = module.Density
    return density_class


def chunks(sequences: Sequences, num_states: int) -> list[Sequences]:
    """Return a history's sequences in the parts over which to sum."""
    numbers = sequences.symbols.size * num_states
    return list(sequences.chunks(max(-(-numbers // LARGEST_CHUNK), 1 + (numbers > SPLIT))))


def check_explained(dense: DenseHistory, explained: float, path_length: int, log_marginals: Floats) -> None:
    """Raise InputError unless every prompt's counts have a path of states that explains them.

    Args:
        dense: the history.
        explained: sum of the expected counts of first states and transitions. A cell that no path explains adds
            nothing.
        path_length: the value of `explained` if all cells are explained.
        log_marginals: (prompt,) log marginals, which tell the prompt.
    """
    if abs(explained - path_length) > 0.5:
        prompt = dense.prompt_ids[int(np.argmin(log_marginals))]
        raise InputError(
            f"prompt {prompt!r} has outcomes that the model holds impossible: allow noise in the emission, or "
            "transitions that the model rules out"
        )
