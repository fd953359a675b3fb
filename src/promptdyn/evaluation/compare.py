"""Comparing dynamics models by how well they would have forecast a history, one step ahead."""

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
from promptdyn.inference.fit import Fit, fit
from promptdyn.models.base import DynamicsLike, check_forecaster
from promptdyn.online import Forecaster
from promptdyn.progress import Tell

__all__ = ["Comparison", "ForecastScore", "compare"]


@dataclass(frozen=True)
class ForecastScore:
    """How well one forecaster foresaw 0 < k < n. Lower is better for log_loss, brier, calibration_error."""

    model: str
    log_loss: float  # nats per row
    log_loss_interval: tuple[float, float]  # 95 % bootstrap interval over prompts
    behind: float  # log loss more than the best model's that has not seen the steps scored
    behind_interval: tuple[float, float]  # and its interval, of the same draws for both
    ahead: float  # log loss less than the base rate's, which says of every row the share of all that were informative
    ahead_interval: tuple[float, float]
    brier: float
    auroc: float
    precision: float  # share informative of each step's B highest forecasts, B = its observed rows; NaN if B is all
    calibration_error: float  # expected calibration error, ten bins
    num_scored: int  # rows scored
    fit_seconds: float  # 0 for models that learn online
    steps_seen: int  # of the steps scored those that a fit was made on: where there are some, this is no forecast


@dataclass(frozen=True, eq=False)
class Comparison:
    """Scores, best log loss first, with the forecasts and what made them by model name.

    Attributes:
        scores: one per model.
        forecasts: model name -> its forecasts of the rows scored.
        models: model name -> what was given, or the fit where one was made.
    """

    scores: list[ForecastScore]
    forecasts: dict[str, Forecast]
    models: dict[str, Forecaster]

    def to_records(self) -> list[dict[str, Any]]:
        """Rows for a program, one per model: the fields of `ForecastScore`."""
        return [asdict(score) for score in self.scores]

    @property
    def informative(self) -> NDArray[np.bool_]:
        """(row,) what came true, of the rows scored."""
        return next(iter(self.forecasts.values())).informative

    @property
    def base_log_loss(self) -> float:
        """Log loss of a forecaster that knows nothing but the share of the scored rows that were informative."""
        return log_loss(np.full(len(self.informative), self.informative.mean()), self.informative)

    def table(self) -> list[dict[str, str]]:
        """Rows for people, one per model and one for the base rate."""
        rows = [
            {
                "model": score.model + (" (saw these steps)" if score.steps_seen else ""),
                "log loss": _with_half(score.log_loss, score.log_loss_interval),
                "behind": "–" if score is self._first else _with_half(score.behind, score.behind_interval),
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
        place = sum(score.ahead >= 0 for score in self.scores)
        rows.insert(place, {**dict.fromkeys(rows[0], "–"), **base})
        return rows

    def in_words(self) -> str:
        """Who forecast best and who is not clearly behind it, or that nobody knew more than the base rate."""
        share, base = self.informative.mean(), self.base_log_loss
        seen = [f"{score.model} ({score.steps_seen:,} of them)" for score in self.scores if score.steps_seen]
        words = (
            f"Fitted on steps that are scored here, so that its score is no forecast's: {', '.join(seen)}. "
            if seen
            else ""
        )
        if share in (0, 1):
            return f"{words}{'Every' if share else 'No'} group that was scored taught: there was nothing to foresee."
        best, others = self._first, [score for score in self.scores if not score.steps_seen][1:]
        if best.steps_seen:
            return words.strip()
        if best.ahead <= 0:
            order = max((score for score in self.scores if not score.steps_seen), key=lambda score: score.auroc)
            return (
                f"{words}No model forecast which groups would teach better than their share does: {share:.0%}, said of "
                f"every group, has log loss {base:.3f}, and {best.model}, the least of the models, "
                f"{best.log_loss:.3f}. Their order may tell more: AUROC {order.auroc:.3f} of {order.model}."
            )
        words += (
            f"Which groups would teach was foreseen best by {best.model}: log loss {best.log_loss:.3f}, where a "
            f"forecaster that knew no more than the share that taught ({share:.0%}) has {base:.3f}."
        )
        if best.ahead_interval[0] <= 0:
            words += " That is not clearly better."
        close = [score.model for score in others if score.behind_interval[0] <= 0]
        return words + (f" Not clearly behind it: {', '.join(close)}." if close else "")

    @property
    def best(self) -> Forecaster:
        """What forecast best: a `Fit`, or a model that learns online.

        Raises:
            InputError: no model did better than the base rate, or what did had seen the steps scored.
        """
        if self._first.steps_seen or self._first.ahead <= 0:
            raise InputError(f"no model is best. {self.in_words()} Take one by its name, as in models['dps']")
        return self.models[self._first.model]

    @property
    def _first(self) -> ForecastScore:
        """The best of those that have not seen the steps scored, where there are any."""
        return next((score for score in self.scores if not score.steps_seen), self.scores[0])


def _with_half(value: float, interval: tuple[float, float]) -> str:
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
        models: name -> a `Fit`, a model to fit here on the observed rows of the first `fit_steps` steps, or a model
            that learns online.
        history: rows to forecast; all rows after the fitting steps are scored, observed or not.
        fit_steps: number of first logged steps that are for fitting only.
        observed: what a forecaster sees of past steps: "trained" rows (default) or "all".
        progress: called with what is being done ("fitting hmm"), how much of it, of how much, and numbers to watch.
        allow_seen: True scores also a fit that was made on steps that are scored here, which is no forecast of them:
            the comparison says so. Default False.

    Raises:
        InputError: no models; `fit_steps` leaves nothing to fit or to score; a model misses its label column; a fit
            has seen steps that are scored here.
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
    observed_there, there = (
        np.bincount(np.searchsorted(steps_scored, rows.step[rows.step >= first_scored]), minlength=len(steps_scored))
        for rows in (visible, history)
    )
    # Where every row was observed there was nothing to choose, and the B highest forecasts are all of them.
    budget = np.where(observed_there < there, observed_there, 0)
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
        name: np.intersect1d(history.steps[made.was_fitted_on(history)], steps_scored) for name, made in fits.items()
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

    tell = progress or (lambda words, done, total, watch: None)
    used: dict[str, Forecaster] = {}
    forecasts: dict[str, Forecast] = {}
    for name, model in models.items():
        if isinstance(model, DynamicsLike):
            used[name] = fits[name] = fit(model, to_fit, observed=observed, progress=partial(tell, f"fitting {name}"))
        else:
            used[name] = model
        online = used[name].online(history.prompts)
        forecasts[name] = forecast(online, history, fit_steps, observed, partial(tell, f"forecasting by {name}"))
    names = list(forecasts)
    losses = np.stack([log_losses(made.probability, made.informative) for made in forecasts.values()], axis=1)
    ranked = np.argsort(losses.mean(axis=0), kind="stable")
    first = next((i for i in ranked if not len(seen[names[i]])), ranked[0])
    behind = losses - losses[:, [first]]
    scored = next(iter(forecasts.values()))
    base = log_losses(np.full(len(losses), scored.informative.mean()), scored.informative)
    ahead = base[:, None] - losses
    intervals = np.split(mean_interval(np.hstack([losses, behind, ahead]), scored.prompt), 3, axis=1)
    scores = []
    for i in ranked:
        made = forecasts[names[i]]
        scores.append(
            ForecastScore(
                model=names[i],
                log_loss=float(losses[:, i].mean()),
                log_loss_interval=_ends(intervals[0][:, i]),
                behind=float(behind[:, i].mean()),
                behind_interval=_ends(intervals[1][:, i]),
                ahead=float(ahead[:, i].mean()),
                ahead_interval=_ends(intervals[2][:, i]),
                brier=brier(made.probability, made.informative),
                auroc=auroc(made.probability, made.informative),
                precision=precision_at(made.probability, made.informative, made.step, budget),
                calibration_error=calibration_error(made.probability, made.informative),
                num_scored=len(made.probability),
                fit_seconds=fits[names[i]].seconds if names[i] in fits else 0.0,
                steps_seen=len(seen[names[i]]),
            )
        )
    return Comparison(scores, forecasts, used)


def _ends(interval: NDArray) -> tuple[float, float]:
    return float(interval[0]), float(interval[1])
