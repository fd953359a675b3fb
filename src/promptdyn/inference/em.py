"""Expectation-maximisation (MAP-EM) for any `MarkovModel`: exact E-step in JAX, the model's own M-step."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError
from promptdyn.history import DenseHistory
from promptdyn.inference.kernels import Markov, expected_counts
from promptdyn.models.base import MarkovModel, Params, Statistics

__all__ = ["EMResult", "em"]


class EMResult(NamedTuple):
    params: Params
    log_marginal: float  # log p(y | params), summed over prompts
    trace: NDArray[np.float64]  # (update + 1,) log p(y | params) + log prior, before each update and after the last
    converged: bool


def em(
    model: MarkovModel,
    dense: DenseHistory,
    max_iterations: int = 200,
    tolerance: float = 1e-5,
    progress: Callable[[int, float], None] | None = None,
) -> EMResult:
    """Run EM until the log joint gains less than `tolerance` per observation.

    Runs in double precision whatever JAX's default, so that the log joint rises monotonically to the end.

    Args:
        model: what to fit.
        dense: symbols, exposure and clusters of the observed rows.
        max_iterations: most parameter updates, at least 1; default 200.
        tolerance: convergence threshold in nats per observed group; default 1e-5. With -inf all iterations are run.
        progress: called with (iteration, log joint) after each iteration.

    Raises:
        InputError: the model holds a prompt's observations impossible, naming the prompt; an option out of range.
    """
    if max_iterations < 1:
        raise InputError(f"max_iterations={max_iterations} must be at least 1")
    if np.isnan(tolerance):
        raise InputError("tolerance is NaN: give a number of nats")
    num_clusters = len(dense.cluster_names)
    num_observed = int(np.count_nonzero(dense.symbols))
    params = model.initial_params(num_clusters)
    trace: list[float] = []
    with jax.enable_x64(True):
        symbols, exposure = jax.numpy.asarray(dense.symbols), jax.numpy.asarray(dense.exposure)
        while True:
            markov = Markov.create(
                *model.components(params, dense.counts), cluster=None if num_clusters == 1 else dense.cluster
            )
            counts = jax.device_get(expected_counts(markov, symbols, exposure))
            _check_possible(counts.initial, dense)
            log_marginal = float(counts.log_marginal.sum())
            trace.append(log_marginal + model.log_prior(params))
            if progress:
                progress(len(trace), trace[-1])
            converged = len(trace) > 1 and trace[-1] - trace[-2] < tolerance * num_observed
            if converged or len(trace) > max_iterations:
                return EMResult(params, log_marginal, np.array(trace), converged)
            params = model.maximise(
                Statistics(
                    initial=_per_cluster(counts.initial, dense.cluster, num_clusters),
                    transition=np.moveaxis(_per_cluster(counts.transition, dense.cluster, num_clusters), 0, 1),
                    emission=counts.emission,
                    counts=dense.counts,
                )
            )


def _check_possible(initial: NDArray, dense: DenseHistory) -> None:
    """Posteriors of a sequence that no path of states explains are not probabilities but zeros."""
    impossible = np.flatnonzero(~(initial.sum(axis=0) > 0.5))
    if impossible.size:
        raise InputError(
            f"prompt {dense.prompt_ids[impossible[0]]!r} has outcomes that the model holds impossible: allow noise in "
            "the emission, or transitions that the prior rules out"
        )


def _per_cluster(values: NDArray, cluster: NDArray, num_clusters: int) -> NDArray[np.float64]:
    """Sum (... prompt) over the prompts of each cluster: (cluster ...)."""
    flat = values.reshape(-1, values.shape[-1])
    sums = np.array([np.bincount(cluster, row, num_clusters) for row in flat], dtype=np.float64).T
    return sums.reshape(num_clusters, *values.shape[:-1])
