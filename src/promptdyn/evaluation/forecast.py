"""Make one-step-ahead forecasts of a history, as a live forecaster would have made them before each step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError
from promptdyn.history import Observed, RewardHistory, outcome_of
from promptdyn.online import OnlineFilter
from promptdyn.progress import Report

__all__ = ["Forecast", "Track", "forecast", "split", "track", "walk"]


class Forecast(NamedTuple):
    """Forecasts of the rows after the fitting steps, in the order of the history's rows."""

    probability: NDArray[np.float64]  # (row,) forecasts P(0 < k < n), made before the row's step
    informative: NDArray[np.bool_]  # (row,) whether 0 < k < n
    step: NDArray[np.int32]  # (row,)
    prompt: NDArray[np.int32]  # (row,) index into the history's prompt_ids


class Track(NamedTuple):
    """A filter's beliefs about a pool over a history."""

    steps: NDArray[np.int32]  # (step,)
    believed: NDArray[np.float64]  # (step outcome) forecast shares of the pool
    true: NDArray[np.float64]  # (step outcome) shares of the step's rows, NaN unless every prompt has one
    predicted: NDArray[np.float64]  # (step,) mean forecast P(0 < k < n) of the prompts observed in the step
    realized: NDArray[np.float64]  # (step,) share of these prompts' groups that were informative
    success_rate: NDArray[np.float64]  # (step prompt) forecast success rates of the followed prompts
    outcome: NDArray[np.float64]  # (step prompt outcome) forecast chances of the followed prompts
    followed: list[str]  # (prompt,) ids of the followed prompts


def split(history: RewardHistory, fit_steps: int) -> int:
    """Return the first step to score if the first `fit_steps` logged steps are for fitting.

    Raises:
        InputError: no step is left to score.
    """
    if not 0 <= fit_steps < len(history.steps):
        raise InputError(
            f"fit_steps={fit_steps} leaves nothing to score: the history has {len(history.steps)} steps; "
            f"give 0 to {len(history.steps) - 1}"
        )
    return int(history.steps[fit_steps])


def walk(
    online: OnlineFilter, history: RewardHistory, observed: Observed = "trained", progress: Report | None = None
) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """Take a filter through a history, step by step.

    It yields each logged step and the indices of its rows while the filter holds the forecast for that step. Then the
    filter absorbs the observed rows ("trained" or "all"), and `progress` is called.
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
    observed: Observed = "trained",
    progress: Report | None = None,
) -> Forecast:
    """Run a new online filter through a history, and record its forecast of every row before the row is seen.

    Args:
        online: a filter over the history's pool that has absorbed nothing yet.
        history: the history to forecast. Every row is scored, also rows that the filter never sees.
        fit_steps: number of first steps that are absorbed but not scored; default 0.
        observed: the rows that the filter absorbs after their step: "trained" (default) or "all".
        progress: function of (steps done, steps in all, {}), called after each step. Default: none.

    Raises:
        InputError: `fit_steps` leaves nothing to score, or `observed` is neither word.
    """
    first_scored = split(history, fit_steps)
    filter_row = online.rows(list(history.prompt_ids))
    probability = np.full(len(history), np.nan)
    for step, rows in walk(online, history, observed, progress):
        if step >= first_scored:
            probability[rows] = online.informative(history.num_rollouts[rows], rows=filter_row[history.prompt[rows]])
    scored = history.step >= first_scored
    return Forecast(probability[scored], history.informative[scored], history.step[scored], history.prompt[scored])


def track(
    online: OnlineFilter,
    history: RewardHistory,
    follow: list[str],
    num_generations: int = 8,
    observed: Observed = "trained",
    progress: Report | None = None,
) -> Track:
    """Run a new online filter through a history, and record its beliefs for plots.

    Args:
        online: a filter over the history's pool that has absorbed nothing yet.
        history: the history.
        follow: ids of prompts whose own forecasts are recorded.
        num_generations: group size for which shares of the pool are forecast; default 8.
        observed: the rows that the filter absorbs: "trained" (default) or "all".
        progress: as in `forecast`.
    """
    visible = history.observed_rows(observed)
    filter_row = online.rows(list(history.prompt_ids))
    followed = online.rows(follow)
    outcome = outcome_of(history.num_successes, history.num_rollouts)
    records = []
    for _, rows in walk(online, history, observed, progress):
        seen = rows[visible[rows]]
        complete = len(rows) == history.num_prompts
        chances = online.informative(history.num_rollouts[seen], rows=filter_row[history.prompt[seen]])
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
