"""Filter, smoother, log marginal with its gradient, most probable path and posterior paths, in JAX.

The recursion over a lane's cells, each with its own move (see `promptdyn.kernels.sequences`), is

    predicted_t = filtered_{t-1} @ table[move_t]
    filtered_t  = predicted_t * likelihood(y_t) / norm_t

Lanes are always the last axis. Observations are small integers, looked up in a table of likelihoods, so that a cell of
the history needs a few bytes. Shapes use the axis words ``step cell lane prompt state symbol move exposure cluster``.
"""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Integer

from promptdyn.kernels.sequences import Sequences

__all__ = [
    "ExpectedCounts",
    "Filtered",
    "Markov",
    "Sequences",
    "expected_counts",
    "filter",
    "log_marginal",
    "sample_paths",
    "smoother",
    "viterbi",
]

# Up to this many states, a move's sums over states are unrolled into fused multiply-adds, else written as products.
UNROLLED_STATES = 4

jax.tree_util.register_dataclass(
    Sequences,
    data_fields=["symbols", "moves", "level", "gap", "cluster_index", "owner"],
    meta_fields=["num_prompts", "longest_gap"],
)


class Markov(NamedTuple):
    """A finite-state Markov chain of prompts as arrays.

    Attributes:
        initial: P(z_0), probabilities. All clusters share a cluster axis of length 1.
        transition: P(z_{t+1} = j | z_t = i, exposure), row-stochastic [exposure, cluster, current, next]. The last
            exposure serves for those above it too.
        log_emission: log P(y | z). Symbol 0 is "missing" and is 0 in every state.
    """

    initial: Float[Array, "cluster state"]
    transition: Float[Array, "exposure cluster state state"]
    log_emission: Float[Array, "state symbol"]


class Filtered(NamedTuple):
    """Beliefs after each step, and the log marginal of each prompt."""

    filtered: Float[Array, "step state prompt"]
    log_marginal: Float[Array, " prompt"]


class ExpectedCounts(NamedTuple):
    """Expected sufficient statistics of the latent paths given all observations."""

    initial: Float[Array, "cluster state"]
    transition: Float[Array, "exposure cluster state state"]
    emission: Float[Array, "state symbol"]
    log_marginal: Float[Array, " prompt"]


def _table(markov: Markov, sequences: Sequences) -> Float[Array, "move state state"]:
    """Return the matrix of each move: a step at its exposure and idle steps, or equal rows for a fresh start."""
    initial, transition, _ = markov
    level, cluster = jnp.asarray(sequences.level), sequences.cluster_index
    matrix = transition[jnp.clip(level, 0, len(transition) - 1), jnp.minimum(cluster, transition.shape[1] - 1)]
    if sequences.longest_gap > 1:
        powers = _powers(transition[0], sequences.longest_gap)
        matrix = matrix @ powers[jnp.asarray(sequences.gap) - 1, jnp.minimum(cluster, powers.shape[1] - 1)]
    fresh = initial[jnp.minimum(cluster, len(initial) - 1), None]
    return jnp.where((level < 0)[:, None, None], fresh, matrix)


def _powers(matrix: Float[Array, "cluster state state"], number: int) -> Float[Array, "power cluster state state"]:
    """Return the first powers of a matrix, from 0. Each round doubles their number."""
    powers = jnp.broadcast_to(jnp.eye(matrix.shape[-1], dtype=matrix.dtype), (1, *matrix.shape))
    while len(powers) < number:
        powers = jnp.concatenate([powers, powers @ matrix])
        matrix = matrix @ matrix
    return powers[:number]


def _look_up(table: Array, codes: Array) -> Array:
    """Return columns (last axis) of a table. Codes come from the table's own columns, so none is out of range.

    The check of modes "clip" and "fill" would cost as much as the look-up.
    """
    return table.at[..., codes].get(mode="promise_in_bounds")


def _rows(table: Array, codes: Array) -> Array:
    return table.at[codes].get(mode="promise_in_bounds")


def _forth(belief: Float[Array, "state lane"], table: Array, moves: Integer[Array, " lane"]) -> Array:
    """Return `belief @ table[move]`, lane by lane."""
    states = range(len(belief))
    if len(belief) > UNROLLED_STATES:
        return jnp.einsum("in,nij->jn", belief, _rows(table, moves))
    return jnp.stack([reduce(add, (belief[i] * _rows(table[:, i, j], moves) for i in states)) for j in states])


def _back(ahead: Float[Array, "state lane"], table: Array, moves: Integer[Array, " lane"]) -> Array:
    """Return `table[move] @ ahead`, lane by lane."""
    states = range(len(ahead))
    if len(ahead) > UNROLLED_STATES:
        return jnp.einsum("jn,nij->in", ahead, _rows(table, moves))
    return jnp.stack([reduce(add, (ahead[j] * _rows(table[:, i, j], moves) for j in states)) for i in states])


def _tiny(array: Array) -> Any:
    return jnp.finfo(array.dtype).tiny


def _likelihood(log_emission: Float[Array, "state symbol"]) -> tuple[Array, Array]:
    """Return P(y | z) relative to its largest value, to keep single precision safe, and that value's logarithm."""
    scale = jnp.max(log_emission, axis=0)
    return jnp.exp(log_emission - scale), scale


def _start(num_states: int, sequences: Sequences, dtype: Any) -> Float[Array, "state lane"]:
    """Return uniform beliefs before the first cell, which a fresh move forgets."""
    return jnp.full((num_states, sequences.symbols.shape[1]), 1.0 / num_states, dtype)


def _forward(table: Array, log_emission: Array, sequences: Sequences, keep: bool) -> tuple[Any, Array]:
    """Return (cell state lane) filtered beliefs if `keep`, and (cell lane) log P(y_t | the prompt's earlier cells)."""
    likelihood, scale = _likelihood(log_emission)

    def step(belief: Array, inputs: tuple[Array, Array]) -> tuple[Array, tuple[Array | None, Array]]:
        symbol, moves = inputs
        joint = _forth(belief, table, moves) * _look_up(likelihood, symbol)
        # The norm is the one-step-ahead probability of the observation.
        norm = joint.sum(axis=0)
        filtered = joint * (1.0 / jnp.maximum(norm, _tiny(norm)))
        # After an impossible observation the lane continues with a uniform belief, for the sake of its next prompt.
        filtered = jnp.where(norm > 0, filtered, 1.0 / len(joint))
        return filtered, (filtered if keep else None, norm)

    start = _start(len(log_emission), sequences, table.dtype)
    _, (filtered, norm) = lax.scan(step, start, (jnp.asarray(sequences.symbols), jnp.asarray(sequences.moves)))
    return filtered, jnp.log(jnp.maximum(norm, _tiny(norm))) + scale[sequences.symbols]


def _rescaled(ahead: Float[Array, "state lane"]) -> Array:
    """Scale by the largest entry, since only ratios over states matter; all ones after an impossible observation."""
    largest = ahead.max(axis=0)
    return jnp.where(largest > 0, ahead * (1.0 / jnp.maximum(largest, _tiny(ahead))), 1.0)


@jax.custom_vjp
def _log_evidence(table: Array, log_emission: Array, sequences: Sequences) -> Float[Array, "cell lane"]:
    """Return log P(y_t | the prompt's earlier cells) of each cell.

    Its gradient is exact. It comes from one backward pass over the filtered beliefs, not from differentiation of the
    recursion: d/dA_ij = E[# i -> j] / A_ij (Fisher's identity; Cappé et al. 2005, section 10.2), computed without
    division by a probability of the model.
    """
    return _forward(table, log_emission, sequences, keep=False)[1]


def _log_evidence_forward(table: Array, log_emission: Array, sequences: Sequences) -> tuple[Array, tuple]:
    filtered, evidence = _forward(table, log_emission, sequences, keep=True)
    return evidence, (table, log_emission, sequences, filtered)


def _log_evidence_backward(residuals: tuple, weight: Float[Array, "cell lane"]) -> tuple[Array, Array, None]:
    """Return derivatives of the evidence's weighted sum; the cells of a prompt have equal weights."""
    table, log_emission, sequences, filtered = residuals
    likelihood, _ = _likelihood(log_emission)
    start = _start(len(log_emission), sequences, table.dtype)
    before = jnp.concatenate([start[None], filtered[:-1]])

    def step(carry: tuple[Array, Array, Array], inputs: tuple[Array, ...]) -> tuple[tuple, None]:
        ahead, slope, emission = carry
        symbol, moves, now, before, weight = inputs
        joint = now * ahead
        posterior = joint * (weight / jnp.maximum(joint.sum(axis=0), _tiny(joint)))
        at_cell = _look_up(likelihood, symbol) * ahead
        earlier = _back(at_cell, table, moves)
        norm = jnp.maximum((before * earlier).sum(axis=0), _tiny(earlier))
        pairs = before.T[:, :, None] * (at_cell * (weight / norm)).T[:, None, :]
        return (
            _rescaled(earlier),
            slope.at[moves].add(pairs, mode="promise_in_bounds"),
            emission.at[symbol].add(posterior.T, mode="promise_in_bounds"),
        ), None

    carry = jnp.ones_like(start), jnp.zeros_like(table), jnp.zeros_like(log_emission.T)
    inputs = jnp.asarray(sequences.symbols), jnp.asarray(sequences.moves), filtered, before, weight
    (_, slope, emission), _ = lax.scan(step, carry, inputs, reverse=True)
    return slope, emission.T, None


_log_evidence.defvjp(_log_evidence_forward, _log_evidence_backward)


def _by_prompt(values: Float[Array, "cell lane"], sequences: Sequences) -> Float[Array, " prompt"]:
    """Return sums over each prompt's cells."""
    if sequences.owner is None:
        return values.sum(axis=0)
    return jnp.zeros(sequences.num_prompts, values.dtype).at[sequences.owner].add(values, mode="drop")


@jax.jit
def log_marginal(markov: Markov, sequences: Sequences) -> Float[Array, " prompt"]:
    """Return log p(y_{0:T-1}) of each prompt with its latent path summed out; 0 for prompts in no lane."""
    evidence = _log_evidence(_table(markov, sequences), markov.log_emission, sequences)
    return _by_prompt(evidence, sequences)


@jax.jit
def expected_counts(markov: Markov, sequences: Sequences) -> ExpectedCounts:
    """Return the E-step: expected initial states and transitions on the chain's own axes, and symbols by state.

    A transition t -> t+1 counts under the exposure of step t, up to the last cell of each prompt. By Fisher's identity
    the counts are the probabilities times the derivatives of the log marginal.
    """

    def total(markov: Markov) -> tuple[Array, Array]:
        log_marginals = log_marginal(markov, sequences)
        return log_marginals.sum(), log_marginals

    slopes, log_marginals = jax.grad(total, has_aux=True)(markov)
    return ExpectedCounts(
        markov.initial * slopes.initial, markov.transition * slopes.transition, slopes.log_emission, log_marginals
    )


@jax.jit
def filter(markov: Markov, sequences: Sequences) -> Filtered:
    """Run the forward filter: P(z_t | y_{0:t}) for every prompt and step of whole sequences.

    It takes O(step * prompt * state^2) time and the result's memory.
    """
    filtered, evidence = _forward(_table(markov, sequences), markov.log_emission, sequences, keep=True)
    return Filtered(filtered, evidence.sum(axis=0))


@jax.jit
def smoother(markov: Markov, sequences: Sequences) -> Float[Array, "step state prompt"]:
    """Run the forward-backward smoother: P(z_t | y_{0:T-1}) for every prompt and step of whole sequences."""
    table = _table(markov, sequences)
    likelihood, _ = _likelihood(markov.log_emission)
    filtered, _ = _forward(table, markov.log_emission, sequences, keep=True)

    def step(ahead: Array, inputs: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        symbol, moves, now = inputs
        joint = now * ahead
        earlier = _back(_look_up(likelihood, symbol) * ahead, table, moves)
        return _rescaled(earlier), joint / joint.sum(axis=0)

    inputs = jnp.asarray(sequences.symbols), jnp.asarray(sequences.moves), filtered
    return lax.scan(step, jnp.ones_like(filtered[-1]), inputs, reverse=True)[1]


@jax.jit
def viterbi(markov: Markov, sequences: Sequences) -> Integer[Array, "step prompt"]:
    """Return the most probable path of states of each prompt of whole sequences; ties go to the lower state."""
    log_table = jnp.log(_table(markov, sequences))

    def forward(best: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        symbol, moves = inputs
        reached = best[:, :, None] + _rows(log_table, moves)
        return reached.max(axis=1) + _look_up(markov.log_emission, symbol).T, reached.argmax(axis=1)

    start = jnp.zeros((sequences.num_prompts, len(markov.log_emission)), log_table.dtype)
    best, came_from = lax.scan(forward, start, (jnp.asarray(sequences.symbols), jnp.asarray(sequences.moves)))

    def backward(state: Array, origin: Array) -> tuple[Array, Array]:
        return jnp.take_along_axis(origin, state[:, None], axis=1)[:, 0], state

    return lax.scan(backward, best.argmax(axis=1), came_from, reverse=True)[1]


@jax.jit
def sample_paths(markov: Markov, sequences: Sequences, key: Any) -> Integer[Array, "step prompt"]:
    """Draw each prompt's path from its posterior, by forward filtering and backward sampling."""
    table = _table(markov, sequences)
    filtered, _ = _forward(table, markov.log_emission, sequences, keep=True)
    keys = jax.random.split(key, len(filtered))

    def backward(later: tuple[Array, Array], inputs: tuple[Array, Array, Array]) -> tuple[tuple, Array]:
        state, moves = later
        now, moves_here, key = inputs
        next_probability = table[moves, :, state].T
        state = jax.random.categorical(key, jnp.log(now * next_probability), axis=0)
        return (state, moves_here), state

    last = jax.random.categorical(keys[-1], jnp.log(filtered[-1]), axis=0)
    moves = jnp.asarray(sequences.moves)
    (_, _), path = lax.scan(backward, (last, moves[-1]), (filtered[:-1], moves[:-1], keys[:-1]), reverse=True)
    return jnp.concatenate([path, last[None]])
