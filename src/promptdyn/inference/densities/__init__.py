"""Densities: a program's log joint density with a history's counts, in each backend. It knows no engine.

A density holds the mathematics that engines climb and sample: one file per backend, loaded when a fit asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError, check_choice
from promptdyn.history import DenseHistory
from promptdyn.kernels.sequences import Sequences
from promptdyn.models.base import Array, DynamicsLike, Params, Statistics
from promptdyn.ppl import BACKENDS, Backend, Program

__all__ = ["Density", "Values", "check_explained", "chunks", "load_density"]

Floats = NDArray[np.float64]
Values = dict[str, Floats]
"""Sites as real numbers, by the bijection to each one's support."""
# Numbers to hold filtered beliefs in at a time: what is larger is summed in parts. From so many on it pays to sum in
# two, side by side. Never by how many cores there are: a fit is the same wherever it is made.
LARGEST_CHUNK, SPLIT = 1 << 24, 1 << 18


class Density(Protocol):
    """The log joint density of a program's sites and a history's counts, in a backend, in double precision.

    It takes and returns NumPy's arrays. Made by `load_density(backend)(model, dense)`.

    Attributes:
        backend: one of `BACKENDS`.
        dense: the history.
        program: the model's program, as the backend evaluates it.
        sequences: the history as the kernels walk it, all prompts.
    """

    backend: Backend
    dense: DenseHistory
    program: Program
    sequences: Sequences

    def unconstrain(self, params: Mapping[str, Array]) -> Values:
        """Sites as real numbers."""

    def constrain(self, values: Mapping[str, Array]) -> Params:
        """Sites of real numbers; these may have further axes before their own."""

    def joint(self, values: Values) -> tuple[float, Values]:
        """log p(counts | sites) + log p(sites), and its gradient. Without the Jacobian: its maximum is EM's."""

    def expected(self, params: Params) -> tuple[Statistics, float, float]:
        """Expected counts of the paths, log p(counts | sites) summed over prompts, log p(sites)."""

    def expected_joint(self, values: Values, fixed: Params, statistics: Statistics) -> tuple[float, Values]:
        """The expected log joint of paths and counts at some sites' values, others fixed, and its gradient."""

    def log_marginals(self, params: Params) -> Floats:
        """(prompt,) log p(a prompt's counts | sites)."""

    def conditioned(self, sequences: Sequences | None, scale: float = 1.0) -> None:
        """The program with the counts of some prompts observed, what the backend's own SVI and samplers take.

        Its sites are on their supports, its latent paths summed out. In NumPyro it wants double precision,
        `jax.enable_x64(True)`; in Pyro `promptdyn.ppl.pyro.double()`.

        Args:
            sequences: of which prompts: `Density.sequences`, or some of its lanes; None: of none.
            scale: prompts that each of these stands for; default 1.
        """


def load_density(backend: Backend) -> Callable[[DynamicsLike, DenseHistory], Density]:
    """The density of a backend.

    Raises:
        InputError: it is none of `BACKENDS`.
        ModuleNotFoundError: what it stands on is not installed.
    """
    check_choice("backend", backend, BACKENDS)
    made: Callable[[DynamicsLike, DenseHistory], Density] = import_module(
        f"promptdyn.inference.densities.{backend}"
    ).Density
    return made


def chunks(sequences: Sequences, num_states: int) -> list[Sequences]:
    """A history in the parts to sum over."""
    numbers = sequences.symbols.size * num_states
    return list(sequences.chunks(max(-(-numbers // LARGEST_CHUNK), 1 + (numbers > SPLIT))))


def check_explained(dense: DenseHistory, explained: float, path_length: int, log_marginals: Floats) -> None:
    """Raise InputError unless every prompt's counts have a path of states that explains them.

    Args:
        dense: what was observed.
        explained: sum of the expected counts of first states and of transitions: those into a cell that no path
            explains have no posterior.
        path_length: what it is where all are explained.
        log_marginals: (prompt,).
    """
    if abs(explained - path_length) > 0.5:
        prompt = dense.prompt_ids[int(np.argmin(log_marginals))]
        raise InputError(
            f"prompt {prompt!r} has outcomes that the model holds impossible: allow noise in the emission, or "
            "transitions that the model rules out"
        )
