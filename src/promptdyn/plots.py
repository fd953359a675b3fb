"""Plots of histories, beliefs and models. Each function returns a matplotlib Figure and shows nothing by itself."""

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
# Limits of an axis of shares that leave room for what lies at 0 and 1.
SHARES = (-0.03, 1.03)
# Points of a line that is drawn of more.
MAX_POINTS = 400
MAX_LEVELS = len(LINES)
# Titles of a chain's exposures, by how many it tells apart.
EXPOSURES = {
    1: ("every step",),
    2: ("idle", "trained on"),
    3: ("idle", "trained on", "trained on, no variance"),
}


def _figure(height: float = 3.2, columns: int = 1, rows: int = 1, width: float = WIDTH) -> tuple[Figure, NDArray]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _smooth(values: NDArray, window: int) -> NDArray:
    """Centred running mean that skips NaN and shortens at the ends."""
    known = np.isfinite(values)
    kernel = np.ones(min(window, len(values)))
    total = np.convolve(np.where(known, values, 0.0), kernel, "same")
    count = np.convolve(known.astype(float), kernel, "same")
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)


def smoothing_window(num_steps: int) -> int:
    """Steps that the running means of a plot of so many steps go over: a twentieth, odd so that it is centred."""
    return max(1, num_steps // 20) // 2 * 2 + 1


def _legend(figure: Figure, axis: Axes) -> None:
    """Names of the lines above the axes, where they hide nothing."""
    handles, labels = axis.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper left", ncols=4, fontsize=8, frameon=False)


def outcome_shares(track: Track) -> Figure:
    """Share of the pool believed unsolved, partly solved, solved over time; dashed where the truth is known."""
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
    """Forecast and realized share of informative groups among the prompts of each step."""
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
    """Share of the trained groups with 0 < k < n, per step and as a running mean, one line per run.

    With a track, also what a uniform draw from the pool would have given, where that is known.
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
    """Share of the pool trained on at least once by each step, one line per run.

    Of a pool whose size is not known (None), the share of the prompts in the histories.
    """
    figure, axes = _figure()
    size = pool_size or max(history.num_prompts for history in histories.values())
    axis = axes[0, 0]
    for (name, history), colour in zip(histories.items(), cycle(LINES), strict=False):
        trained = history.select(history.trained)
        _, first = np.unique(trained.prompt, return_index=True)
        joined = np.searchsorted(np.sort(trained.step[first]), trained.steps, side="right")
        axis.plot(trained.steps, joined / size, color=colour, label=name)
    axis.set(xlabel="step", ylabel=f"share of {_of_pool(pool_size)} trained on", ylim=SHARES)
    _legend(figure, axis)
    return figure


def _of_pool(pool_size: int | None) -> str:
    return "the prompts in the log" if pool_size is None else "the pool"


def selection_frequency(histories: Mapping[str, RewardHistory], pool_size: int | None) -> Figure:
    """How often each prompt of the pool was trained on, most often first, one line per run.

    Of a pool whose size is not known (None), each prompt in the histories.
    """
    figure, axes = _figure()
    size = pool_size or max(history.num_prompts for history in histories.values())
    axis = axes[0, 0]
    for (name, history), colour in zip(histories.items(), cycle(LINES), strict=False):
        times = np.zeros(size, int)
        chosen = np.bincount(history.prompt[history.trained], minlength=history.num_prompts)
        times[: len(chosen)] = np.sort(chosen)[::-1]
        at = np.unique(np.linspace(0, size - 1, min(size, MAX_POINTS)).astype(int))
        axis.step((at + 1) / size, times[at], where="pre", color=colour, label=name)
    axis.set(xlabel=f"share of {_of_pool(pool_size)}, most often chosen first", ylabel="times trained on", xlim=(0, 1))
    axis.set_ylim(bottom=0)
    _legend(figure, axis)
    return figure


def success_by_cluster(history: RewardHistory, column: str) -> Figure:
    """Success rate of the groups of each level of a label column over time, as running means; the largest levels."""
    figure, axes = _figure()
    axis = axes[0, 0]
    levels, code = np.unique(history.columns[column].astype(str), return_inverse=True)
    code = code[history.prompt]
    largest = np.argsort(-np.bincount(code, minlength=len(levels)), kind="stable")[:MAX_LEVELS]
    steps = history.steps
    at = np.searchsorted(steps, history.step)
    kernel = np.ones(min(smoothing_window(len(steps)), len(steps)))
    for level, colour in zip(np.sort(largest), LINES, strict=False):
        rows = code == level
        solved, rolled = (
            np.convolve(np.bincount(at[rows], counts[rows], len(steps)), kernel, "same")
            for counts in (history.num_successes, history.num_rollouts)
        )
        rate = np.divide(solved, rolled, out=np.full(len(steps), np.nan), where=rolled > 0)
        axis.plot(steps, rate, color=colour, label=levels[level].replace("$", r"\$")[:40])
    axis.set(xlabel="step", ylabel="success rate", ylim=SHARES)
    _legend(figure, axis)
    return figure


def objective(fit: Fit) -> Figure:
    """How the objective of the engine that made a fit went."""
    figure, axes = _figure(height=2.6)
    axis = axes[0, 0]
    axis.plot(fit.trace, color=LINES[0], marker="." if len(fit.trace) < 60 else "")
    axis.set(xlabel=f"{fit.method['name']} iteration", ylabel="objective, nats")
    return figure


def curves(bands: Mapping[str, tuple[NDArray, ...]], xlabel: str, ylabel: str) -> Figure:
    """Curves with bands: name -> (point,) x, (point,) y and (point,) half width of the band."""
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
    """Rewards of the followed prompts over the belief (chances of none, some, all solved), one panel a prompt."""
    columns = 2
    rows = -(-len(track.followed) // columns)
    figure, axes = _figure(height=1.5 * rows + 0.5, columns=columns, rows=rows, width=1.5 * WIDTH)
    visible = history.observed_rows(observed)
    for i, axis in enumerate(axes.flat):
        if i >= len(track.followed):
            axis.set_visible(False)
            continue
        at = history.prompt == np.flatnonzero(history.prompt_ids == track.followed[i])[0]
        share = history.num_successes / history.num_rollouts
        axis.stackplot(track.steps, track.outcome[:, i].T, colors=COLOURS, alpha=0.45, labels=OUTCOMES)
        for shown, marker, colour, label in (
            (~visible, ".", "#868e98", "hidden k/n"),
            (visible, "o", "black", "seen k/n"),
        ):
            if shown.any():
                dots = {"color": colour, "markersize": 3, "label": label, "clip_on": False}
                axis.plot(history.step[at & shown], share[at & shown], marker, **dots)
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
    """Forecast against realized share informative, in ten bins; on the diagonal a forecast means what it says."""
    figure, axes = _figure(height=4.0)
    axis = axes[0, 0]
    axis.plot([0, 1], [0, 1], color="#b6bcc6", linewidth=1)
    for (name, made), colour in zip(forecasts.items(), cycle(LINES), strict=False):
        diagram = reliability(made.probability, made.informative)
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
    """Learned transition matrices [current, next] of one cluster, by exposure, labelled with success rates."""
    moves = fit.chain.transition
    matrices = moves[:, min(cluster, moves.shape[1] - 1)]
    names = EXPOSURES[len(matrices)]
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
