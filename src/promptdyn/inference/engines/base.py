"""The contract between `fit` and an engine (EM, MAP, SVI, NUTS).

An engine is a file here, a frozen dataclass of its settings with `run`. It is NumPy's and climbs or samples a `Density`
that each backend has. Where that is done by the backend's own means, as NUTS is, it names its loop there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError
from promptdyn.inference.densities import Density
from promptdyn.models.base import Params
from promptdyn.plugins import load_object
from promptdyn.ppl import Program
from promptdyn.progress import Report

__all__ = ["Engine", "Result", "at_least", "check_result"]

Floats = NDArray[np.float64]


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


class Engine(ABC):
    """A way to fit: a frozen dataclass of settings that inherits from this.

        @dataclass(frozen=True)
        class Ascent(Engine):
            num_steps: int = 100

            name = "ascent"

            def run(self, density, seed, report):
                values, trace = density.unconstrain(density.program.start), []
                for step in range(self.num_steps):
                    value, slope = density.joint(values)
                    ...
                return Result(density.constrain(values), np.array(trace), True, "converged", {})

    Attributes:
        name: what the engine is called in texts and fits.
        loops: of an engine that works by a backend's own means: backend -> its loop there, a function that takes what
            `run` gives it, or the text that names one, "MODULE:NAME", imported when it is wanted. Default: none, the
            engine works on any density.
    """

    name: str
    loops: ClassVar[Mapping[str, Callable[..., Any] | str]] = {}

    @abstractmethod
    def run(self, density: Density, seed: int, report: Report) -> Result:
        """Fit.

        Args:
            density: what to climb, or to sample from.
            seed: of all that is random.
            report: to be called with (done, total, {what to watch: number}).
        """

    def loop(self, density: Density) -> Callable[..., Any]:
        """The engine's loop in a density's backend.

        Raises:
            InputError: it has none, or there is nothing where its text says.
        """
        loop = self.loops.get(density.backend)
        if loop is None:
            there = " and ".join(self.loops) or "none"
            raise InputError(
                f"method {self.name!r} has no loop for backend {density.backend!r}, but for {there}: fit with another "
                "backend, or give it one in its `loops`"
            )
        return load_object(loop, f"loop of method {self.name!r}") if isinstance(loop, str) else loop


def check_result(engine: Engine, result: object, program: Program) -> None:
    """Raise InputError unless an engine returned a `Result` with a value, and draws if any, of each of the sites."""
    name = f"method {engine.name!r}"
    if not isinstance(result, Result):
        raise InputError(f"{name} returned a {type(result).__name__}: let `run` return a promptdyn.inference.Result")
    shapes = {site: np.shape(value) for site, value in program.start.items()}
    for what, values, num_axes in (("params", result.params, 0), ("draws", result.draws, 2)):
        if values.keys() != shapes.keys() and (values or not num_axes):
            there = ", ".join(values) or "none"
            raise InputError(f"{name} returned {what} of sites {there}: the program has {', '.join(shapes) or 'none'}")
        for site, value in values.items():
            if np.ndim(value) < num_axes or np.shape(value)[num_axes:] != shapes[site]:
                wanted = ("chain", "draw")[:num_axes] + shapes[site]
                raise InputError(
                    f"{name} returned {what} of site {site!r} of shape {np.shape(value)}: it is to be "
                    f"({', '.join(map(str, wanted))})"
                )


def at_least(least: int, engine: Engine, *settings: str) -> None:
    """Raise InputError unless each of an engine's settings is at least so much."""
    for setting in settings:
        value = getattr(engine, setting)
        if value < least:
            raise InputError(f"{engine.name}: {setting}={value} must be at least {least}")
