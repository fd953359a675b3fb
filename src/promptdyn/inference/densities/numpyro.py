"""The density of a program in NumPyro and JAX."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from numpy.typing import NDArray
from numpyro import handlers

from promptdyn.history import Counts, DenseHistory
from promptdyn.inference.densities import Values, check_explained, chunks
from promptdyn.kernels.jax import Markov, Sequences, expected_counts, log_marginal
from promptdyn.models.base import Array, DynamicsLike, Params, Pool, Statistics
from promptdyn.ppl.numpyro import NumPyro, Program

__all__ = ["THREADS", "Density"]

Floats = NDArray[np.float64]
THREADS = ThreadPoolExecutor(os.cpu_count(), "promptdyn")


class _Table:
    """A program with the counts of a history's symbols. Equal tables share what JAX has compiled, across fits."""

    def __init__(self, program: Program, counts: Counts) -> None:
        self.program, self.counts = program, counts
        self._key = (program.key, *(count.tobytes() for count in counts))

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Table) and self._key == other._key

    def markov(self, chain: Any) -> Markov:
        return Markov(chain.initial, chain.transition, chain.log_emission(self.counts, jnp))


@partial(jax.jit, static_argnums=0)
def _chain(table: _Table, params: Params) -> tuple[Markov, Any]:
    """Return the chain and the log prior at given values of the sites."""
    chain, log_prior = table.program.evaluate(params)
    return table.markov(chain), log_prior


# Compiled as a whole, since bijections would otherwise be compiled operation by operation.
@partial(jax.jit, static_argnums=0)
def _unconstrain(table: _Table, params: Params) -> Values:
    return table.program.unconstrain(params)


@partial(jax.jit, static_argnums=0)
def _constrain(table: _Table, values: Values) -> Params:
    return table.program.constrain(values)


@partial(jax.jit, static_argnums=0)
def _chain_of_values(table: _Table, values: Values) -> tuple[Markov, Any]:
    return _chain(table, table.program.constrain(values))


@jax.jit
def _slopes(markov: Markov, sequences: Sequences) -> tuple[Markov, Any]:
    """Return derivatives of the summed log marginal with respect to the chain, and the log marginals."""

    def total(markov: Markov) -> tuple[Any, Any]:
        log_marginals = log_marginal(markov, sequences)
        return log_marginals.sum(), log_marginals

    (_, log_marginals), slopes = jax.value_and_grad(total, has_aux=True)(markov)
    return slopes, log_marginals


@partial(jax.jit, static_argnums=0)
@partial(jax.grad, argnums=1)
def _pull(table: _Table, values: Values, slopes: Markov) -> Any:
    """Return the gradient with respect to values, from the kernel's gradient with respect to the chain."""
    markov, log_prior = _chain_of_values(table, values)
    parts = zip(slopes, markov, strict=True)
    # The logarithm of 0 has no slope.
    return log_prior + sum(jnp.sum(slope * jnp.where(slope == 0, 0.0, part)) for slope, part in parts)


@partial(jax.jit, static_argnums=0)
@partial(jax.value_and_grad, argnums=1)
def _expected_joint(table: _Table, values: Values, fixed: Params, expected: tuple[Any, Any, Any]) -> Any:
    markov, log_prior = _chain(table, {**fixed, **table.program.constrain(values)})
    initial, transition, emission = expected
    # If nothing is expected, the logarithm does not matter, even that of 0.
    joint = log_prior + jnp.sum(emission * jnp.where(emission > 0, markov.log_emission, 0.0))
    joint += jnp.sum(initial * jnp.log(jnp.where(initial > 0, markov.initial, 1.0)))
    return joint + jnp.sum(transition * jnp.log(jnp.where(transition > 0, markov.transition, 1.0)))


class Density:
    """See `promptdyn.inference.densities.Density`."""

    backend = "numpyro"

    def __init__(self, model: DynamicsLike, dense: DenseHistory) -> None:
        self.dense = dense
        self.program = Program(model, Pool.from_dense(dense))
        self._table = _Table(self.program, dense.counts)
        self.sequences = Sequences.packed(dense.symbols, dense.exposure, self.program.cluster_index)
        with jax.enable_x64(True):
            self._chunks = jax.device_put(chunks(self.sequences, self.program.num_states))

    def _each_chunk(self, function: Callable[[Sequences], Any]) -> list[Any]:
        """Call a function with every chunk, in parallel, since a kernel's loop over cells uses one core."""

        def run(chunk: Sequences) -> Any:
            with jax.enable_x64(True):  # the setting belongs to a thread
                return jax.device_get(function(chunk))

        return list(map(run, self._chunks) if len(self._chunks) == 1 else THREADS.map(run, self._chunks))

    def unconstrain(self, params: Mapping[str, Array]) -> Values:
        """See `promptdyn.inference.densities.Density`."""
        with jax.enable_x64(True):
            return jax.device_get(_unconstrain(self._table, dict(params)))

    def constrain(self, values: Mapping[str, Array]) -> Params:
        """See `promptdyn.inference.densities.Density`."""
        with jax.enable_x64(True):
            return jax.device_get(_constrain(self._table, dict(values)))

    def joint(self, values: Values) -> tuple[float, Values]:
        """See `promptdyn.inference.densities.Density`."""
        with jax.enable_x64(True):
            markov, log_prior = _chain_of_values(self._table, values)
            parts = self._each_chunk(partial(_slopes, markov))
            slopes = jax.tree.map(lambda *each: sum(each), *(part[0] for part in parts))
            log_marginals = np.sum([part[1] for part in parts], axis=0)
            explained = sum(np.vdot(slope, part) for slope, part in zip(slopes[:2], markov[:2], strict=True))
            check_explained(self.dense, float(explained), self.sequences.path_length, log_marginals)
            return float(log_marginals.sum() + log_prior), jax.device_get(_pull(self._table, values, slopes))

    def expected(self, params: Params) -> tuple[Statistics, float, float]:
        """See `promptdyn.inference.densities.Density`."""
        with jax.enable_x64(True):
            markov, log_prior = _chain(self._table, params)
            parts = self._each_chunk(partial(expected_counts, markov))
        initial, transition, emission, log_marginals = (np.sum(part, axis=0) for part in zip(*parts, strict=True))
        explained = initial.sum() + transition.sum()
        check_explained(self.dense, explained, self.sequences.path_length, log_marginals)
        return (
            Statistics(initial, transition, emission, self.dense.counts),
            float(log_marginals.sum()),
            float(log_prior),
        )

    def expected_joint(self, values: Values, fixed: Params, statistics: Statistics) -> tuple[float, Values]:
        """See `promptdyn.inference.densities.Density`."""
        with jax.enable_x64(True):
            value, slope = jax.device_get(_expected_joint(self._table, values, fixed, tuple(statistics[:3])))
        return float(value), slope

    def log_marginals(self, params: Params) -> Floats:
        """See `promptdyn.inference.densities.Density`."""
        with jax.enable_x64(True):
            markov, _ = _chain(self._table, params)
            return np.sum(self._each_chunk(partial(log_marginal, markov)), axis=0)

    def conditioned(self, sequences: Sequences | None, scale: float = 1.0) -> None:
        """See `promptdyn.inference.densities.Density`."""
        markov = self._table.markov(self.program.model.program(NumPyro(), self.program.pool))
        if sequences is None:
            return
        with handlers.scale(scale=scale):
            numpyro.factor("num_successes", log_marginal(markov, sequences).sum())
