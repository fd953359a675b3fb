"""Maximize a function of a dict of arrays by L-BFGS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

__all__ = ["Climb", "climb"]

Values = dict[str, NDArray[np.float64]]
# Gains are judged over so many iterations, since a single one may gain almost nothing on the way.
WINDOW = 5


class Climb(NamedTuple):
    """The result of `climb`."""

    values: Values
    trace: list[float]  # the function at the start and after each iteration
    converged: bool


def climb(
    function: Callable[[Values], tuple[float, Values]],
    start: Values,
    max_iterations: int,
    tolerance: float = 0.0,
    report: Callable[[int, float], None] | None = None,
) -> Climb:
    """Climb from `start` until the function gains less than `tolerance` per iteration, or its slope is zero.

    Args:
        function: function of values that returns the quantity to maximize and its gradient.
        start: values to start from.
        max_iterations: largest number of iterations.
        tolerance: the climb ends when the mean gain of the last five iterations is below this; default 0.
        report: function of (iteration, value), called after each iteration; default none.
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

    def after_iteration(intermediate_result: Any) -> None:
        trace.append(-float(intermediate_result.fun))
        if report:
            report(len(trace), trace[-1])
        if len(trace) > WINDOW and trace[-1] - trace[-1 - WINDOW] < WINDOW * tolerance:
            raise StopIteration

    first = function(start)[0]
    # The function's size grows with the history, gains do not. So the climb stops by gain and slope, not relative gain.
    result = minimize(
        loss,
        ravel(start),
        jac=True,
        method="L-BFGS-B",
        callback=after_iteration,
        options={"maxiter": max_iterations, "maxfun": 20 * max_iterations, "ftol": 1e-15, "gtol": 1e-6, "maxcor": 20},
    )
    # Status 0: the slope is zero; 99: `after_iteration` stopped the climb. Else iterations or steps upwards ran out.
    return Climb(unravel(result.x), [first, *trace], result.status in (0, 99))
