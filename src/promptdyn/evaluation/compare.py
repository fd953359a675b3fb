"""Compare dynamics models by how well they forecast a history, one step ahead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError
from promptdyn.evaluation.forecast import Forecast, forecast, split
from promptdyn.evaluation.metrics import (
    auroc,
    brier,
    calibration_error,
    log_loss,
    log_losses,
    mean_interval,
    precision_at,
)
from promptdyn.history import Observed, RewardHistory
from promptdyn.inference import Fit, fit
from promptdyn.models.base import DynamicsLike
from promptdyn.models.checks import check_forecaster
from promptdyn.online import Forecaster
from promptdyn.progress import Tell

__all__ = ["Comparison", "ForecastScore", "compare"]


@dataclass(frozen=True)
class ForecastScore:
    """How well one model forecast 0 < k < n. Lower is better for log_loss, brier and calibration_error."""

    model: str
    log_loss: float  # nats per row
    log_loss_interval: tuple[float, float]  # 95 % bootstrap interval over prompts
    behind: float  # log loss minus that of the best model that has not seen the scored steps
    behind_interval: tuple[float, float]  # 95 % interval of `behind`, with the same bootstrap draws for both models
    ahead: float  # log loss of the base rate (the share of informative rows, for every row) minus the model's
    ahead_interval: tuple[float, float]  # 95 % interval of `ahead`
    brier: float
    auroc: float
    precision: float  # informative share of each step's B highest forecasts, B = its observed rows; NaN if B is all
    calibration_error: float  # expected calibration error, ten bins
    num_scored: int  # number of rows scored
    fit_seconds: float  # time of the fit; 0 for models that learn online
    steps_seen: int  # number of scored steps that a fit was made on; if there are any, the score is no forecast's


@dataclass(frozen=True, eq=False)
class Comparison:
    """Scores of models, with their forecasts.

    Attributes:
        scores: one per model, least log loss first.
        forecasts: model name -> its forecasts of the scored rows.
        models: model name -> the forecaster that was scored: the one passed in, or the fit of a model that needs one.
    """

    scores: list[ForecastScore]
    forecasts: dict[str, Forecast]
    models: dict[str, Forecaster]

    def to_records(self) -> list[dict[str, Any]]:
        """Return one dict per model with the fields of `ForecastScore`, for a program."""
        return [asdict(score) for score in self.scores]

    @property
    def informative(self) -> NDArray[np.bool_]:
        """(row,) whether the scored rows were informative."""
        return next(iter(self.forecasts.values())).informative

    @property
    def base_log_loss(self) -> float:
        """Log loss of forecasting the share of informative rows for every scored row."""
        return log_loss(np.full(len(self.informative), self.informative.mean()), self.informative)

    def table(self) -> list[dict[str, str]]:
        """Return rows of text for people, one per model and one for the base rate."""
        rows = [
            {
                "model": score.model + (" (saw these steps)" if score.steps_seen else ""),
                "log loss": _plus_minus(score.log_loss, score.log_loss_interval),
                "behind": "–" if score is self._first else _plus_minus(score.behind, score.behind_interval),
                "Brier": f"{score.brier:.3f}",
                "AUROC": _or_dash(score.auroc),
                "precision": _or_dash(score.precision),
                "calibration error": f"{score.calibration_error:.3f}",
                "fit, s": f"{score.fit_seconds:.1f}" if score.fit_seconds else "–",
            }
            for score in self.scores
        ]
        share = self.informative.mean()
        base = {
            "model": f"base rate ({share:.0%})",
            "log loss": f"{self.base_log_loss:.3f}",
            "Brier": f"{share * (1 - share):.3f}",
        }
        rank = sum(score.ahead >= 0 for score in self.scores)
        rows.insert(rank, {**dict.fromkeys(rows[0], "–"), **base})
        return rows

    @property
    def verdict(self) -> str:
        """The result in words: the best model and those not clearly behind it, or that none beats the base rate."""
        share, base = self.informative.mean(), self.base_log_loss
        on_fitted_steps = [f"{score.model} ({score.steps_seen:,} of them)" for score in self.scores if score.steps_seen]
        caution = ""
        if on_fitted_steps:
            names = ", ".join(on_fitted_steps)
            caution = f"Fitted on steps that are scored here, so that its score is no forecast's: {names}. "
        if share in (0, 1):
            return f"{caution}{'Every' if share else 'No'} group that was scored taught: there was nothing to forecast."
        best, others = self._first, [score for score in self.scores if not score.steps_seen][1:]
        if best.steps_seen:
            return caution.strip()
        if best.ahead <= 0:
            order = max((score for score in self.scores if not score.steps_seen), key=lambda score: score.auroc)
            return (
                f"{caution}No model forecast which groups would teach better than the base rate: {share:.0%} for every "
                f"group has log loss {base:.3f}; the best model, {best.model}, has {best.log_loss:.3f}. The order of "
                f"its forecasts may tell more: {order.model} has AUROC {order.auroc:.3f}."
            )
        text = (
            f"{caution}{best.model} forecast best which groups would teach: log loss {best.log_loss:.3f}, where the "
            f"base rate ({share:.0%} for every group) has {base:.3f}."
        )
        if best.ahead_interval[0] <= 0:
            text += " That is not clearly better."
        close = [score.model for score in others if score.behind_interval[0] <= 0]
        return text + (f" Not clearly behind it: {', '.join(close)}." if close else "")

    @property
    def best(self) -> Forecaster:
        """The best forecaster: a `Fit`, or a model that learns online.

        Raises:
            InputError: no model did better than the base rate, or the one that did had seen the scored steps.
        """
        if self._first.steps_seen or self._first.ahead <= 0:
            raise InputError(f"no model is best. {self.verdict} Take one by its name, as in models['dps']")
        return self.models[self._first.model]

    @property
    def _first(self) -> ForecastScore:
        """The best score of a model that has not seen the scored steps; the best of all if every model has."""
        return next((score for score in self.scores if not score.steps_seen), self.scores[0])


def _plus_minus(value: float, interval: tuple[float, float]) -> str:
    return f"{value:.3f} ± {(interval[1] - interval[0]) / 2:.3f}"


def _or_dash(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.3f}"


def compare(
    models: Mapping[str, Forecaster | DynamicsLike],
    history: RewardHistory,
    fit_steps: int,
    observed: Observed = "trained",
    progress: Tell | None = None,
    *,
    allow_seen: bool = False,
) -> Comparison:
    """Score models on one-step-ahead forecasts of 0 < k < n for every row after the fitting steps.

    Args:
        models: name -> a `Fit`; a model to fit here, on the observed rows of the first `fit_steps` steps; or a model
            that learns online.
        history: the history to forecast. All rows after the fitting steps are scored, observed or not.
        fit_steps: number of first logged steps that are used for fitting only.
        observed: rows of past steps that a forecaster sees: "trained" (default) or "all".
        progress: function of (name of the work, such as "fitting hmm"; done; total; numbers to watch). Default: none.
        allow_seen: True also scores a fit that was made on steps that are scored here, and the comparison says so.
            Default False: such a fit is refused.

    Raises:
        InputError: no models; `fit_steps` leaves nothing to fit or to score; a model's label column is missing; a fit
            was made on steps that are scored here.
    """
    if not isinstance(models, Mapping):
        raise InputError(
            f"models is a {type(models).__name__}: give each a name, as in {{'dps': DPS(), 'hmm': DiscreteHMM()}}"
        )
    if not models:
        raise InputError("there are no models to compare: name at least one")
    first_scored = split(history, fit_steps)
    visible = history.observed(observed)
    steps_scored = history.steps[fit_steps:]
    num_observed, num_rows = (
        np.bincount(np.searchsorted(steps_scored, rows.step[rows.step >= first_scored]), minlength=len(steps_scored))
        for rows in (visible, history)
    )
    # If every row of a step was observed, the B highest forecasts are all of them, and precision tells nothing.
    budget = np.where(num_observed < num_rows, num_observed, 0)
    to_fit = history.before(first_scored)
    for name, model in models.items():
        if not isinstance(model, DynamicsLike):
            check_forecaster(model)
        elif not to_fit.observed_rows(observed).any():
            raise InputError(
                f"model {name!r} has no rows to be fitted on: the first fit_steps={fit_steps} steps hold none "
                f"(observed={observed!r}): give more fit_steps, or a fit"
            )

    fits = {name: model for name, model in models.items() if isinstance(model, Fit)}
    seen = dict.fromkeys(models, steps_scored[:0])
    seen |= {
        name: np.intersect1d(history.steps[own_fit.was_fitted_on(history)], steps_scored)
        for name, own_fit in fits.items()
    }
    for name, steps in seen.items():
        if len(steps) and not allow_seen:
            after = int(np.searchsorted(history.steps, steps[-1])) + 1
            mend = f", score what comes after (fit_steps={after})" if after < len(history.steps) else ""
            raise InputError(
                f"fit {name!r} was made on {len(steps):,} of the {len(steps_scored):,} steps that are scored here "
                f"({steps[0]} to {steps[-1]}), so its score would be no forecast's: fit on the first {fit_steps:,} "
                f"steps alone (fit --fit-steps {fit_steps}){mend}, or have it scored all the same (allow_seen=True, "
                "--allow-seen)"
            )

    report_progress = progress or (lambda work, done, total, watch: None)
    used: dict[str, Forecaster] = {}
    for name, model in models.items():
        if isinstance(model, DynamicsLike):
            used[name] = fits[name] = fit(
                model, to_fit, observed=observed, progress=partial(report_progress, f"fitting {name}")
            )
        else:
            used[name] = model
    forecasts: dict[str, Forecast] = {}
    for name, forecaster in used.items():
        online = forecaster.online(history.prompts)
        forecasts[name] = forecast(
            online, history, fit_steps, observed, partial(report_progress, f"forecasting by {name}")
        )
    names = list(forecasts)
    losses = np.stack([log_losses(rows.probability, rows.informative) for rows in forecasts.values()], axis=1)
    ranked = np.argsort(losses.mean(axis=0), kind="stable")
    first = next((i for i in ranked if not len(seen[names[i]])), ranked[0])
    behind = losses - losses[:, [first]]
    scored = next(iter(forecasts.values()))
    base = log_losses(np.full(len(losses), scored.informative.mean()), scored.informative)
    ahead = base[:, None] - losses
    intervals = np.split(mean_interval(np.hstack([losses, behind, ahead]), scored.prompt), 3, axis=1)
    scores = []
    for i in ranked:
        rows = forecasts[names[i]]
        scores.append(
            ForecastScore(
                model=names[i],
                log_loss=float(losses[:, i].mean()),
                log_loss_interval=_ends(intervals[0][:, i]),
                behind=float(behind[:, i].mean()),
                behind_interval=_ends(intervals[1][:, i]),
                ahead=float(ahead[:, i].mean()),
                ahead_interval=_ends(intervals[2][:, i]),
                brier=brier(rows.probability, rows.informative),
                auroc=auroc(rows.probability, rows.informative),
                precision=precision_at(rows.probability, rows.informative, rows.step, budget),
                calibration_error=calibration_error(rows.probability, rows.informative),
                num_scored=len(rows.probability),
                fit_seconds=fits[names[i]].seconds if names[i] in fits else 0.0,
                steps_seen=len(seen[names[i]]),
            )
        )
    return Comparison(scores, forecasts, used)


def _ends(interval: NDArray) -> tuple[float, float]:
    return float(interval[0]), float(interval[1])
