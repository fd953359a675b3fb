"""Comparing dynamics models by how well they would have forecast a history, one step ahead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError
from promptdyn.evaluation.forecast import Forecast, forecast, online_over, split
from promptdyn.evaluation.scores import auroc, brier, calibration_error, log_losses, mean_interval, precision_at
from promptdyn.history import RewardHistory
from promptdyn.inference.fit import Fit, fit
from promptdyn.models.base import Dynamics
from promptdyn.progress import Tell

__all__ = ["Comparison", "Score", "compare"]


@dataclass(frozen=True)
class Score:
    """How well one forecaster foresaw 0 < k < n. Lower is better for log_loss, brier, calibration_error."""

    model: str
    log_loss: float  # nats per row
    log_loss_interval: tuple[float, float]  # 95 % bootstrap interval over prompts
    behind: float  # log loss more than the best model's
    behind_interval: tuple[float, float]  # and its interval, of the same draws for both
    brier: float
    auroc: float
    precision: float  # share informative of each step's B highest forecasts, B = its observed rows; NaN if B is all
    calibration_error: float  # expected calibration error, ten bins
    num_scored: int  # rows scored
    fit_seconds: float  # 0 for models that learn online


@dataclass(frozen=True, eq=False)
class Comparison:
    """Scores, best log loss first, with the forecasts and what made them by model name."""

    scores: list[Score]
    forecasts: dict[str, Forecast]
    models: dict[str, Any]  # as given, with the fit where one was made

    def to_records(self) -> list[dict[str, Any]]:
        """Rows for a program, one per model: the fields of `Score`."""
        return [asdict(score) for score in self.scores]

    def table(self) -> list[dict[str, str]]:
        """Rows for people, one per model."""
        return [
            {
                "model": score.model,
                "log loss": f"{score.log_loss:.3f} ± {_half(score.log_loss_interval):.3f}",
                "behind": f"{score.behind:.3f} ± {_half(score.behind_interval):.3f}" if place else "–",
                "Brier": f"{score.brier:.3f}",
                "AUROC": f"{score.auroc:.3f}",
                "precision": "–" if np.isnan(score.precision) else f"{score.precision:.3f}",
                "calibration error": f"{score.calibration_error:.3f}",
                "fit, s": f"{score.fit_seconds:.1f}" if score.fit_seconds else "–",
            }
            for place, score in enumerate(self.scores)
        ]

    @property
    def best(self) -> Any:
        """What scored best: a `Fit`, or a model that learns online."""
        return self.models[self.scores[0].model]


def _half(interval: tuple[float, float]) -> float:
    return (interval[1] - interval[0]) / 2


def compare(
    models: Mapping[str, Any],
    history: RewardHistory,
    fit_steps: int,
    observed: str = "trained",
    progress: Tell | None = None,
) -> Comparison:
    """Score models on one-step-ahead forecasts of 0 < k < n for every row after the fitting steps.

    Args:
        models: name -> a `Fit` (which had better not have seen the steps scored here), a model to fit here on the
            observed rows of the first `fit_steps` steps, or a model that learns online.
        history: rows to forecast; all rows after the fitting steps are scored, observed or not.
        fit_steps: number of first logged steps that are for fitting only.
        observed: what a forecaster sees of past steps: "trained" rows (default) or "all".
        progress: called with what is being done ("fitting hmm"), how much of it, of how much, and numbers to watch.

    Raises:
        InputError: no models; `fit_steps` leaves nothing to fit or to score; a model misses its cluster column.
    """
    if not models:
        raise InputError("there are no models to compare: name at least one")
    first_scored = split(history, fit_steps)
    visible = history.observed(observed)
    steps_scored = history.steps[fit_steps:]
    seen, there = (
        np.bincount(np.searchsorted(steps_scored, rows.step[rows.step >= first_scored]), minlength=len(steps_scored))
        for rows in (visible, history)
    )
    # Where every row was observed there was nothing to choose, and the B highest forecasts are all of them.
    budget = np.where(seen < there, seen, 0)
    to_fit = visible.before(first_scored)
    for name, model in models.items():
        if isinstance(model, Dynamics) and len(to_fit) == 0:
            raise InputError(
                f"model {name!r} has no rows to be fitted on: the first fit_steps={fit_steps} steps hold none "
                f"(observed={observed!r}): give more fit_steps, or a fit"
            )

    tell = progress or (lambda words, done, total, watch: None)
    used: dict[str, Any] = {}
    forecasts: dict[str, Forecast] = {}
    for name, model in models.items():
        if isinstance(model, Dynamics):
            model = fit(model, to_fit, progress=partial(tell, f"fitting {name}"))
        used[name] = model
        forecasts[name] = forecast(
            online_over(model, history), history, fit_steps, observed, partial(tell, f"forecasting by {name}")
        )
    losses = np.stack([log_losses(made.probability, made.informative) for made in forecasts.values()], axis=1)
    ranked = np.argsort(losses.mean(axis=0), kind="stable")
    behind = losses - losses[:, ranked[:1]]
    scored = next(iter(forecasts.values()))
    intervals = mean_interval(np.hstack([losses, behind]), scored.prompt)
    names = list(forecasts)
    scores = []
    for i in ranked:
        made = forecasts[names[i]]
        model = used[names[i]]
        scores.append(
            Score(
                model=names[i],
                log_loss=float(losses[:, i].mean()),
                log_loss_interval=_ends(intervals[:, i]),
                behind=float(behind[:, i].mean()),
                behind_interval=_ends(intervals[:, len(names) + i]),
                brier=brier(made.probability, made.informative),
                auroc=auroc(made.probability, made.informative),
                precision=precision_at(made.probability, made.informative, made.step, budget),
                calibration_error=calibration_error(made.probability, made.informative),
                num_scored=len(made.probability),
                fit_seconds=model.seconds if isinstance(model, Fit) else 0.0,
            )
        )
    return Comparison(scores, forecasts, used)


def _ends(interval: NDArray) -> tuple[float, float]:
    return float(interval[0]), float(interval[1])
