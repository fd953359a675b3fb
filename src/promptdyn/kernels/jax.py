"""Filter, smoother, log marginal with its gradient, most probable path and posterior paths, in JAX.

The recursion at step t, for a prompt whose exposure at t is e_t:

    filtered_t  = predicted_t * likelihood(y_t) / norm_t
    predicted_{t+1} = filtered_t @ transition[e_t]

Prompts stand in blocks, each of prompts that share their probabilities (one cluster), and within a block in lanes,
always the last axes: each of the few state-to-state operations is one long vector operation over lanes, whose matrix
entries are read once a block. Observations are small integers looked up in a table of likelihoods, so a cell of the
history costs one or two bytes. Shapes use the axis words ``step block lane prompt state symbol exposure cluster``.
"""

from __future__ import annotations

from functools import partial, reduce
from operator import add
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Integer

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

# Up to this many states a step's sums over states are unrolled into fused multiply-adds; above, they are products.
UNROLLED_STATES = 8
# Most lanes of a block where there are several clusters: wide enough for vector operations.
LANES = 128
# Up to this many symbols, states are counted by symbol in a matrix product, above by scattering.
COUNTED_SYMBOLS = 64


class Markov(NamedTuple):
    """A finite-state Markov chain of prompts as arrays.

    Attributes:
        initial: P(z_0), probabilities. A cluster axis of length 1 is shared by all.
        transition: P(z_{t+1} = j | z_t = i, exposure), row-stochastic [exposure, cluster, current, next]. Its last
            exposure stands for those above it, so that a single one means that exposure makes no difference.
        log_emission: log P(y | z). Symbol 0 is "missing" and is 0 in every state.
    """

    initial: Float[Array, "cluster state"]
    transition: Float[Array, "exposure cluster state state"]
    log_emission: Float[Array, "state symbol"]


class Sequences(NamedTuple):
    """What was observed of each prompt, laid out in blocks. Made by `Sequences.of`.

    Attributes:
        symbols: columns of the emission table; 0 in lanes that stand empty.
        exposure: 0, 1 or 2.
        places: of each block on the chain's cluster axes.
        slots: of each prompt among the lanes of all blocks; None where they stand in order, one block of them all.
    """

    symbols: Integer[Array, "step block lane"]
    exposure: Integer[Array, "step block lane"]
    places: Integer[Array, " block"]
    slots: Integer[Array, " prompt"] | None

    @classmethod
    def of(cls, symbols: Any, exposure: Any, places: Any = None, num_places: int | None = None) -> Sequences:
        """Lay out (step prompt) symbols and exposures.

        Args:
            symbols, exposure: (step prompt), NumPy's or JAX's.
            places: (prompt,) of each prompt on the chain's cluster axes, NumPy's; None where one entry serves all.
            num_places: as many as there may be, so that batches of a pool compile once; default those that there are.
        """
        if places is None:
            return cls(symbols[:, None], exposure[:, None], places=jnp.zeros(1, int), slots=None)
        num_prompts = symbols.shape[1]
        num_clusters = num_places or int(places.max(initial=0)) + 1
        lanes = min(max(num_prompts // (4 * num_clusters), 1), LANES)
        # As many blocks as any assignment to so many clusters needs, so that pools of a size compile once.
        num_blocks = num_prompts if lanes == 1 else num_prompts // lanes + num_clusters
        sizes = np.bincount(places, minlength=num_clusters)
        first_block = np.cumsum(-(-sizes // lanes)) - -(-sizes // lanes)
        order = np.argsort(places, kind="stable")
        rank = np.arange(num_prompts) - (np.cumsum(sizes) - sizes)[places[order]]
        slots = np.empty(num_prompts, np.int64)
        slots[order] = first_block[places[order]] * lanes + rank
        of_block = np.zeros(num_blocks, np.int32)
        of_block[slots // lanes] = places
        # The prompt in each slot; empty slots look past the last.
        prompts = np.full(num_blocks * lanes, num_prompts)
        prompts[slots] = np.arange(num_prompts)

        def laid(array: Any) -> Any:
            xp = np if isinstance(array, np.ndarray) else jnp
            padded = xp.concatenate([array, xp.zeros((len(array), 1), array.dtype)], axis=1)
            return padded[:, prompts].reshape(len(array), num_blocks, lanes)

        return cls(laid(symbols), laid(exposure), jnp.asarray(of_block), jnp.asarray(slots))

    def by_prompt(self, laid: Float[Array, "... block lane"]) -> Float[Array, "... prompt"]:
        """An array over blocks and lanes as one over prompts."""
        flat = laid.reshape(*laid.shape[:-2], -1)
        return flat if self.slots is None else flat[..., self.slots]

    def filled(self, dtype: Any) -> Float[Array, "block lane"]:
        """1 in each prompt's lane, 0 in those that stand empty."""
        shape = self.symbols.shape[1:]
        if self.slots is None:
            return jnp.ones(shape, dtype)
        return jnp.zeros(shape, dtype).ravel().at[self.slots].set(1).reshape(shape)


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


class _Laid(NamedTuple):
    """The chain laid out for the recursions."""

    initial: Float[Array, "state 1|block 1"]
    transition: Float[Array, "exposure 1|block state state"]
    entries: Float[Array, "exposure state state 1|block 1"]  # the same, ready for sums over lanes
    likelihood: Float[Array, "state symbol"]  # P(y | z) over its largest value, which keeps single precision safe
    log_scale: Float[Array, " symbol"]  # logarithm of that value

    @classmethod
    def of(cls, markov: Markov, places: Array) -> _Laid:
        scale = jnp.max(markov.log_emission, axis=0)
        transition = _entries(markov.transition, places, axis=1)
        return cls(
            initial=_entries(markov.initial, places, axis=0).T[..., None],
            transition=transition,
            entries=jnp.moveaxis(transition, 1, -1)[..., None],
            likelihood=jnp.exp(markov.log_emission - scale),
            log_scale=scale,
        )

    def start(self, shape: tuple[int, ...]) -> Float[Array, "state block lane"]:
        return jnp.broadcast_to(self.initial, (self.initial.shape[0], *shape))

    def at(self, symbols: Integer[Array, "block lane"]) -> Float[Array, "state block lane"]:
        # Symbols are made from the table's own rows, so none is out of range: the check that "clip" or "fill" adds
        # would cost as much as the look-up.
        return self.likelihood.at[:, symbols].get(mode="promise_in_bounds")


def _entries(array: Array, places: Array, axis: int) -> Array:
    return array if array.shape[axis] == 1 else jnp.take(array, places, axis=axis)


def _tiny(dtype: jnp.dtype) -> float:
    return float(jnp.finfo(dtype).tiny)


def _by_exposure(moved: Any, exposure: Integer[Array, "block lane"]) -> Array:
    """Of one array per exposure, each prompt's own; the last stands for those above it."""
    chosen = moved[0]
    for code in range(1, len(moved)):
        chosen = jnp.where(exposure >= code, moved[code], chosen)
    return chosen


def _of_exposure(num_exposures: int, exposure: Integer[Array, "block lane"]) -> Array:
    """(exposure block lane) masks, the last for those above it too."""
    return jnp.minimum(exposure, num_exposures - 1)[None] == jnp.arange(num_exposures)[:, None, None]


def _advance(laid: _Laid, belief: Float[Array, "state block lane"], exposure: Integer[Array, "block lane"]) -> Array:
    """belief @ transition[exposure]."""
    num_states = belief.shape[0]
    if num_states > UNROLLED_STATES:
        return _by_exposure(_product("ibn,ebij->ejbn", belief, laid.transition), exposure)
    return _by_exposure([reduce(add, (belief[i] * e[i] for i in range(num_states))) for e in laid.entries], exposure)


def _retreat(laid: _Laid, future: Float[Array, "state block lane"], exposure: Integer[Array, "block lane"]) -> Array:
    """transition[exposure] @ future, the same for the backward pass."""
    num_states = future.shape[0]
    if num_states > UNROLLED_STATES:
        return _by_exposure(_product("jbn,ebij->eibn", future, laid.transition), exposure)
    return _by_exposure([reduce(add, (e[:, j] * future[j] for j in range(num_states))) for e in laid.entries], exposure)


def _product(equation: str, vector: Array, transition: Array) -> Array:
    """(exposure state block lane) products of every lane with every exposure's matrix."""
    if transition.shape[1] == 1:  # one matrix for all blocks
        return jnp.einsum(equation.replace("b", ""), _flat(vector), transition[:, 0]).reshape(
            len(transition), *vector.shape
        )
    return jnp.einsum(equation, vector, transition)


def _flat(vector: Array) -> Array:
    return vector.reshape(len(vector), -1)


@partial(jax.jit, static_argnames="keep")
def _forward(markov: Markov, sequences: Sequences, keep: bool) -> tuple[Array | None, Array, Array]:
    """(step state block lane) filtered beliefs if kept, (state block lane) the last prediction, log marginals."""
    laid = _Laid.of(markov, sequences.places)

    def step(carry: tuple[Array, Array], observed: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array | None]:
        predicted, total = carry
        symbol, exposed = observed
        joint = predicted * laid.at(symbol)
        # The norm is the one-step predictive probability.
        norm = jnp.maximum(joint.sum(axis=0), _tiny(joint.dtype))
        filtered = joint / norm
        total = total + jnp.log(norm) + laid.log_scale[symbol]
        return (_advance(laid, filtered, exposed), total), filtered if keep else None

    symbols, exposure = jnp.asarray(sequences.symbols), jnp.asarray(sequences.exposure)
    start = laid.start(symbols.shape[1:])
    carry, filtered = lax.scan(step, (start, jnp.zeros_like(start[0])), (symbols, exposure))
    return filtered, *carry


@jax.jit
def filter(markov: Markov, sequences: Sequences) -> Filtered:
    """Forward filter: P(z_t | y_{0:t}) for every prompt and step, and the belief one step past the last.

    Cost is O(step * prompt * state^2) time; memory is that of the result.
    """
    return Filtered(*map(sequences.by_prompt, _forward(markov, sequences, keep=True)))


def log_marginal(markov: Markov, sequences: Sequences) -> Float[Array, " prompt"]:
    """log p(y_{0:T-1}) of each prompt, latent path summed out; keeps no beliefs.

    Its gradient with respect to the chain is exact and comes from one backward pass over the filtered beliefs, not from
    differentiating the recursion: d/dA_ij = E[# i -> j] / A_ij (Fisher's identity; Cappé et al. 2005, section 10.2).
    """
    return sequences.by_prompt(_log_marginal(markov, sequences))


@jax.custom_vjp
def _log_marginal(markov: Markov, sequences: Sequences) -> Float[Array, "block lane"]:
    return _forward(markov, sequences, keep=False)[2]


def _log_marginal_forward(markov: Markov, sequences: Sequences) -> tuple[Array, tuple]:
    filtered, _, total = _forward(markov, sequences, keep=True)
    return total, (markov, sequences, filtered)


def _back(laid: _Laid, ahead: Array, now: Array, symbol: Array, exposed: Array) -> tuple[Array, Array, Array]:
    """One step back, from what lies ahead: P(y_{t+1:} | z_{t+1}), up to a factor per prompt.

    Returns the same one step earlier, the unnormalised posterior of z_t, and one over its norm.
    """
    future = _retreat(laid, ahead, exposed)
    joint = now * future
    tiny = _tiny(joint.dtype)
    earlier = laid.at(symbol) * future
    # Rescaled by its largest entry: only ratios over states enter the posteriors.
    return (
        earlier * (1.0 / jnp.maximum(earlier.max(axis=0), tiny)),
        joint,
        1.0 / jnp.maximum(joint.sum(axis=0), tiny),
    )


@jax.jit
def _log_marginal_backward(kept: tuple, weight: Float[Array, "block lane"]) -> tuple[Markov, None]:
    """Derivatives of the weighted sum of log marginals, without a division by any probability of the model."""
    markov, sequences, filtered = kept
    laid = _Laid.of(markov, sequences.places)
    symbols, exposure = jnp.asarray(sequences.symbols), jnp.asarray(sequences.exposure)
    num_exposures, breadth = laid.transition.shape[:2]
    num_states, num_symbols = markov.log_emission.shape
    last = filtered[-1]

    def count(emission: Array, posterior: Array, symbol: Array) -> Array:
        posterior = _flat(posterior * weight)
        if num_symbols > COUNTED_SYMBOLS:
            return emission.at[:, symbol.ravel()].add(posterior, mode="promise_in_bounds")
        shown = symbol.reshape(-1, 1) == jnp.arange(num_symbols, dtype=symbol.dtype)
        return emission + posterior @ shown.astype(posterior.dtype)

    def pairs(now: Array, ahead: Array, exposed: Array) -> Array:
        """(exposure 1|block state state) sums over lanes of each pair of states."""
        parts = now * (weight * _of_exposure(num_exposures, exposed))[:, None]
        if breadth == 1:
            parts, ahead = parts.reshape(num_exposures, num_states, -1), _flat(ahead)
            return (parts @ ahead.T)[:, None]
        return jnp.einsum("eibn,jbn->ebij", parts, ahead)

    def step(carry: tuple[Array, Array, Array], inputs: tuple[Array, Array, Array, Array]) -> tuple[tuple, None]:
        ahead, transition, emission = carry
        now, symbol, exposed, moves = inputs
        earlier, joint, inverse_norm = _back(laid, ahead, now, symbol, exposed)
        emission = count(emission, joint * inverse_norm, symbol)
        return (earlier, transition + pairs(now * (inverse_norm * moves), ahead, exposed), emission), None

    carry = (
        jnp.ones_like(last),
        jnp.zeros((num_exposures, breadth, num_states, num_states), last.dtype),
        jnp.zeros_like(markov.log_emission),
    )
    # No transition leaves the last step.
    moves = jnp.ones(len(filtered), last.dtype).at[-1].set(0)
    (ahead, transition, emission), _ = lax.scan(step, carry, (filtered, symbols, exposure, moves), reverse=True)
    initial = ahead * weight / jnp.maximum((laid.start(symbols.shape[1:]) * ahead).sum(axis=0), _tiny(last.dtype))

    def by_cluster(sums: Array, num_clusters: int) -> Array:
        """(block ...) -> (cluster ...)."""
        if num_clusters == 1:
            return sums.sum(axis=0, keepdims=True)
        return jax.ops.segment_sum(sums, jnp.asarray(sequences.places), num_clusters)

    return (
        Markov(
            by_cluster(initial.sum(axis=-1).T, markov.initial.shape[0]),
            jnp.moveaxis(by_cluster(jnp.moveaxis(transition, 1, 0), markov.transition.shape[1]), 0, 1),
            emission,
        ),
        None,
    )


_log_marginal.defvjp(_log_marginal_forward, _log_marginal_backward)


@jax.jit
def expected_counts(markov: Markov, sequences: Sequences) -> ExpectedCounts:
    """E-step: expected initial states and transitions on the chain's own axes, and symbols by state.

    A transition t -> t+1 is counted under the exposure of step t. By Fisher's identity the counts are the probabilities
    times the derivatives of the log marginal.
    """
    filtered, _, total = _forward(markov, sequences, keep=True)
    slopes, _ = _log_marginal_backward((markov, sequences, filtered), sequences.filled(total.dtype))
    return ExpectedCounts(
        markov.initial * slopes.initial,
        markov.transition * slopes.transition,
        slopes.log_emission,
        sequences.by_prompt(total),
    )


@jax.jit
def smoother(markov: Markov, sequences: Sequences) -> Float[Array, "step state prompt"]:
    """Forward-backward smoother: P(z_t | y_{0:T-1}) for every prompt and step."""
    filtered, _, _ = _forward(markov, sequences, keep=True)
    laid = _Laid.of(markov, sequences.places)
    symbols, exposure = jnp.asarray(sequences.symbols), jnp.asarray(sequences.exposure)

    def step(ahead: Array, inputs: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        earlier, joint, inverse_norm = _back(laid, ahead, *inputs)
        return earlier, joint * inverse_norm

    _, posterior = lax.scan(step, jnp.ones_like(filtered[-1]), (filtered, symbols, exposure), reverse=True)
    return sequences.by_prompt(posterior)


def _moves(laid: _Laid, exposure: Integer[Array, "block lane"]) -> Float[Array, "state state block lane"]:
    """Each prompt's own transition matrix at a step."""
    return _by_exposure([jnp.broadcast_to(m, (*m.shape[:2], *exposure.shape)) for m in laid.entries], exposure)


@jax.jit
def viterbi(markov: Markov, sequences: Sequences) -> Integer[Array, "step prompt"]:
    """The most probable path of states of each prompt given all observations; ties go to the lower state."""
    laid = _Laid.of(markov, sequences.places)
    symbols, exposure = jnp.asarray(sequences.symbols), jnp.asarray(sequences.exposure)

    def score(symbol: Array) -> Array:
        return markov.log_emission.at[:, symbol].get(mode="promise_in_bounds")

    def forward(best: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        exposed, next_symbol = inputs
        reached = best[:, None] + jnp.log(_moves(laid, exposed))
        return reached.max(axis=0) + score(next_symbol), reached.argmax(axis=0)

    start = jnp.log(laid.start(symbols.shape[1:])) + score(symbols[0])
    best, came_from = lax.scan(forward, start, (exposure[:-1], symbols[1:]))

    def backward(state: Array, origin: Array) -> tuple[Array, Array]:
        previous = jnp.take_along_axis(origin, state[None], axis=0)[0]
        return previous, previous

    last = best.argmax(axis=0)
    _, path = lax.scan(backward, last, came_from, reverse=True)
    return sequences.by_prompt(jnp.concatenate([path, last[None]]))


@jax.jit
def sample_paths(markov: Markov, sequences: Sequences, key: Any) -> Integer[Array, "step prompt"]:
    """One draw of each prompt's path from its posterior, by forward filtering and backward sampling."""
    filtered, _, _ = _forward(markov, sequences, keep=True)
    laid = _Laid.of(markov, sequences.places)
    keys = jax.random.split(key, len(filtered))

    def backward(state: Array, inputs: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        now, exposed, key = inputs
        towards = jnp.take_along_axis(_moves(laid, exposed), state[None, None], axis=1)[:, 0]
        previous = jax.random.categorical(key, jnp.log(now * towards), axis=0)
        return previous, previous

    last = jax.random.categorical(keys[-1], jnp.log(filtered[-1]), axis=0)
    exposure = jnp.asarray(sequences.exposure)
    _, path = lax.scan(backward, last, (filtered[:-1], exposure[:-1], keys[:-1]), reverse=True)
    return sequences.by_prompt(jnp.concatenate([path, last[None]]))
