"""Filter, smoother, log marginal with its gradient, most probable path and posterior paths, in JAX.

Every array keeps the prompt axis last, so that each of the few state-to-state operations is one long vector operation
over prompts; observations are small integers looked up in a table of likelihoods, so a cell of the history costs one or
two bytes. The recursion at step t, for a prompt whose exposure at t is e_t:

    filtered_t  = predicted_t * likelihood(y_t) / norm_t
    predicted_{t+1} = filtered_t @ transition[e_t]

Shapes use the axis words ``step prompt state symbol exposure cluster``. Inside, an axis ``1|prompt`` is either shared
by all prompts (length 1) or one entry per prompt, as when prompts of several clusters are filtered together.
"""

from __future__ import annotations

from functools import partial, reduce
from operator import add
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Integer

__all__ = [
    "ExpectedCounts",
    "Filtered",
    "Markov",
    "expected_counts",
    "filter",
    "log_marginal",
    "sample_paths",
    "smoother",
    "viterbi",
]

# Up to this many states a step's sums over states are unrolled into fused multiply-adds; above, they are products.
UNROLLED_STATES = 8


class Markov(NamedTuple):
    """A finite-state Markov chain of prompts as arrays.

    Attributes:
        initial: P(z_0), probabilities. A cluster axis of length 1 is shared by all.
        transition: P(z_{t+1} = j | z_t = i, exposure), row-stochastic [exposure, cluster, current, next]. Its last
            exposure stands for those above it, so that a single one means that exposure makes no difference.
        log_emission: log P(y | z). Symbol 0 is "missing" and is 0 in every state.
        places: of each prompt on the cluster axes; None where there is one entry for all.
    """

    initial: Float[Array, "cluster state"]
    transition: Float[Array, "exposure cluster state state"]
    log_emission: Float[Array, "state symbol"]
    places: Integer[Array, " prompt"] | None = None


class Filtered(NamedTuple):
    """What the filter knows after the last step."""

    filtered: Float[Array, "step state prompt"]
    predicted: Float[Array, "state prompt"]
    log_marginal: Float[Array, " prompt"]


class ExpectedCounts(NamedTuple):
    """Expected sufficient statistics of the latent paths given all observations."""

    initial: Float[Array, "cluster state"]
    transition: Float[Array, "exposure cluster state state"]
    emission: Float[Array, "state symbol"]
    log_marginal: Float[Array, " prompt"]


class _Rows(NamedTuple):
    """The chain laid out for the recursions, prompts last."""

    initial: Float[Array, "state 1|prompt"]
    transition: Float[Array, "exposure state state 1|prompt"]
    likelihood: Float[Array, "state symbol"]  # P(y | z) over its largest value, which keeps single precision safe
    log_scale: Float[Array, " symbol"]  # logarithm of that value

    @classmethod
    def of(cls, markov: Markov) -> _Rows:
        scale = jnp.max(markov.log_emission, axis=0)
        return cls(
            initial=_entries(markov.initial, markov.places, axis=0).T,
            transition=jnp.moveaxis(_entries(markov.transition, markov.places, axis=1), 1, -1),
            likelihood=jnp.exp(markov.log_emission - scale),
            log_scale=scale,
        )

    def start(self, num_prompts: int) -> Float[Array, "state prompt"]:
        return jnp.broadcast_to(self.initial, (self.initial.shape[0], num_prompts))

    def at(self, symbols: Integer[Array, " prompt"]) -> Float[Array, "state prompt"]:
        # Symbols are made from the table's own rows, so none is out of range: the check that "clip" or "fill" adds
        # would cost as much as the look-up.
        return self.likelihood.at[:, symbols].get(mode="promise_in_bounds")


def _entries(array: Array, places: Array | None, axis: int) -> Array:
    return array if places is None or array.shape[axis] == 1 else jnp.take(array, places, axis=axis)


def _tiny(dtype: jnp.dtype) -> float:
    return float(jnp.finfo(dtype).tiny)


def _by_exposure(moved: list[Array], exposure: Integer[Array, " prompt"]) -> Array:
    chosen = moved[0]
    for code, candidate in enumerate(moved[1:], start=1):
        chosen = jnp.where(exposure >= code, candidate, chosen)
    return chosen


def _of_exposure(num_exposures: int, exposure: Integer[Array, " prompt"]) -> list[Array]:
    """One mask per exposure, the last for those above it too."""
    level = jnp.minimum(exposure, num_exposures - 1)
    return [level == code for code in range(num_exposures)]


def _advance(rows: _Rows, belief: Float[Array, "state prompt"], exposure: Integer[Array, " prompt"]) -> Array:
    """belief @ transition[exposure]."""
    num_states = belief.shape[0]

    def move(matrix: Array) -> Array:
        if num_states <= UNROLLED_STATES:
            return reduce(add, (belief[i] * matrix[i] for i in range(num_states)))
        if matrix.shape[-1] == 1:
            return matrix[..., 0].T @ belief
        return jnp.einsum("in,ijn->jn", belief, matrix)

    return _by_exposure([move(matrix) for matrix in rows.transition], exposure)


def _retreat(rows: _Rows, future: Float[Array, "state prompt"], exposure: Integer[Array, " prompt"]) -> Array:
    """transition[exposure] @ future, the same for the backward pass."""
    num_states = future.shape[0]

    def move(matrix: Array) -> Array:
        if num_states <= UNROLLED_STATES:
            return reduce(add, (matrix[:, j] * future[j] for j in range(num_states)))
        if matrix.shape[-1] == 1:
            return matrix[..., 0] @ future
        return jnp.einsum("ijn,jn->in", matrix, future)

    return _by_exposure([move(matrix) for matrix in rows.transition], exposure)


@partial(jax.jit, static_argnames="keep")
def _forward(markov: Markov, symbols: Array, exposure: Array, keep: bool) -> tuple[Array | None, Array, Array]:
    rows = _Rows.of(markov)

    def step(carry: tuple[Array, Array], observed: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array | None]:
        predicted, total = carry
        symbol, exposed = observed
        joint = predicted * rows.at(symbol)
        # The norm is the one-step predictive probability.
        norm = jnp.maximum(joint.sum(axis=0), _tiny(joint.dtype))
        filtered = joint / norm
        total = total + jnp.log(norm) + rows.log_scale[symbol]
        return (_advance(rows, filtered, exposed), total), filtered if keep else None

    start = rows.start(symbols.shape[1])
    carry, filtered = lax.scan(step, (start, jnp.zeros_like(start[0])), (symbols, exposure))
    return filtered, *carry


def filter(markov: Markov, symbols: Integer[Array, "step prompt"], exposure: Integer[Array, "step prompt"]) -> Filtered:
    """Forward filter: P(z_t | y_{0:t}) for every prompt and step, and the belief one step past the last.

    Cost is O(step * prompt * state^2) time; memory is that of the result.
    """
    return Filtered(*_forward(markov, symbols, exposure, keep=True))


@jax.custom_vjp
def log_marginal(
    markov: Markov, symbols: Integer[Array, "step prompt"], exposure: Integer[Array, "step prompt"]
) -> Float[Array, " prompt"]:
    """log p(y_{0:T-1}) of each prompt, latent path summed out; keeps no beliefs.

    Its gradient with respect to the chain is exact and comes from one backward pass over the filtered beliefs, not from
    differentiating the recursion: d/dA_ij = E[# i -> j] / A_ij (Fisher's identity; Cappé et al. 2005, section 10.2).
    """
    return _forward(markov, symbols, exposure, keep=False)[2]


def _log_marginal_forward(markov: Markov, symbols: Array, exposure: Array) -> tuple[Array, tuple]:
    filtered, _, total = _forward(markov, symbols, exposure, keep=True)
    return total, (markov, symbols, exposure, filtered)


def _ahead(rows: _Rows, future: Array, symbols: Array) -> Array:
    """Likelihood of a step's symbols times its future, rescaled: only ratios over states enter the posteriors."""
    ahead = rows.at(symbols) * future
    return ahead / jnp.maximum(ahead.max(axis=0), _tiny(ahead.dtype))


@jax.jit
def _log_marginal_backward(kept: tuple, weight: Float[Array, " prompt"]) -> tuple[Markov, None, None]:
    """Derivatives of the weighted sum of log marginals, without a division by any probability of the model."""
    markov, symbols, exposure, filtered = kept
    rows = _Rows.of(markov)
    num_exposures, num_states, _, breadth = rows.transition.shape
    last = filtered[-1]
    tiny = _tiny(filtered.dtype)

    def count(emission: Array, posterior: Array, symbol: Array) -> Array:
        return emission.at[:, symbol].add(posterior * weight, mode="promise_in_bounds")

    def pairs(now: Array, ahead: Array, exposed: Array) -> Array:
        weights = [weight * mask for mask in _of_exposure(num_exposures, exposed)]
        if breadth == 1:  # summed over prompts at once: a small product instead of an array per prompt
            return jnp.stack([(now * w) @ ahead.T for w in weights])[..., None]
        return jnp.stack([(now * w)[:, None] * ahead[None] for w in weights])

    def step(carry: tuple[Array, Array, Array], inputs: tuple[Array, Array, Array, Array]) -> tuple[tuple, None]:
        future, transition, emission = carry
        now, symbol, next_symbol, exposed = inputs
        ahead = _ahead(rows, future, next_symbol)
        future = _retreat(rows, ahead, exposed)
        joint = now * future
        norm = jnp.maximum(joint.sum(axis=0), tiny)
        emission = count(emission, joint / norm, symbol)
        return (future, transition + pairs(now / norm, ahead, exposed), emission), None

    carry = (
        jnp.ones_like(last),
        jnp.zeros((num_exposures, num_states, num_states, breadth), last.dtype),
        count(jnp.zeros_like(markov.log_emission), last, symbols[-1]),
    )
    inputs = (filtered[:-1], symbols[:-1], symbols[1:], exposure[:-1])
    (future, transition, emission), _ = lax.scan(step, carry, inputs, reverse=True)

    ahead = _ahead(rows, future, symbols[0])
    initial = ahead * weight / jnp.maximum((rows.start(last.shape[1]) * ahead).sum(axis=0), tiny)
    by_prompt = _sum_over_prompts(initial.T, markov.initial.shape[0], markov.places)
    moves = jnp.moveaxis(transition, -1, 0)
    if breadth > 1:
        moves = _sum_over_prompts(moves, markov.transition.shape[1], markov.places)
    return Markov(by_prompt, jnp.moveaxis(moves, 0, 1), emission, None), None, None


def _sum_over_prompts(values: Array, num_clusters: int, places: Array | None) -> Array:
    """(prompt ...) -> (cluster ...)."""
    if num_clusters == 1 or places is None:
        return values.sum(axis=0, keepdims=True)
    return jax.ops.segment_sum(values, places, num_clusters)


log_marginal.defvjp(_log_marginal_forward, _log_marginal_backward)


@jax.jit
def expected_counts(
    markov: Markov, symbols: Integer[Array, "step prompt"], exposure: Integer[Array, "step prompt"]
) -> ExpectedCounts:
    """E-step: expected initial states and transitions on the chain's own axes, and symbols by state.

    A transition t -> t+1 is counted under the exposure of step t. By Fisher's identity the counts are the probabilities
    times the derivatives of the log marginal.
    """
    filtered, _, total = _forward(markov, symbols, exposure, keep=True)
    slopes, _, _ = _log_marginal_backward((markov, symbols, exposure, filtered), jnp.ones_like(total))
    return ExpectedCounts(
        markov.initial * slopes.initial, markov.transition * slopes.transition, slopes.log_emission, total
    )


@jax.jit
def smoother(
    markov: Markov, symbols: Integer[Array, "step prompt"], exposure: Integer[Array, "step prompt"]
) -> Float[Array, "step state prompt"]:
    """Forward-backward smoother: P(z_t | y_{0:T-1}) for every prompt and step."""
    filtered, _, _ = _forward(markov, symbols, exposure, keep=True)
    rows = _Rows.of(markov)

    def step(future: Array, inputs: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        now, next_symbol, exposed = inputs
        future = _retreat(rows, _ahead(rows, future, next_symbol), exposed)
        joint = now * future
        return future, joint / jnp.maximum(joint.sum(axis=0), _tiny(joint.dtype))

    last = filtered[-1]
    _, earlier = lax.scan(step, jnp.ones_like(last), (filtered[:-1], symbols[1:], exposure[:-1]), reverse=True)
    return jnp.concatenate([earlier, last[None]])


def _moves(rows: _Rows, exposure: Integer[Array, " prompt"]) -> Float[Array, "state state prompt"]:
    """Each prompt's own transition matrix at a step."""
    shape = (*rows.transition.shape[1:3], exposure.shape[0])
    return _by_exposure([jnp.broadcast_to(matrix, shape) for matrix in rows.transition], exposure)


@jax.jit
def viterbi(
    markov: Markov, symbols: Integer[Array, "step prompt"], exposure: Integer[Array, "step prompt"]
) -> Integer[Array, "step prompt"]:
    """The most probable path of states of each prompt given all observations; ties go to the lower state."""
    rows = _Rows.of(markov)

    def score(symbol: Array) -> Array:
        return markov.log_emission.at[:, symbol].get(mode="promise_in_bounds")

    def forward(best: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        exposed, next_symbol = inputs
        reached = best[:, None] + jnp.log(_moves(rows, exposed))
        return reached.max(axis=0) + score(next_symbol), reached.argmax(axis=0)

    start = jnp.log(rows.start(symbols.shape[1])) + score(symbols[0])
    best, came_from = lax.scan(forward, start, (exposure[:-1], symbols[1:]))

    def backward(state: Array, origin: Array) -> tuple[Array, Array]:
        previous = jnp.take_along_axis(origin, state[None], axis=0)[0]
        return previous, previous

    last = best.argmax(axis=0)
    _, path = lax.scan(backward, last, came_from, reverse=True)
    return jnp.concatenate([path, last[None]])


@jax.jit
def sample_paths(
    markov: Markov, symbols: Integer[Array, "step prompt"], exposure: Integer[Array, "step prompt"], key: Any
) -> Integer[Array, "step prompt"]:
    """One draw of each prompt's path from its posterior, by forward filtering and backward sampling."""
    filtered, _, _ = _forward(markov, symbols, exposure, keep=True)
    rows = _Rows.of(markov)
    keys = jax.random.split(key, symbols.shape[0])
    prompts = jnp.arange(symbols.shape[1])

    def backward(state: Array, inputs: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        now, exposed, key = inputs
        towards = _moves(rows, exposed)[:, state, prompts]
        previous = jax.random.categorical(key, jnp.log(now * towards), axis=0)
        return previous, previous

    last = jax.random.categorical(keys[-1], jnp.log(filtered[-1]), axis=0)
    _, path = lax.scan(backward, last, (filtered[:-1], exposure[:-1], keys[:-1]), reverse=True)
    return jnp.concatenate([path, last[None]])
