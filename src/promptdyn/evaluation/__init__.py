"""Judge models by one-step-ahead forecasts of a history, and simulate histories whose truth is known."""

from promptdyn.evaluation.compare import Comparison, ForecastScore, compare
from promptdyn.evaluation.forecast import Forecast, Track, forecast, track
from promptdyn.evaluation.metrics import (
    Reliability,
    auroc,
    brier,
    calibration_error,
    log_loss,
    log_losses,
    mean_interval,
    precision_at,
    reliability,
)
from promptdyn.evaluation.simulation import Simulation, simulate

__all__ = [
    "Comparison",
    "Forecast",
    "ForecastScore",
    "Reliability",
    "Simulation",
    "Track",
    "auroc",
    "brier",
    "calibration_error",
    "compare",
    "forecast",
    "log_loss",
    "log_losses",
    "mean_interval",
    "precision_at",
    "reliability",
    "simulate",
    "track",
]
