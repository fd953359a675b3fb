"""Compare the results of a race, seed by seed, and show them as tables, curves and an HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from promptdyn import plots
from promptdyn.report import Section, svg, write_page
from promptdyn.storage import atomic
from promptdyn.training.race.declared import Race, Run

__all__ = ["Difference", "Standing", "bands", "standings", "tables", "write_standings"]

CONFIDENCE = 0.95
RESAMPLES = 9999
# Quantity of a run -> format of its mean over seeds in the tables.
CHOICES = {
    "effective_sample_ratio": "{:.2f}",
    "coverage": "{:.2f}",
    "forecast": "{:.2f}",
    "calibration_error": "{:.3f}",
    "steps": "{:,.0f}",
    "rollouts": "{:,.0f}",
    "tokens": "{:,.0f}",
    "seconds": "{:.0f}",
    "overhead": "{:.1%}",
}


class Difference(NamedTuple):
    """The mean difference from the baseline, paired by seed, and its 95 % interval, which is NaN for a single seed."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        if np.isnan(self.low):
            return f"{self.mean:+.3f}"
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


@dataclass(frozen=True)
class Standing:
    """What the runs of one entrant reached.

    Attributes:
        name: name of the entrant.
        learning_rate: learning rate of its runs.
        seeds: (seed,) seeds of its runs.
        rollouts: (point,) numbers of rollouts at which accuracies are given, evenly over the budget.
        curves: measure -> (seed, point) accuracies, interpolated between measurements.
        final: measure -> (seed,) accuracy at the end.
        choices: quantity -> mean over seeds: effective-sample ratio (share of the groups rolled out with 0 < k < n),
            coverage, mean and calibration error of the forecasts for the chosen prompts, steps, rollouts, generated
            tokens, seconds of training, and selection's share of those seconds.
        from_baseline: measure -> difference of the final accuracy from the baseline's, paired by seed (Student's t).
        area_from_baseline: measure -> difference of the mean accuracy over the run from the baseline's, if the budgets
            are equal (bootstrap of seeds).
        to_reference: measure -> rollouts after which the mean curve reaches the reference's final accuracy; None if it
            does not. Empty if there is no reference.
    """

    name: str
    learning_rate: float
    seeds: tuple[int, ...]
    rollouts: NDArray[np.float64]
    curves: dict[str, NDArray[np.float64]]
    final: dict[str, NDArray[np.float64]]
    choices: dict[str, float]
    from_baseline: dict[str, Difference]
    area_from_baseline: dict[str, Difference]
    to_reference: dict[str, float | None]

    def record(self) -> dict[str, Any]:
        """Return the attributes as a dict ready for JSON."""
        return {
            "selector": self.name,
            "learning_rate": self.learning_rate,
            "seeds": list(self.seeds),
            "rollouts": self.rollouts.tolist(),
            "curves": {measure: curve.tolist() for measure, curve in self.curves.items()},
            "final": {measure: values.tolist() for measure, values in self.final.items()},
            **self.choices,
            "from_baseline": {measure: value._asdict() for measure, value in self.from_baseline.items()},
            "area_from_baseline": {measure: value._asdict() for measure, value in self.area_from_baseline.items()},
            "to_reference": self.to_reference,
        }


def standings(declared: Race, results: Mapping[Run, Mapping[str, Any]]) -> list[Standing]:
    """Return a standing for each entrant that has results, in the order of the race.

    Comparisons are empty as long as the baseline or the reference has no results.
    """
    by_name = {
        name: [(run, results[run]) for run in runs] for name, runs in groupby(results, key=lambda run: run.entrant)
    }
    curves = {name: _curves(declared, name, [result for _, result in runs]) for name, runs in by_name.items()}
    final = {
        name: {
            measure: np.array([result["curve"][-1]["accuracy"][measure] for _, result in runs])
            for measure in curves[name][1]
        }
        for name, runs in by_name.items()
    }
    entrants = []
    for name, runs in by_name.items():
        grid, own_curves = curves[name]
        from_baseline, area_from_baseline, to_reference = {}, {}, {}
        if declared.baseline in by_name and name != declared.baseline:
            base_grid, base = curves[declared.baseline]
            for measure in own_curves:
                from_baseline[measure] = _paired(final[name][measure] - final[declared.baseline][measure])
                if np.array_equal(grid, base_grid):
                    area_from_baseline[measure] = _resampled(
                        _mean_over(grid, own_curves[measure]) - _mean_over(grid, base[measure])
                    )
        if declared.reference in by_name:
            for measure in own_curves:
                level = float(final[declared.reference][measure].mean())
                to_reference[measure] = _first_at(grid, own_curves[measure].mean(axis=0), level)
        entrants.append(
            Standing(
                name,
                runs[0][0].learning_rate,
                tuple(run.seed for run, _ in runs),
                grid,
                own_curves,
                final[name],
                {quantity: float(np.mean([result[quantity] for _, result in runs])) for quantity in CHOICES},
                from_baseline,
                area_from_baseline,
                to_reference,
            )
        )
    return entrants


def _curves(
    declared: Race, name: str, results: list[Mapping[str, Any]]
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    grid = np.linspace(0.0, declared.entrants[name].budget, declared.evaluations + 1)
    measures = list(results[0]["curve"][0]["accuracy"])

    def at_grid(curve: list[Mapping[str, Any]], measure: str) -> NDArray[np.float64]:
        points = [point["rollouts"] for point in curve], [point["accuracy"][measure] for point in curve]
        return np.interp(grid, *points)

    return grid, {measure: np.stack([at_grid(result["curve"], measure) for result in results]) for measure in measures}


def _mean_over(grid: NDArray[np.float64], curves: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the (seed,) means of the curves over the run: area under a curve divided by its width."""
    return np.trapezoid(curves, grid, axis=1) / (grid[-1] - grid[0])


def _first_at(grid: NDArray[np.float64], curve: NDArray[np.float64], level: float) -> float | None:
    """Return the rollouts at which a curve first reaches a level, interpolated linearly; None if it never does."""
    for i in np.flatnonzero(curve >= level)[:1]:
        if i == 0:
            return float(grid[0])
        return float(np.interp(level, curve[i - 1 : i + 1], grid[i - 1 : i + 1]))
    return None


def _paired(differences: NDArray[np.float64]) -> Difference:
    mean = float(differences.mean())
    if len(differences) < 2:
        return Difference(mean, np.nan, np.nan)
    half = float(stats.sem(differences) * stats.t.ppf(0.5 + CONFIDENCE / 2, len(differences) - 1))
    return Difference(mean, mean - half, mean + half)


def _resampled(differences: NDArray[np.float64]) -> Difference:
    mean = float(differences.mean())
    if len(differences) < 2 or np.ptp(differences) == 0.0:
        return Difference(mean, np.nan, np.nan) if len(differences) < 2 else Difference(mean, mean, mean)
    interval = stats.bootstrap(
        (differences,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Difference(mean, float(interval.low), float(interval.high))


def tables(declared: Race, entrants: list[Standing]) -> dict[str, list[dict[str, str]]]:
    """Return three tables of text by title: final accuracy, speed, and the choices with their cost."""
    measures = list(entrants[0].final)
    main = list(dict.fromkeys([declared.target, *(name for name in ("solved", "mix") if name in measures)]))
    accuracy, speed, choices = [], [], []
    for standing in entrants:
        rate = f"{standing.learning_rate:g}"
        row = {"selector": standing.name, "learning rate": rate}
        for measure in main:
            values = standing.final[measure]
            row[measure] = f"{values.mean():.3f}" + (f" ± {stats.sem(values):.3f}" if len(values) > 1 else "")
        for measure in main:
            row[f"{measure}, from {declared.baseline}"] = str(standing.from_baseline.get(measure, "–"))
        accuracy.append(row)
        speed_row = {"selector": standing.name}
        for measure in main:
            speed_row[f"mean {measure}, from {declared.baseline}"] = str(standing.area_from_baseline.get(measure, "–"))
        if declared.reference:
            for measure in main:
                reached_at = standing.to_reference.get(measure)
                speed_row[f"rollouts to its {measure}"] = "–" if reached_at is None else f"{reached_at:,.0f}"
        speed.append(speed_row)
        cells = {
            quantity.replace("_", " "): text.format(standing.choices[quantity]) for quantity, text in CHOICES.items()
        }
        choices.append({"selector": standing.name, **cells})
    speed_title = "Over the run" + (f", and until {declared.reference} is reached" if declared.reference else "")
    return {"At the end": accuracy, speed_title: speed, "What was chosen, and its cost": choices}


def write_standings(out: str | Path, title: str, declared: Race, entrants: list[Standing]) -> Path:
    """Write `report.html` and `curves.png` into a folder.

    Returns:
        The path of the page.
    """
    folder = Path(out)
    measures = list(entrants[0].final)
    comparable = [standing for standing in entrants if np.array_equal(standing.rollouts, entrants[0].rollouts)]
    figures = {
        measure: plots.curves(bands(comparable, measure), "rollouts", f"accuracy, {measure}") for measure in measures
    }
    with atomic(folder / "curves.png") as part:
        plots.curves(bands(comparable, declared.target), "rollouts", f"accuracy, {declared.target}").savefig(
            part, format="png", dpi=150
        )
    notes = {
        "At the end": "Mean accuracy over seeds with its standard error, and paired differences with 95 % intervals "
        "(Student's t).",
        "What was chosen, and its cost": "Effective-sample ratio: share of the groups rolled out with 0 < k < n. "
        "Calibration error: of the forecasts for the chosen prompts. Tokens: generated. Overhead: selection's share of "
        "the time of a step.",
    }
    sections = [
        Section(
            name, notes.get(name, "Mean accuracy over the run: area under the curve, with bootstrap intervals."), rows
        )
        for name, rows in tables(declared, entrants).items()
    ]
    sections += [
        Section(measure, "Means over seeds; bands are one standard error.", figures=[svg(figure)])
        for measure, figure in figures.items()
    ]
    seeds = ", ".join(map(str, declared.seeds))
    subtitle = (
        f"{declared.dataset}, {declared.num_prompts:,} prompts, {declared.budget:,} rollouts a run, seeds {seeds}"
    )
    return write_page(folder / "report.html", title, subtitle, sections)


def bands(entrants: list[Standing], measure: str) -> dict[str, tuple[NDArray[np.float64], ...]]:
    """Return rollouts, mean accuracy and its standard error, each (point,), by entrant: input of `plots.curves`."""
    band_of: dict[str, tuple[NDArray[np.float64], ...]] = {}
    for standing in entrants:
        curves = standing.curves[measure]
        error = stats.sem(curves, axis=0) if len(curves) > 1 else np.zeros(curves.shape[1])
        band_of[standing.name] = (standing.rollouts, curves.mean(axis=0), error)
    return band_of
