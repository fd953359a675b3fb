"""Judging models: one-step-ahead forecasts of a history and their scores."""

from promptdyn.evaluation.compare import Comparison, Score, compare
from promptdyn.evaluation.forecast import Forecast, Track, forecast, track
from promptdyn.evaluation.scores import (
    Reliability,
    auroc,
    brier,
    calibration_error,
    log_loss,
    precision_at,
    reliability,
)

__all__ = [
    "Comparison",
    "Forecast",
    "Reliability",
    "Score",
    "Track",
    "auroc",
    "brier",
    "calibration_error",
    "compare",
    "forecast",
    "log_loss",
    "precision_at",
    "reliability",
    "track",
]
