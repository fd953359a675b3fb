"""Exact kernels in double precision, 10,000 prompts x 200 steps, 3 exposures: by number of states and of clusters.

"compiling" is the longest of the three.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import timed
from promptdyn.kernels import jax as kernels
from promptdyn.models.emissions import Binomial

NUM_PROMPTS, NUM_STEPS = 10_000, 200


def run() -> list[dict[str, object]]:
    with jax.enable_x64(True):
        return [_row(num_states, num_clusters) for num_states in (3, 8, 12, 32) for num_clusters in (1, 12)]


def _row(num_states: int, num_clusters: int) -> dict[str, object]:
    rng = np.random.default_rng(0)
    successes, rollouts = np.append(0, np.arange(9)), np.append(0, np.full(9, 8))
    shape = (NUM_STEPS, NUM_PROMPTS)
    symbols = np.where(rng.random(shape) < 0.2, rng.integers(1, 10, shape), 0).astype(np.uint8)
    exposure = np.where(symbols > 0, rng.integers(0, 3, shape), 0).astype(np.uint8)
    cluster_index = None if num_clusters == 1 else rng.integers(0, num_clusters, NUM_PROMPTS)
    sequences = jax.device_put(kernels.Sequences.packed(symbols, exposure, cluster_index))
    markov = kernels.Markov(
        jnp.asarray(rng.dirichlet(np.ones(num_states), num_clusters)),
        jnp.asarray(rng.dirichlet(np.ones(num_states), (3, num_clusters, num_states))),
        jnp.asarray(Binomial(np.linspace(0.01, 0.99, num_states)).log_prob(successes, rollouts)),
    )
    slope = jax.jit(jax.value_and_grad(lambda chain: kernels.log_marginal(chain, sequences).sum()))
    timings = {
        "log marginal": timed(lambda: jax.block_until_ready(kernels.log_marginal(markov, sequences)), 2),
        "E-step": timed(lambda: jax.block_until_ready(kernels.expected_counts(markov, sequences)), 2),
        "value and gradient": timed(lambda: jax.block_until_ready(slope(markov)), 2),
    }
    return {
        "states": num_states,
        "clusters": num_clusters,
        **{f"{name} ms": round(timing.median * 1e3) for name, timing in timings.items()},
        "compiling s": round(max(timing.first - timing.median for timing in timings.values()), 2),
    }
