"""The contracts between `fit`, an engine (EM, MAP, SVI, NUTS) and a backend (NumPyro, Pyro).

An engine is a file here: a frozen dataclass of its settings with `run`. It is NumPy's; what depends on the backend, the
densities that it climbs and the sampling loops, is a `Density`, of which there is one per backend.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError
from promptdyn.history import DenseHistory
from promptdyn.kernels.sequences import Sequences
from promptdyn.models.base import DynamicsLike, Params, Statistics
from promptdyn.ppl import BACKENDS, Program
from promptdyn.progress import Report

if TYPE_CHECKING:
    from promptdyn.inference.nuts import NUTS
    from promptdyn.inference.svi import SVI

__all__ = [
    "Density",
    "Engine",
    "Result",
    "at_least",
    "check_explained",
    "chunks",
    "load_density",
    "mini_batches",
]

Floats = NDArray[np.float64]
Values = dict[str, Floats]
"""Sites as real numbers, by the bijection to each one's support."""
# Numbers to hold filtered beliefs in at a time: what is larger is summed in parts. From so many on it pays to sum in
# two, side by side. Never by how many cores there are: a fit is the same wherever it is made.
LARGEST_CHUNK, SPLIT = 1 << 24, 1 << 18


@dataclass(frozen=True)
class Result:
    """What an engine returns.

    Attributes:
        params: site -> array: a mode, or the posterior mean.
        trace: how the objective went; see the engine.
        converged: whether the engine's criterion is met.
        verdict: one line: what it came to, and where it has not converged, what to do.
        diagnostics: the numbers behind the verdict.
        draws: site -> (chain draw ...) of the posterior; empty where there is one point.
        sample_stats: ArviZ's name -> (chain draw); empty likewise.
    """

    params: Params
    trace: Floats
    converged: bool
    verdict: str
    diagnostics: dict[str, float]
    draws: dict[str, Floats] = field(default_factory=dict)
    sample_stats: dict[str, NDArray] = field(default_factory=dict)


class Density(Protocol):
    """The log joint density of a program's sites and a history's counts, in a backend, in double precision.

    It takes and returns NumPy's arrays. Made by `load_density(backend)(model, dense)`.
    """

    dense: DenseHistory
    program: Program

    def unconstrain(self, params: Mapping[str, Any]) -> Values:
        """Sites as real numbers."""

    def constrain(self, values: Mapping[str, Any]) -> Params:
        """Sites of real numbers; these may have further axes before their own."""

    def joint(self, values: Values) -> tuple[float, Values]:
        """log p(counts | sites) + log p(sites), and its gradient. Without the Jacobian: its maximum is EM's."""

    def expected(self, params: Params) -> tuple[Statistics, float, float]:
        """Expected counts of the paths, log p(counts | sites) summed over prompts, log p(sites)."""

    def expected_joint(self, values: Values, fixed: Params, statistics: Statistics) -> tuple[float, Values]:
        """The expected log joint of paths and counts at some sites' values, others fixed, and its gradient."""

    def log_marginals(self, params: Params) -> Floats:
        """(prompt,) log p(a prompt's counts | sites)."""

    def svi(self, settings: SVI, seed: int, report: Callable[[int, float], None]) -> tuple[dict[str, Floats], Floats]:
        """Adam on the ELBO of a guide, its rate falling tenfold: site -> (draw ...), (step,) ELBO.

        Each step sees a batch of prompts, each prompt once per pass; `report` is called with (step, ELBO).
        """

    def nuts(
        self, settings: NUTS, starts: Values, seed: int, report: Callable[[int, Mapping[str, float]], None]
    ) -> tuple[dict[str, Floats], dict[str, NDArray]]:
        """Draws from starts (chain ...): site -> (chain draw ...), and ArviZ's sample statistics (chain draw)."""


class Engine(Protocol):
    """A way to fit."""

    name: str

    def run(self, density: Density, seed: int, report: Report) -> Result:
        """Fit."""


def load_density(backend: str) -> Callable[[DynamicsLike, DenseHistory], Density]:
    """The density of a backend.

    Raises:
        InputError: it is none of `BACKENDS`.
        ModuleNotFoundError: what it stands on is not installed.
    """
    if backend not in BACKENDS:
        raise InputError(f"backend={backend!r} is none of {', '.join(BACKENDS)}")
    made: Callable[[DynamicsLike, DenseHistory], Density] = import_module(f"promptdyn.inference.{backend}").Density
    return made


def chunks(sequences: Sequences, num_states: int) -> list[Sequences]:
    """A history in the parts to sum over."""
    numbers = sequences.symbols.size * num_states
    return list(sequences.chunks(max(-(-numbers // LARGEST_CHUNK), 1 + (numbers > SPLIT))))


def check_explained(dense: DenseHistory, explained: float, num_draws: int, log_marginals: Floats) -> None:
    """Raise InputError unless every prompt's counts have a path of states that explains them.

    Args:
        dense: what was observed.
        explained: sum of the expected counts of first states and of transitions: those into a cell that no path
            explains have no posterior.
        num_draws: what it is where all are explained.
        log_marginals: (prompt,).
    """
    if abs(explained - num_draws) > 0.5:
        prompt = dense.prompt_ids[int(np.argmin(log_marginals))]
        raise InputError(
            f"prompt {prompt!r} has outcomes that the model holds impossible: allow noise in the emission, or "
            "transitions that the model rules out"
        )


def mini_batches(
    dense: DenseHistory, places: NDArray[np.integer] | None, batch_size: int, seed: int
) -> tuple[Sequences, int, float]:
    """Lanes of prompts in random order, lanes for a batch of about `batch_size` prompts, and all lanes over these."""
    num_prompts = dense.symbols.shape[1]
    order = np.random.default_rng(seed).permutation(num_prompts)
    # As short as the prompt seen most, so that a batch is many lanes side by side.
    sequences = Sequences.packed(dense.symbols, dense.exposure, places, num_lanes=num_prompts, order=order)
    num_lanes = min(max(round(sequences.num_lanes * batch_size / num_prompts), 1), sequences.num_lanes)
    return sequences, num_lanes, sequences.num_lanes / num_lanes


def at_least(least: int, engine: Any, *settings: str) -> None:
    """Raise InputError unless each of an engine's settings is at least so much."""
    for setting in settings:
        value = getattr(engine, setting)
        if value < least:
            raise InputError(f"{engine.name}: {setting}={value} must be at least {least}")
