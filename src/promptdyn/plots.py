"""Plot histories, beliefs and models. Each function returns a matplotlib Figure and does not show it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from promptdyn.evaluation.forecast import Forecast, Track
from promptdyn.evaluation.metrics import reliability
from promptdyn.history import Observed, RewardHistory
from promptdyn.history.events import exposure_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from promptdyn.inference.fit import Fit

__all__ = [
    "curves",
    "effective_sample_ratio",
    "objective",
    "outcome_shares",
    "predicted_informative",
    "prompt_timelines",
    "reliability_diagram",
    "selection_frequency",
    "share_trained_on",
    "smoothing_window",
    "success_by_cluster",
    "transitions",
]

OUTCOMES = ("unsolved", "partly solved", "solved")
COLOURS = ("#b6bcc6", "#e8a33d", "#3f7f5f")
LINES = ("#2f5d8a", "#c2543d", "#3f7f5f", "#8a5fa8", "#8c7a3d", "#4a4a4a")
STYLES = ("-", "--", ":")
WIDTH = 6.4
# Limits of an axis of shares, with room for points at 0 and 1.
SHARES = (-0.03, 1.03)
# Most points that a line is drawn with.
MAX_POINTS = 400
MAX_LEVELS = len(LINES)


def _figure(height: float = 3.2, columns: int = 1, rows: int = 1, width: float = WIDTH) -> tuple[Figure, NDArray]:
    """Return a figure, sizes in inches, and its (row, column) axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _smooth(values: NDArray, window: int) -> NDArray:
    """Return a centered running mean that skips NaN and is shorter at the ends."""
    known = np.isfinite(values)
    kernel = np.ones(min(window, len(values)))
    total = np.convolve(np.where(known, values, 0.0), kernel, "same")
    count = np.convolve(known.astype(float), kernel, "same")
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)


def smoothing_window(num_steps: int) -> int:
    """Return the window of running means for a plot of so many steps: a twentieth, and odd, so that it is centered."""
    return max(1, num_steps // 20) // 2 * 2 + 1


def _legend(figure: Figure, axis: Axes) -> None:
    """Put the legend above the axes, where it hides nothing."""
    handles, labels = axis.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper left", ncols=4, fontsize=8, frameon=False)


def outcome_shares(track: Track) -> Figure:
    """Plot forecast shares of the pool that are unsolved, partly solved and solved; dashed: true shares, if known."""
    figure, axes = _figure()
    axis = axes[0, 0]
    axis.stackplot(track.steps, track.believed.T, labels=OUTCOMES, colors=COLOURS, alpha=0.85)
    if np.isfinite(track.true).any():
        boundaries = np.cumsum(track.true, axis=1)
        for i, label in ((0, "true boundaries"), (1, None)):
            axis.plot(track.steps, boundaries[:, i], "--", color="black", linewidth=1, label=label)
    axis.set(xlabel="step", ylabel="share of the pool", ylim=(0, 1))
    axis.margins(x=0)
    _legend(figure, axis)
    return figure


def predicted_informative(track: Track) -> Figure:
    """Plot forecast and realized shares of informative groups among the prompts of each step."""
    figure, axes = _figure()
    axis = axes[0, 0]
    axis.plot(track.steps, track.realized, ".", color=LINES[0], alpha=0.25, markersize=4)
    window = smoothing_window(len(track.steps))
    axis.plot(track.steps, _smooth(track.realized, window), color=LINES[0], label="realized")
    axis.plot(track.steps, _smooth(track.predicted, window), "--", color="black", label="predicted")
    axis.set(xlabel="step", ylabel="share informative (0 < k < n)", ylim=SHARES)
    _legend(figure, axis)
    return figure


def effective_sample_ratio(histories: Mapping[str, RewardHistory], track: Track | None = None) -> Figure:
    """Plot the share of trained groups with 0 < k < n, per step and as a running mean, one line per run.

    With a track, it also plots the share that a uniform draw from the pool would have had, if that is known.
    """
    figure, axes = _figure()
    axis = axes[0, 0]
    for (name, history), colour in zip(histories.items(), cycle(LINES), strict=False):
        trained = history.select(history.trained)
        index = np.searchsorted(trained.steps, trained.step)
        ratio = np.bincount(index, trained.informative) / np.bincount(index)
        axis.plot(trained.steps, ratio, ".", color=colour, alpha=0.2, markersize=4)
        axis.plot(trained.steps, _smooth(ratio, smoothing_window(len(ratio))), color=colour, label=name)
    if track is not None and np.isfinite(track.true).any():
        axis.plot(track.steps, track.true[:, 1], color="black", linewidth=0.6, label="a uniform draw")
    axis.set(xlabel="step", ylabel="effective-sample ratio", ylim=SHARES)
    _legend(figure, axis)
    return figure


def share_trained_on(histories: Mapping[str, RewardHistory], pool_size: int | None) -> Figure:
    """Plot the share of the pool that was trained on at least once by each step, one line per run.

    If the pool's size is not known (None), it is the share of the prompts in the histories.
    """
    figure, axes = _figure()
    size = pool_size or max(history.num_prompts for history in histories.values())
    axis = axes[0, 0]
    for (name, history), colour in zip(histories.items(), cycle(LINES), strict=False):
        trained = history.select(history.trained)
        _, first = np.unique(trained.prompt, return_index=True)
        num_touched = np.searchsorted(np.sort(trained.step[first]), trained.steps, side="right")
        axis.plot(trained.steps, num_touched / size, color=colour, label=name)
    axis.set(xlabel="step", ylabel=f"share of {_pool_label(pool_size)} trained on", ylim=SHARES)
    _legend(figure, axis)
    return figure


def _pool_label(pool_size: int | None) -> str:
    return "the prompts in the log" if pool_size is None else "the pool"


def selection_frequency(histories: Mapping[str, RewardHistory], pool_size: int | None) -> Figure:
    """Plot how often each prompt of the pool was trained on, most often first, one line per run.

    If the pool's size is not known (None), it shows the prompts in the histories.
    """
    figure, axes = _figure()
    size = pool_size or max(history.num_prompts for history in histories.values())
    axis = axes[0, 0]
    for (name, history), colour in zip(histories.items(), cycle(LINES), strict=False):
        times = np.zeros(size, int)
        chosen = np.bincount(history.prompt[history.trained], minlength=history.num_prompts)
        times[: len(chosen)] = np.sort(chosen)[::-1]
        ranks = np.unique(np.linspace(0, size - 1, min(size, MAX_POINTS)).astype(int))
        axis.step((ranks + 1) / size, times[ranks], where="pre", color=colour, label=name)
    axis.set(
        xlabel=f"share of {_pool_label(pool_size)}, most often chosen first", ylabel="times trained on", xlim=(0, 1)
    )
    axis.set_ylim(bottom=0)
    _legend(figure, axis)
    return figure


def success_by_cluster(history: RewardHistory, column: str) -> Figure:
    """Plot running means of the success rates of a label column's largest levels over time."""
    figure, axes = _figure()
    axis = axes[0, 0]
    levels, code = np.unique(history.columns[column].astype(str), return_inverse=True)
    code = code[history.prompt]
    largest = np.argsort(-np.bincount(code, minlength=len(levels)), kind="stable")[:MAX_LEVELS]
    steps = history.steps
    index = np.searchsorted(steps, history.step)
    kernel = np.ones(min(smoothing_window(len(steps)), len(steps)))
    for level, colour in zip(np.sort(largest), LINES, strict=False):
        rows = code == level
        solved, rolled = (
            np.convolve(np.bincount(index[rows], counts[rows], len(steps)), kernel, "same")
            for counts in (history.num_successes, history.num_rollouts)
        )
        rate = np.divide(solved, rolled, out=np.full(len(steps), np.nan), where=rolled > 0)
        axis.plot(steps, rate, color=colour, label=levels[level].replace("$", r"\$")[:40])
    axis.set(xlabel="step", ylabel="success rate", ylim=SHARES)
    _legend(figure, axis)
    return figure


def objective(fit: Fit) -> Figure:
    """Plot the objective of the engine that made a fit, over its iterations."""
    figure, axes = _figure(height=2.6)
    axis = axes[0, 0]
    axis.plot(fit.trace, color=LINES[0], marker="." if len(fit.trace) < 60 else "")
    axis.set(xlabel=f"{fit.method['name']} iteration", ylabel="objective, nats")
    return figure


def curves(bands: Mapping[str, tuple[NDArray, ...]], xlabel: str, ylabel: str) -> Figure:
    """Plot curves with bands, given name -> (point,) x, (point,) y and the (point,) half width of the band."""
    figure, axes = _figure(height=4.0, width=1.3 * WIDTH)
    axis = axes[0, 0]
    for i, (name, (x, y, half)) in enumerate(bands.items()):
        colour, style = LINES[i % len(LINES)], STYLES[i // len(LINES) % len(STYLES)]
        axis.plot(x, y, style, color=colour, label=name)
        axis.fill_between(x, y - half, y + half, color=colour, alpha=0.15, linewidth=0)
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.margins(x=0.02)
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


def prompt_timelines(history: RewardHistory, track: Track, observed: Observed = "trained") -> Figure:
    """Plot success rates of the followed prompts over the forecast chances of their outcomes, one panel per prompt."""
    columns = 2
    rows = -(-len(track.followed) // columns)
    figure, axes = _figure(height=1.5 * rows + 0.5, columns=columns, rows=rows, width=1.5 * WIDTH)
    visible = history.observed_rows(observed)
    for i, axis in enumerate(axes.flat):
        if i >= len(track.followed):
            axis.set_visible(False)
            continue
        own = history.prompt == np.flatnonzero(history.prompt_ids == track.followed[i])[0]
        share = history.num_successes / history.num_rollouts
        axis.stackplot(track.steps, track.outcome[:, i].T, colors=COLOURS, alpha=0.45, labels=OUTCOMES)
        for mask, marker, colour, label in (
            (~visible, ".", "#868e98", "hidden k/n"),
            (visible, "o", "black", "seen k/n"),
        ):
            if mask.any():
                dots = {"color": colour, "markersize": 3, "label": label, "clip_on": False}
                axis.plot(history.step[own & mask], share[own & mask], marker, **dots)
        axis.plot(
            track.steps,
            track.success_rate[:, i],
            color=LINES[0],
            linewidth=1.2,
            label="forecast success rate",
        )
        axis.set(ylim=(-0.05, 1.05))
        axis.margins(x=0)
        axis.set_title(track.followed[i][:60].replace("$", r"\$"), fontsize=8, loc="left")
        axis.tick_params(labelsize=7)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=6, fontsize=8)
    return figure


def reliability_diagram(forecasts: Mapping[str, Forecast]) -> Figure:
    """Plot realized shares of informative groups against forecasts, in ten bins.

    Calibrated forecasts lie on the diagonal.
    """
    figure, axes = _figure(height=4.0)
    axis = axes[0, 0]
    axis.plot([0, 1], [0, 1], color="#b6bcc6", linewidth=1)
    for (name, forecast), colour in zip(forecasts.items(), cycle(LINES), strict=False):
        diagram = reliability(forecast.probability, forecast.informative)
        axis.plot(diagram.forecast, diagram.realized, color=colour, linewidth=1, label=name)
        axis.scatter(diagram.forecast, diagram.realized, s=4 + 120 * diagram.size / diagram.size.sum(), color=colour)
    axis.set(
        xlabel="forecast P(0 < k < n)",
        ylabel="share that came true",
        xlim=SHARES,
        ylim=SHARES,
        aspect="equal",
    )
    _legend(figure, axis)
    return figure


def transitions(fit: Fit, cluster: int = 0) -> Figure:
    """Plot the learned transition matrices [current, next] of a cluster, by exposure, labelled by success rates."""
    moves = fit.chain.transition
    matrices = moves[:, min(cluster, moves.shape[1] - 1)]
    names = exposure_names(len(matrices))
    figure, axes = _figure(height=3.4, columns=len(matrices), width=3.4 * len(matrices) + 0.6)
    labels = [f"{rate:.2f}" for rate in fit.success_rates]
    for axis, matrix, name in zip(axes.flat, matrices, names, strict=True):
        image = axis.imshow(matrix, cmap="Blues", vmin=0, vmax=1)
        axis.set_xticks(range(len(labels)), labels, fontsize=7, rotation=90)
        axis.set_yticks(range(len(labels)), labels, fontsize=7)
        axis.set_title(name, fontsize=9)
        axis.set(xlabel="success rate at t + 1", ylabel="success rate at t")
        if len(labels) <= 8:
            for (i, j), value in np.ndenumerate(matrix):
                if value >= 0.005:
                    axis.text(
                        j,
                        i,
                        f"{value:.2f}",
                        ha="center",
                        va="center",
                        fontsize=6,
                        color="white" if value > 0.5 else "black",
                    )
    figure.colorbar(image, ax=axes.ravel().tolist(), shrink=0.7)
    return figure
