"""Expectation-maximization (MAP-EM) for any model with a program.

The E-step is exact. The M-step uses the model's closed form, `m_step`, for the sites that it returns, and climbs the
expected log joint of the program for all others. So EM also works for a model without a closed form.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from promptdyn.errors import InputError
from promptdyn.inference.climb import climb
from promptdyn.inference.densities import Density
from promptdyn.inference.engines.base import Engine, Result, check_at_least
from promptdyn.models.base import as_dynamics
from promptdyn.progress import Report

__all__ = ["EM"]

# Most iterations of the climb in one M-step. Few are needed, since it starts where the last one ended.
CLIMB = 30


@dataclass(frozen=True)
class EM(Engine):
    """Runs EM until the log joint changes by less than `tolerance` per observed group.

    The trace is the log joint, log p(counts | sites) + log p(sites), before each update and after the last. It rises,
    unless the model's `m_step` is empirical Bayes, which maximizes another likelihood.

    Attributes:
        max_iterations: largest number of updates, at least 1; default 200.
        tolerance: convergence threshold in nats per observed group; default 1e-5. A negative one runs all iterations.

    Raises:
        InputError: a setting is out of range.
    """

    max_iterations: int = 200
    tolerance: float = 1e-5

    name = "em"

    def __post_init__(self) -> None:
        check_at_least(1, self, "max_iterations")
        if np.isnan(self.tolerance):
            raise InputError("em: tolerance is NaN: give a number of nats")

    def run(self, density: Density, seed: int, report: Report) -> Result:
        """See `Engine.run`. `seed` makes no difference."""
        model, num_observed = as_dynamics(density.program.model), int(np.count_nonzero(density.dense.symbols))
        trace: list[float] = []
        params = density.program.start
        while True:
            statistics, log_marginal, log_prior = density.expected(params)
            trace.append(log_marginal + log_prior)
            report(len(trace) - 1, self.max_iterations, {"log joint": trace[-1]})
            gain = (trace[-1] - trace[-2]) / num_observed if len(trace) > 1 else np.inf
            # Empirical Bayes may lower the log joint on its way.
            converged = abs(gain) < self.tolerance
            if converged or len(trace) > self.max_iterations:
                break
            closed = model.m_step(statistics, params)
            params = {**params, **closed}
            fixed = {name: params[name] for name in closed}
            free = {name: value for name, value in params.items() if name not in closed}
            if free:
                start = density.unconstrain(free)
                result = climb(partial(density.expected_joint, fixed=fixed, statistics=statistics), start, CLIMB)
                params = {**params, **density.constrain(result.values)}
        summary = f"{len(trace) - 1} iterations, the last gained {gain:.2g} nats per group"
        return Result(
            params,
            np.array(trace),
            converged,
            f"converged after {summary}" if converged else f"not converged: {summary}; raise max_iterations",
            {"gain": float(gain)},
        )
