"""L-BFGS on a function of a dict of arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

__all__ = ["Climbed", "climb"]

Values = dict[str, NDArray[np.float64]]
# Gains are judged over so many iterations: a single one may gain next to nothing on the way.
WINDOW = 5


class Climbed(NamedTuple):
    values: Values
    trace: list[float]  # the function at the start and after each iteration
    converged: bool


def climb(
    function: Callable[[Values], tuple[float, Values]],
    start: Values,
    max_iterations: int,
    tolerance: float = 0.0,
    report: Callable[[int, float], None] | None = None,
) -> Climbed:
    """Climb from `start` until the function gains less than `tolerance` per iteration, or no slope is left.

    Args:
        function: values -> what is to be large, and its gradient.
        start: where to begin.
        max_iterations: most iterations.
        tolerance: least gain per iteration, over the last five, that is worth going on for.
        report: called with (iteration, value).
    """
    sizes = [np.size(value) for value in start.values()]

    def unravel(flat: NDArray) -> Values:
        parts = np.split(flat, np.cumsum(sizes)[:-1])
        return {name: part.reshape(np.shape(start[name])) for name, part in zip(start, parts, strict=True)}

    def ravel(values: Values) -> NDArray[np.float64]:
        return np.concatenate([np.ravel(values[name]) for name in start])

    def loss(flat: NDArray) -> tuple[float, NDArray]:
        value, slope = function(unravel(flat))
        return -value, -ravel(slope)

    trace: list[float] = []

    def after(intermediate_result: Any) -> None:
        trace.append(-float(intermediate_result.fun))
        if report:
            report(len(trace), trace[-1])
        if len(trace) > WINDOW and trace[-1] - trace[-1 - WINDOW] < WINDOW * tolerance:
            raise StopIteration

    first = function(start)[0]
    # The function is as large as the history and its gains are not: stop by gain and slope, not by relative gain.
    found = minimize(
        loss,
        ravel(start),
        jac=True,
        method="L-BFGS-B",
        callback=after,
        options={"maxiter": max_iterations, "maxfun": 20 * max_iterations, "ftol": 1e-15, "gtol": 1e-6, "maxcor": 20},
    )
    # 0: no slope is left; 99: `after` has stopped it. Otherwise it has run out of iterations or of steps that climb.
    return Climbed(unravel(found.x), [first, *trace], found.status in (0, 99))
