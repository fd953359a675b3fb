"""One-step-ahead forecasts of a history: what a forecaster would have said before each step, live."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError
from promptdyn.features import from_columns
from promptdyn.history import RewardHistory
from promptdyn.inference.fit import Fit
from promptdyn.inference.refit import Refitted
from promptdyn.models.base import DynamicsLike, check_made, with_clusters
from promptdyn.models.emissions import outcome_of
from promptdyn.online import OnlineFilter, OnlineModel
from promptdyn.progress import Report

__all__ = [
    "Forecast",
    "Track",
    "check_filters",
    "forecast",
    "online_filter",
    "online_over",
    "split",
    "steps_seen",
    "track",
    "walk",
]


class Forecast(NamedTuple):
    """Forecasts of the rows after the fitting steps, in the order of the history's rows."""

    probability: NDArray[np.float64]  # (row,) forecast P(0 < k < n), made before the row's step
    informative: NDArray[np.bool_]  # (row,) whether 0 < k < n came true
    step: NDArray[np.int32]  # (row,)
    prompt: NDArray[np.int32]  # (row,) index into the history's prompt_ids


class Track(NamedTuple):
    """How a filter saw a pool while a history unfolded."""

    steps: NDArray[np.int32]  # (step,)
    believed: NDArray[np.float64]  # (step outcome) forecast shares of the pool: none, some, all solved
    true: NDArray[np.float64]  # (step outcome) shares among the step's rows, NaN where not every prompt has one
    predicted: NDArray[np.float64]  # (step,) mean forecast P(0 < k < n) of the prompts observed in the step
    realised: NDArray[np.float64]  # (step,) share of them that were informative
    success_rate: NDArray[np.float64]  # (step prompt) forecast success rate of the followed prompts
    outcome: NDArray[np.float64]  # (step prompt outcome) forecast chances of none, some, all of the followed prompts
    followed: list[str]  # (prompt,) their ids


def check_filters(model: Any) -> None:
    """Raise InputError unless the model can filter: a `Fit`, or one that learns online."""
    check_made(model)
    if isinstance(model, DynamicsLike):
        raise InputError(
            f"model {model.name!r} must be fitted first: give a fit (.npz) made by `promptdyn fit`, or let "
            "a run refit it (`Refitted`, `train --refit-every`)"
        )
    if not isinstance(model, (Fit, Refitted, OnlineModel)):
        raise InputError(f"{model!r} is no dynamics model: give a Fit, a Refitted, or what inherits from OnlineModel")


def online_filter(model: Any, prompt_ids: list[str], clusters: Any = None, features: Any = None) -> OnlineFilter:
    """A fresh online filter of a `Fit`, a `Refitted` or a model that learns online; raises as they do."""
    check_filters(model)
    if isinstance(model, (Fit, Refitted)):
        return model.online(prompt_ids, clusters)
    return OnlineFilter(model, prompt_ids, clusters, features)


def online_over(model: Any, history: RewardHistory) -> OnlineFilter:
    """A fresh online filter over a history's pool, of a `Fit`, a `Refitted` or a model that learns online.

    Raises:
        InputError: the model must be fitted first, the history lacks its cluster column, or holds a cluster that the
            fit has not seen.
    """
    check_filters(model)
    if isinstance(model, Refitted):
        model = replace(model, model=with_clusters(model.model, history))
    labels = None if model.cluster is None else history.labels(model.cluster)
    return online_filter(model, list(history.prompt_ids), labels, _features(model, history))


def _features(model: Any, history: RewardHistory) -> NDArray[np.float32] | None:
    """(prompt feature) of the label columns that the model reads; None where it reads no features."""
    if model.features is None:
        return None
    columns = [model.features] if isinstance(model.features, str) else list(model.features)
    for column in columns:
        if column not in history.clusters:
            raise InputError(
                f"model {model.name!r} reads {column!r}, and a history has label columns alone "
                f"({', '.join(history.clusters) or 'this one has none'}): name some, as in features:features=task"
            )
    return from_columns({column: history.clusters[column] for column in columns})


def steps_seen(model: Any, history: RewardHistory) -> NDArray[np.int32]:
    """Of a history's logged steps those that a model was fitted on; none of one that learns online."""
    return history.steps[model.saw(history)] if isinstance(model, Fit) else history.steps[:0]


def split(history: RewardHistory, fit_steps: int) -> int:
    """First step that is scored when the first `fit_steps` logged steps are for fitting; InputError if none is left."""
    if not 0 <= fit_steps < len(history.steps):
        raise InputError(
            f"fit_steps={fit_steps} leaves nothing to score: the history has {len(history.steps)} steps; "
            f"give 0 to {len(history.steps) - 1}"
        )
    return int(history.steps[fit_steps])


def walk(
    online: OnlineFilter, history: RewardHistory, observed: str = "trained", progress: Report | None = None
) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """Take a filter through a history, step by step.

    Yields each logged step and the indices of its rows while the filter still holds the forecast for it; when the
    caller comes back, the observed rows ("trained", or "all") are absorbed, and `progress` is called.
    """
    visible = history.observed_rows(observed)
    bounds = np.searchsorted(history.step, history.steps)
    stops = [*bounds[1:], len(history)]
    for done, (step, start, stop) in enumerate(zip(history.steps, bounds, stops, strict=True), start=1):
        rows = np.arange(start, stop)
        yield int(step), rows
        seen = rows[visible[rows]]
        online.step(
            list(history.prompt_ids[history.prompt[seen]]),
            history.num_successes[seen],
            history.num_rollouts[seen],
            history.trained[seen],
        )
        if progress is not None:
            progress(done, len(stops), {})


def forecast(
    online: OnlineFilter,
    history: RewardHistory,
    fit_steps: int = 0,
    observed: str = "trained",
    progress: Report | None = None,
) -> Forecast:
    """Run a fresh online filter through a history and record its forecast of every row before it is seen.

    Args:
        online: a filter over the history's pool that has absorbed nothing yet.
        history: what is forecast. Every row is scored, including those the filter never sees.
        fit_steps: number of first steps that are absorbed but not scored.
        observed: the rows the filter sees once their step is over: "trained" (default) or "all".
        progress: called after each step with steps done, steps in all, and no numbers.

    Raises:
        InputError: `fit_steps` leaves nothing to score, or `observed` is neither word.
    """
    first_scored = split(history, fit_steps)
    place = online.rows(list(history.prompt_ids))
    probability = np.full(len(history), np.nan)
    for step, rows in walk(online, history, observed, progress):
        if step >= first_scored:
            probability[rows] = online.informative(history.num_rollouts[rows], rows=place[history.prompt[rows]])
    scored = history.step >= first_scored
    return Forecast(probability[scored], history.informative[scored], history.step[scored], history.prompt[scored])


def track(
    online: OnlineFilter,
    history: RewardHistory,
    follow: list[str],
    num_generations: int = 8,
    observed: str = "trained",
    progress: Report | None = None,
) -> Track:
    """Run a fresh online filter through a history and record what it believed, for plots.

    Args:
        online: a filter over the history's pool that has absorbed nothing yet.
        history: what happened.
        follow: ids of prompts whose own forecasts are kept.
        num_generations: group size that shares of the pool are forecast for; default 8.
        observed: the rows the filter sees: "trained" (default) or "all".
        progress: as of `forecast`.
    """
    visible = history.observed_rows(observed)
    place = online.rows(list(history.prompt_ids))
    followed = online.rows(follow)
    outcome = outcome_of(history.num_rollouts, history.num_successes)
    records = []
    for _, rows in walk(online, history, observed, progress):
        seen = rows[visible[rows]]
        complete = len(rows) == history.num_prompts
        chances = online.informative(history.num_rollouts[seen], rows=place[history.prompt[seen]])
        records.append(
            (
                online.outcome(num_generations).mean(axis=0),
                np.bincount(outcome[rows], minlength=3) / len(rows) if complete else np.full(3, np.nan),
                chances.mean() if seen.size else np.nan,
                history.informative[seen].mean() if seen.size else np.nan,
                online.success_rate()[followed],
                online.outcome(num_generations, followed),
            )
        )
    return Track._make([history.steps, *map(np.array, zip(*records, strict=True)), follow])
