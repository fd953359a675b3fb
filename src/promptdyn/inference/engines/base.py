"""The interface between `fit` and an engine (EM, MAP, SVI, NUTS).

An engine is a file here: a frozen dataclass of its settings, with a method `run`. It works in NumPy on a `Density`,
which every backend has. An engine that uses a backend's own methods, as NUTS does, names its loop for that backend.
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

__all__ = ["Engine", "Result", "check_at_least", "check_result"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Result:
    """The result of an engine.

    Attributes:
        params: site -> array: a mode, or the posterior mean.
        trace: the objective's values over the run; see the engine.
        converged: whether the engine's criterion is met.
        verdict: the result in one line and, if the engine has not converged, what to do.
        diagnostics: the numbers behind the verdict.
        draws: site -> (chain draw ...) draws from the posterior; empty if the result is one point.
        sample_stats: ArviZ's name -> (chain draw) statistics; empty if the result is one point.
    """

    params: Params
    trace: Floats
    converged: bool
    verdict: str
    diagnostics: dict[str, float]
    draws: dict[str, Floats] = field(default_factory=dict)
    sample_stats: dict[str, NDArray] = field(default_factory=dict)


class Engine(ABC):
    """A method of fitting. Inherit from this class in a frozen dataclass of settings.

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
        name: name of the engine in texts and fits.
        loops: backend -> the engine's loop in it, for an engine that uses a backend's own methods: a function, or the
            text that names one, "MODULE:NAME", which is imported when it is needed. `run` calls it. Default: none; the
            engine works on any density.
    """

    name: str
    loops: ClassVar[Mapping[str, Callable[..., Any] | str]] = {}

    @abstractmethod
    def run(self, density: Density, seed: int, report: Report) -> Result:
        """Fit the density's program.

        Args:
            density: the log density to climb, or to sample from.
            seed: seed of all random numbers.
            report: function of (done, total, {name: number to watch}), to be called while the engine runs.
        """

    def loop(self, density: Density) -> Callable[..., Any]:
        """Return the engine's loop in the density's backend.

        Raises:
            InputError: the engine has no loop for it, or the loop's text names nothing.
        """
        loop = self.loops.get(density.backend)
        if loop is None:
            available = " and ".join(self.loops) or "none"
            raise InputError(
                f"method {self.name!r} has no loop for backend {density.backend!r}, but for {available}: fit with "
                "another backend, or give it one in its `loops`"
            )
        return load_object(loop, f"loop of method {self.name!r}") if isinstance(loop, str) else loop


def check_result(engine: Engine, result: object, program: Program) -> None:
    """Raise InputError unless an engine returned a `Result` with values (and draws, if any) of all sites."""
    name = f"method {engine.name!r}"
    if not isinstance(result, Result):
        raise InputError(f"{name} returned a {type(result).__name__}: let `run` return a promptdyn.inference.Result")
    shapes = {site: np.shape(value) for site, value in program.start.items()}
    for field_name, values, num_axes in (("params", result.params, 0), ("draws", result.draws, 2)):
        if values.keys() != shapes.keys() and (values or not num_axes):
            returned = ", ".join(values) or "none"
            raise InputError(
                f"{name} returned {field_name} of sites {returned}: the program has {', '.join(shapes) or 'none'}"
            )
        for site, value in values.items():
            if np.ndim(value) < num_axes or np.shape(value)[num_axes:] != shapes[site]:
                expected = ("chain", "draw")[:num_axes] + shapes[site]
                raise InputError(
                    f"{name} returned {field_name} of site {site!r} of shape {np.shape(value)}: it must be "
                    f"({', '.join(map(str, expected))})"
                )


def check_at_least(least: int, engine: Engine, *settings: str) -> None:
    """Raise InputError unless each of an engine's settings is at least `least`."""
    for setting in settings:
        value = getattr(engine, setting)
        if value < least:
            raise InputError(f"{engine.name}: {setting}={value} must be at least {least}")
