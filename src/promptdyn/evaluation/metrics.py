"""Scores of probability forecasts of binary events, as functions of arrays."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

__all__ = [
    "Reliability",
    "auroc",
    "brier",
    "calibration_error",
    "log_loss",
    "log_losses",
    "mean_interval",
    "precision_at",
    "reliability",
]
# Most units that a bootstrap draws. If there are more, some are drawn together.
MAX_UNITS = 2000


class Reliability(NamedTuple):
    """A reliability diagram: forecasts in equally wide bins of [0, 1]; empty bins are left out."""

    forecast: NDArray[np.float64]  # (bin,) mean forecast
    realized: NDArray[np.float64]  # (bin,) share of events
    size: NDArray[np.int64]  # (bin,) number of forecasts


def log_losses(probability: NDArray, event: NDArray, clip: float = 1e-6) -> NDArray[np.float64]:
    """Return the negative log-likelihood of each event in nats, with forecasts clipped to [clip, 1 - clip]."""
    p = np.clip(probability, clip, 1.0 - clip)
    return -np.where(event, np.log(p), np.log1p(-p))


def log_loss(probability: NDArray, event: NDArray, clip: float = 1e-6) -> float:
    """Return the mean negative log-likelihood in nats, with forecasts clipped to [clip, 1 - clip]."""
    return float(log_losses(probability, event, clip).mean())


def mean_interval(
    values: NDArray, unit: NDArray, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> NDArray[np.float64]:
    """Return bootstrap intervals of means of dependent rows, drawn by unit, as the rows of a prompt.

    Args:
        values: (row, column) numbers. Each column's mean gets an interval, with the same draws for all.
        unit: (row,) code of the unit, from 0; a unit is drawn with all its rows.
        level: level of the interval, between percentiles of the bootstrap (Efron 1979); default 0.95.
        draws: number of draws of all units, with replacement; default 2000.
        seed: seed of the draws; default 0.

    Returns:
        (2, column) lower and upper ends.
    """
    unit = np.unique(unit, return_inverse=True)[1] % MAX_UNITS
    count = unit.max() + 1
    size = np.bincount(unit)
    total = np.stack([np.bincount(unit, column) for column in values.T], axis=1)
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)
    means = (weights @ total) / (weights @ size)[:, None]
    return np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)


def brier(probability: NDArray, event: NDArray) -> float:
    """Return the mean squared error of the forecasts (Brier score)."""
    return float(np.mean((probability - event) ** 2))


def auroc(probability: NDArray, event: NDArray) -> float:
    """Return the chance that an event's forecast is above a non-event's, ties counted half; NaN without such pairs."""
    positives = int(np.count_nonzero(event))
    negatives = len(event) - positives
    if not positives or not negatives:
        return float("nan")
    ranks = rankdata(probability)
    return float((ranks[event].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def precision_at(probability: NDArray, event: NDArray, step: NDArray, budget: NDArray | int) -> float:
    """Return the mean over steps of the share of events among each step's `budget` highest forecasts.

    Ties at the boundary count by their expectation under a random choice, so the score needs no seed.

    Args:
        probability, event, step: (row,) arrays, sorted by step.
        budget: number of forecasts taken per step, one number or one per distinct step; 0 leaves a step out.
    """
    bounds = np.flatnonzero(np.diff(step, prepend=step[0] - 1))
    shares = []
    for start, stop, num_taken in zip(
        bounds, [*bounds[1:], len(step)], np.broadcast_to(budget, bounds.shape), strict=True
    ):
        p, hit = probability[start:stop], event[start:stop]
        num_taken = min(int(num_taken), len(p))
        if num_taken == 0:
            continue
        threshold = np.partition(p, len(p) - num_taken)[len(p) - num_taken]
        above, tied = p > threshold, p == threshold
        shares.append((hit[above].sum() + (num_taken - above.sum()) * hit[tied].mean()) / num_taken)
    return float(np.mean(shares)) if shares else float("nan")


def reliability(probability: NDArray, event: NDArray, bins: int = 10) -> Reliability:
    """Compare the mean forecast with the share of events in equally wide bins of the forecasts."""
    index = np.minimum((probability * bins).astype(int), bins - 1)
    size = np.bincount(index, minlength=bins)
    filled = size > 0
    forecast = np.bincount(index, probability, bins)[filled] / size[filled]
    realized = np.bincount(index, event, bins)[filled] / size[filled]
    return Reliability(forecast, realized, size[filled])


def calibration_error(probability: NDArray, event: NDArray, bins: int = 10) -> float:
    """Return the expected calibration error: the mean of |forecast - realized| over bins, weighted by their size."""
    diagram = reliability(probability, event, bins)
    return float(np.average(np.abs(diagram.forecast - diagram.realized), weights=diagram.size))
