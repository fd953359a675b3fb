"""Scores of probability forecasts of a yes-or-no event. Pure arrays."""

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
# Most units that a bootstrap draws; of more, some are drawn together.
MAX_UNITS = 2000


class Reliability(NamedTuple):
    """A reliability diagram: forecasts in equally wide bins of [0, 1]; empty bins are left out."""

    forecast: NDArray[np.float64]  # (bin,) mean forecast
    realized: NDArray[np.float64]  # (bin,) share that came true
    size: NDArray[np.int64]  # (bin,) forecasts in the bin


def log_losses(probability: NDArray, event: NDArray, clip: float = 1e-6) -> NDArray[np.float64]:
    """Negative log-likelihood of each event, in nats, of forecasts clipped to [clip, 1 - clip]."""
    p = np.clip(probability, clip, 1.0 - clip)
    return -np.where(event, np.log(p), np.log1p(-p))


def log_loss(probability: NDArray, event: NDArray, clip: float = 1e-6) -> float:
    """Mean negative log-likelihood in nats, of forecasts clipped to [clip, 1 - clip]."""
    return float(log_losses(probability, event, clip).mean())


def mean_interval(
    values: NDArray, unit: NDArray, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> NDArray[np.float64]:
    """Bootstrap intervals of means of rows that come in units, such as the rows of a prompt, which are alike.

    Args:
        values: (row, column); each column's mean gets an interval, from the same draws for all.
        unit: (row,) code of the unit that is drawn with all its rows, from 0.
        level: of the interval, default 0.95; of the bootstrap's percentiles (Efron 1979).
        draws: of the units, with replacement; default 2000.
        seed: of the draws; default 0.

    Returns:
        (2, column) lower and upper ends.
    """
    unit = np.unique(unit, return_inverse=True)[1] % MAX_UNITS
    count = unit.max() + 1
    size = np.bincount(unit)
    total = np.stack([np.bincount(unit, column) for column in values.T], axis=1)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)
    means = (drawn @ total) / (drawn @ size)[:, None]
    return np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)


def brier(probability: NDArray, event: NDArray) -> float:
    """Mean squared error of the forecasts."""
    return float(np.mean((probability - event) ** 2))


def auroc(probability: NDArray, event: NDArray) -> float:
    """Chance that an event was forecast above a non-event, ties counted half; NaN where one kind is missing."""
    positives = int(np.count_nonzero(event))
    negatives = len(event) - positives
    if not positives or not negatives:
        return float("nan")
    ranks = rankdata(probability)
    return float((ranks[event].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def precision_at(probability: NDArray, event: NDArray, step: NDArray, budget: NDArray | int) -> float:
    """Mean over steps of the share of events among each step's `budget` highest forecasts.

    Ties at the boundary count by their expectation under a random choice, so the score needs no seed.

    Args:
        probability, event, step: (row,), rows sorted by step.
        budget: how many are taken a step, one number or one per distinct step (0 leaves a step out).
    """
    bounds = np.flatnonzero(np.diff(step, prepend=step[0] - 1))
    shares = []
    for start, stop, take in zip(bounds, [*bounds[1:], len(step)], np.broadcast_to(budget, bounds.shape), strict=True):
        p, hit = probability[start:stop], event[start:stop]
        take = min(int(take), len(p))
        if take == 0:
            continue
        threshold = np.partition(p, len(p) - take)[len(p) - take]
        above, tied = p > threshold, p == threshold
        shares.append((hit[above].sum() + (take - above.sum()) * hit[tied].mean()) / take)
    return float(np.mean(shares)) if shares else float("nan")


def reliability(probability: NDArray, event: NDArray, bins: int = 10) -> Reliability:
    """Bin forecasts into equally wide bins and compare each bin's mean with what came true."""
    index = np.minimum((probability * bins).astype(int), bins - 1)
    size = np.bincount(index, minlength=bins)
    filled = size > 0
    forecast = np.bincount(index, probability, bins)[filled] / size[filled]
    realized = np.bincount(index, event, bins)[filled] / size[filled]
    return Reliability(forecast, realized, size[filled])


def calibration_error(probability: NDArray, event: NDArray, bins: int = 10) -> float:
    """Expected calibration error: mean gap |forecast - realized| over bins, weighted by their size."""
    diagram = reliability(probability, event, bins)
    return float(np.average(np.abs(diagram.forecast - diagram.realized), weights=diagram.size))
