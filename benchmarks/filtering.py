"""Exact filter of 10,000 prompts over 200 steps, 3 states, 20 % observed: ours, dynamax, hmmlearn."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import Timing, timed
from promptdyn.kernels import jax as kernels
from promptdyn.models.emissions import Binomial

NUM_PROMPTS, NUM_STEPS, NUM_STATES = 10_000, 200, 3


def run() -> list[dict[str, object]]:
    rng = np.random.default_rng(0)
    initial = np.full((1, NUM_STATES), 1 / NUM_STATES)
    transition = np.array([[[[0.97, 0.02, 0.01], [0.015, 0.97, 0.015], [0.01, 0.02, 0.97]]]])
    successes, rollouts = np.append(0, np.arange(9)), np.append(0, np.full(9, 8))
    log_emission = Binomial(np.array([0.01, 0.5, 0.99])).log_prob(successes, rollouts)
    shape = (NUM_STEPS, NUM_PROMPTS)
    symbols = np.where(rng.random(shape) < 0.2, rng.integers(1, 10, shape), 0).astype(np.uint8)

    markov = kernels.Markov(*(jnp.asarray(array, np.float32) for array in (initial, transition, log_emission)))
    on_device = jnp.asarray(symbols)
    sequences = kernels.Sequences.whole(on_device, symbols > 0)
    ours = timed(lambda: jax.block_until_ready(kernels.filter(markov, sequences)))
    ours_marginal = timed(lambda: jax.block_until_ready(kernels.log_marginal(markov, sequences)))
    ours_smoother = timed(lambda: jax.block_until_ready(kernels.smoother(markov, sequences)))
    truth = np.asarray(kernels.log_marginal(markov, sequences))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the peer's dependencies warn on import
        from dynamax.hidden_markov_model import hmm_filter, hmm_smoother

    table = jnp.asarray(log_emission.T, jnp.float32)
    arguments = jnp.asarray(initial[0], jnp.float32), jnp.asarray(transition[0, 0], jnp.float32)
    likelihoods = jax.block_until_ready(table[on_device.T])  # given ready-made, which favours the peer
    peer = jax.jit(jax.vmap(lambda ll: hmm_filter(*arguments, ll)))
    dynamax = timed(lambda: jax.block_until_ready(peer(likelihoods)))
    np.testing.assert_allclose(peer(likelihoods).marginal_loglik, truth, rtol=1e-4, atol=1e-3)
    peer_smoother = jax.jit(jax.vmap(lambda ll: hmm_smoother(*arguments, ll)))
    dynamax_smoother = timed(lambda: jax.block_until_ready(peer_smoother(likelihoods)))

    from hmmlearn.hmm import CategoricalHMM

    hmm = CategoricalHMM(NUM_STATES, implementation="scaling")
    hmm.startprob_, hmm.transmat_ = initial[0], transition[0, 0]
    # It wants a proper distribution over symbols, so the "missing" symbol takes its share: the same work.
    emission = np.exp(log_emission)
    hmm.emissionprob_ = emission / emission.sum(axis=1, keepdims=True)
    one_column, lengths = symbols.T.reshape(-1, 1), [NUM_STEPS] * NUM_PROMPTS
    hmmlearn = timed(lambda: hmm.score(one_column, lengths), repeats=3)

    def row(what: str, timing: Timing, base: float) -> dict[str, object]:
        return {
            "filter": what,
            "ms": round(timing.median * 1e3, 1),
            "first call ms": round(timing.first * 1e3),
            "times ours": round(timing.median / base, 1),
        }

    return [
        row("promptdyn filter", ours, ours.median),
        row("promptdyn log marginal only", ours_marginal, ours.median),
        row("dynamax vmap(hmm_filter)", dynamax, ours.median),
        row("hmmlearn score (forward pass)", hmmlearn, ours.median),
        row("promptdyn smoother", ours_smoother, ours_smoother.median),
        row("dynamax vmap(hmm_smoother)", dynamax_smoother, ours_smoother.median),
    ]
