"""Exact recursions of a finite-state Markov model, for many prompts at once, in JAX.

Pure array code: knows nothing of models, histories or fitting. Every array keeps the prompt axis last, so
that each of the few state-to-state operations is one long vector operation over prompts; observations are
small integers looked up in a table of likelihoods, so a cell of the history costs one or two bytes.

The recursion at step t, for a prompt whose exposure (trained on or not) at t is e_t:

    filtered_t  = predicted_t * likelihood(y_t) / norm_t
    predicted_{t+1} = filtered_t @ transition[e_t]

Shapes use the axis words ``step prompt state symbol exposure``; an axis ``1|prompt`` is either shared by all
prompts (length 1) or one entry per prompt, as when prompts of several clusters are filtered together.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Integer

__all__ = ["ExpectedCounts", "Filtered", "Markov", "expected_counts", "filter", "log_marginal", "smoother"]


class Markov(NamedTuple):
    """A finite-state Markov model of prompts as arrays.

    Attributes:
        initial: P(z_0), probabilities.
        transition: P(z_{t+1} = j | z_t = i, exposure), row-stochastic [exposure, current, next]. A single
            exposure entry means that training on a prompt makes no difference.
        likelihood: P(y | z), each symbol divided by its largest value over states (`log_scale`), which keeps
            single precision safe. Symbol 0 is "missing" and is 1 in every state.
        log_scale: logarithm of what each symbol's likelihood was divided by.
    """

    initial: Float[Array, "state 1|prompt"]
    transition: Float[Array, "exposure state state 1|prompt"]
    likelihood: Float[Array, "state symbol"]
    log_scale: Float[Array, " symbol"]

    @classmethod
    def create(cls, initial: Any, transition: Any, log_emission: Any, cluster: Any = None) -> Markov:
        """Build from per-cluster probabilities and log-emissions.

        Args:
            initial: (cluster state) probabilities.
            transition: (exposure cluster state state), row-stochastic [current, next].
            log_emission: (state symbol) log-probabilities; symbol 0, "missing", is all zero.
            cluster: (prompt,) codes; None where there is one cluster only.
        """
        log_scale = jnp.max(log_emission, axis=0)
        codes = jnp.zeros(1, jnp.int32) if cluster is None else jnp.asarray(cluster)
        return cls(
            initial=jnp.asarray(initial)[codes].T,
            transition=jnp.moveaxis(jnp.asarray(transition)[:, codes], 1, -1),
            likelihood=jnp.exp(log_emission - log_scale),
            log_scale=log_scale,
        )


class Filtered(NamedTuple):
    """What the filter knows after the last step."""

    filtered: Float[Array, "step state prompt"]
    predicted: Float[Array, "state prompt"]
    log_marginal: Float[Array, " prompt"]


class ExpectedCounts(NamedTuple):
    """Expected sufficient statistics of the latent paths given all observations, per prompt where it matters."""

    initial: Float[Array, "state prompt"]
    transition: Float[Array, "exposure state state prompt"]
    emission: Float[Array, "state symbol"]
    log_marginal: Float[Array, " prompt"]


def _tiny(dtype: jnp.dtype) -> float:
    return float(jnp.finfo(dtype).tiny)


def _lookup(table: Float[Array, "state symbol"], symbols: Integer[Array, " prompt"]) -> Float[Array, "state prompt"]:
    # Symbols are made from the table's own rows, so none is out of range: the check that "clip" or "fill" adds
    # would cost as much as the look-up.
    return table.at[:, symbols].get(mode="promise_in_bounds")


def _advance(markov: Markov, belief: Float[Array, "state prompt"], exposed: Bool[Array, " prompt"]) -> Array:
    """belief @ transition[exposed], as `state` fused multiply-adds over prompts."""
    moved = [sum(belief[i] * matrix[i] for i in range(belief.shape[0])) for matrix in markov.transition]
    return moved[0] if len(moved) == 1 else jnp.where(exposed, moved[1], moved[0])


def _retreat(markov: Markov, future: Float[Array, "state prompt"], exposed: Bool[Array, " prompt"]) -> Array:
    """transition[exposed] @ future, the same for the backward pass."""
    moved = [sum(matrix[:, j] * future[j] for j in range(future.shape[0])) for matrix in markov.transition]
    return moved[0] if len(moved) == 1 else jnp.where(exposed, moved[1], moved[0])


def _update(markov: Markov, predicted: Array, symbols: Array) -> tuple[Array, Array]:
    """Condition the predicted belief on the symbols; the norm is the one-step predictive probability."""
    joint = predicted * _lookup(markov.likelihood, symbols)
    norm = jnp.maximum(joint.sum(axis=0), _tiny(joint.dtype))
    return joint / norm, norm


def _start(markov: Markov, num_prompts: int) -> Array:
    return jnp.broadcast_to(markov.initial, (markov.initial.shape[0], num_prompts))


@partial(jax.jit, static_argnames="keep")
def _forward(markov: Markov, symbols: Array, exposure: Array, keep: bool) -> tuple[Array | None, Array, Array]:
    def step(carry: tuple[Array, Array], observed: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array | None]:
        predicted, log_marginal = carry
        symbol, exposed = observed
        filtered, norm = _update(markov, predicted, symbol)
        log_marginal = log_marginal + jnp.log(norm) + markov.log_scale[symbol]
        return (_advance(markov, filtered, exposed), log_marginal), filtered if keep else None

    start = _start(markov, symbols.shape[1])
    carry, filtered = lax.scan(step, (start, jnp.zeros_like(start[0])), (symbols, exposure))
    return filtered, *carry


def filter(markov: Markov, symbols: Integer[Array, "step prompt"], exposure: Bool[Array, "step prompt"]) -> Filtered:
    """Forward filter: P(z_t | y_{0:t}) for every prompt and step, and the belief one step past the last.

    Cost is O(step * prompt * state^2) time; memory is that of the result.
    """
    return Filtered(*_forward(markov, symbols, exposure, keep=True))


def log_marginal(
    markov: Markov, symbols: Integer[Array, "step prompt"], exposure: Bool[Array, "step prompt"]
) -> Float[Array, " prompt"]:
    """log p(y_{0:T-1}) of each prompt, latent path summed out; keeps no beliefs."""
    return _forward(markov, symbols, exposure, keep=False)[2]


def _backward(markov: Markov, future: Array, symbols: Array, exposed: Array) -> tuple[Array, Array]:
    """One step back: (likelihood of step t+1's symbol times its future, transition @ that, rescaled)."""
    ahead = _lookup(markov.likelihood, symbols) * future
    # Rescaled by its own largest entry: only ratios over states enter the posteriors.
    ahead = ahead / jnp.maximum(ahead.max(axis=0), _tiny(ahead.dtype))
    return ahead, _retreat(markov, ahead, exposed)


@jax.jit
def smoother(
    markov: Markov, symbols: Integer[Array, "step prompt"], exposure: Bool[Array, "step prompt"]
) -> Float[Array, "step state prompt"]:
    """Forward-backward smoother: P(z_t | y_{0:T-1}) for every prompt and step."""
    filtered, _, _ = _forward(markov, symbols, exposure, keep=True)

    def step(future: Array, inputs: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        now, next_symbol, exposed = inputs
        _, future = _backward(markov, future, next_symbol, exposed)
        joint = now * future
        return future, joint / jnp.maximum(joint.sum(axis=0), _tiny(joint.dtype))

    last = filtered[-1]
    _, earlier = lax.scan(step, jnp.ones_like(last), (filtered[:-1], symbols[1:], exposure[:-1]), reverse=True)
    return jnp.concatenate([earlier, last[None]])


@jax.jit
def expected_counts(
    markov: Markov, symbols: Integer[Array, "step prompt"], exposure: Bool[Array, "step prompt"]
) -> ExpectedCounts:
    """E-step: expected initial states, transitions by exposure, and symbols by state.

    Transition counts are kept per prompt so that the caller can add them up over any clusters; a transition
    t -> t+1 is counted under the exposure of step t.
    """
    filtered, _, log_marginal = _forward(markov, symbols, exposure, keep=True)
    num_exposures, num_states = markov.transition.shape[:2]
    last, num_prompts = filtered[-1], symbols.shape[1]
    tiny = _tiny(filtered.dtype)

    def count(emission: Array, posterior: Array, symbol: Array) -> Array:
        return emission.at[:, symbol].add(posterior, mode="promise_in_bounds")

    def step(carry: tuple[Array, Array, Array], inputs: tuple[Array, Array, Array, Array]) -> tuple[tuple, None]:
        future, transition, emission = carry
        now, symbol, next_symbol, exposed = inputs
        ahead, future = _backward(markov, future, next_symbol, exposed)
        joint = now * future
        norm = jnp.maximum(joint.sum(axis=0), tiny)
        pairs = (now / norm)[:, None] * ahead[None]
        weights = [jnp.ones(())] if num_exposures == 1 else [~exposed, exposed]
        moves = [matrix * pairs * weight for matrix, weight in zip(markov.transition, weights, strict=True)]
        return (future, transition + jnp.stack(moves), count(emission, joint / norm, symbol)), None

    start = (
        jnp.ones_like(last),
        jnp.zeros((num_exposures, num_states, num_states, num_prompts), last.dtype),
        count(jnp.zeros_like(markov.likelihood), last, symbols[-1]),
    )
    inputs = (filtered[:-1], symbols[:-1], symbols[1:], exposure[:-1])
    (future, transition, emission), _ = lax.scan(step, start, inputs, reverse=True)
    first = filtered[0] * future
    return ExpectedCounts(first / jnp.maximum(first.sum(axis=0), tiny), transition, emission, log_marginal)
