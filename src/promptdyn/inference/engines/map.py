"""Maximum a posteriori by gradient: L-BFGS on the log joint, for programs without a closed form of the M-step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from promptdyn.errors import InputError
from promptdyn.inference.climb import climb
from promptdyn.inference.densities import Density
from promptdyn.inference.engines.base import Engine, Result, check_at_least
from promptdyn.progress import Report

__all__ = ["MAP"]


@dataclass(frozen=True)
class MAP(Engine):
    """Climbs with L-BFGS to a mode of the density of the sites themselves (no Jacobian), which EM finds too.

    The trace is the log joint, log p(counts | sites) + log p(sites), at the start and after each iteration.

    Attributes:
        max_iterations: largest number of iterations, at least 1; default 500.
        tolerance: convergence threshold in nats per observed group and iteration, over five iterations; default 1e-6.

    Raises:
        InputError: a setting is out of range.
    """

    max_iterations: int = 500
    tolerance: float = 1e-6

    name = "map"

    def __post_init__(self) -> None:
        check_at_least(1, self, "max_iterations")
        if np.isnan(self.tolerance):
            raise InputError("map: tolerance is NaN: give a number of nats")

    def run(self, density: Density, seed: int, report: Report) -> Result:
        """See `Engine.run`. `seed` makes no difference."""
        num_observed = int(np.count_nonzero(density.dense.symbols))
        start = density.unconstrain(density.program.start)
        if not np.isfinite(density.joint(start)[0]):
            raise InputError(
                f"model {density.program.model.name!r}: its log density is not finite where the fit starts: check the "
                "program's priors and inits"
            )
        values, trace, converged = climb(
            density.joint,
            start,
            self.max_iterations,
            self.tolerance * num_observed,
            lambda i, joint: report(i, self.max_iterations, {"log joint": joint}),
        )
        gain = (trace[-1] - trace[-2]) / num_observed if len(trace) > 1 else 0.0
        slope = max(float(np.abs(part).max(initial=0.0)) for part in density.joint(values)[1].values())
        summary = f"{len(trace) - 1} iterations, the last gained {gain:.2g} nats per group; steepest slope {slope:.2g}"
        return Result(
            density.constrain(values),
            np.array(trace),
            converged,
            f"converged after {summary}" if converged else f"not converged: {summary}; raise max_iterations",
            {"gain": float(gain), "steepest_slope": slope},
        )
