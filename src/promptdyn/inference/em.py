"""Expectation-maximisation (MAP-EM) for any model with a program.

The E-step is exact, in JAX. The M-step is the model's closed form, `maximise`, for the sites that it gives, and climbs
the expected log joint of the program itself for all others; a model that declares nothing gets EM all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from promptdyn.errors import InputError
from promptdyn.history import DenseHistory
from promptdyn.kernels.jax import Markov, Sequences, expected_counts
from promptdyn.models.base import Dynamics, Params, Pool, Statistics
from promptdyn.ppl.numpyro import Program

__all__ = ["EMResult", "em"]

# Prompts per E-step call: bounds the memory of the filtered beliefs.
CHUNK = 32_768
# Most iterations of the climb in one M-step: it starts where the last one ended, so few are needed.
CLIMB = 30


class EMResult(NamedTuple):
    params: Params
    log_marginal: float  # log p(y | params), summed over prompts
    trace: NDArray[np.float64]  # (update + 1,) log p(y | params) + log prior, before each update and after the last
    converged: bool


def em(
    model: Dynamics,
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
        InputError: the model's program fails its contract or holds a prompt's observations impossible, naming the
            prompt; an option out of range.
    """
    if max_iterations < 1:
        raise InputError(f"max_iterations={max_iterations} must be at least 1")
    if np.isnan(tolerance):
        raise InputError("tolerance is NaN: give a number of nats")
    num_observed = int(np.count_nonzero(dense.symbols))
    trace: list[float] = []
    with jax.enable_x64(True):
        program = Program(model, Pool.of(dense))
        table = _Table(program, dense.counts)
        e_step = _EStep(dense, program.places)
        params = program.start
        while True:
            markov, log_prior = _chain(table, params)
            statistics, log_marginal = e_step(markov)
            trace.append(log_marginal + float(log_prior))
            if not np.isfinite(trace[-1]):
                raise InputError(f"model {model.name!r}: its log density is {trace[-1]}: check the program's priors")
            if progress:
                progress(len(trace), trace[-1])
            converged = len(trace) > 1 and trace[-1] - trace[-2] < tolerance * num_observed
            if converged or len(trace) > max_iterations:
                return EMResult(params, log_marginal, np.array(trace), converged)
            closed = model.maximise(statistics, params) if hasattr(model, "maximise") else {}
            params = {**params, **closed}
            params = {**params, **_climb(table, params, closed.keys(), statistics)}


class _EStep:
    """Expected counts over all prompts, some thousands at a time."""

    def __init__(self, dense: DenseHistory, places: NDArray[np.integer] | None) -> None:
        self.dense = dense
        self.chunks = [
            jax.device_put(
                Sequences.of(dense.symbols[:, part], dense.exposure[:, part], None if places is None else places[part])
            )
            for part in _chunks(dense.symbols.shape[1])
        ]

    def __call__(self, markov: Markov) -> tuple[Statistics, float]:
        parts = [jax.device_get(expected_counts(markov, chunk)) for chunk in self.chunks]
        initial, transition, emission, log_marginals = zip(*parts, strict=True)
        statistics = Statistics(sum(initial), sum(transition), sum(emission), self.dense.counts)
        log_marginal = np.concatenate(log_marginals)
        # A sequence that no path of states explains has no posterior: its counts are missing.
        if abs(statistics.initial.sum() - len(log_marginal)) > 0.5:
            prompt = self.dense.prompt_ids[int(np.argmin(log_marginal))]
            raise InputError(
                f"prompt {prompt!r} has outcomes that the model holds impossible: allow noise in the emission, or "
                "transitions that the model rules out"
            )
        return statistics, float(log_marginal.sum())


def _chunks(num_prompts: int) -> Iterator[slice]:
    """Slices of almost equal size, so that the recursions compile for two sizes at most."""
    size = -(-num_prompts // -(-num_prompts // CHUNK))
    return (slice(start, start + size) for start in range(0, num_prompts, size))


class _Table:
    """A program and the symbols it is asked about: equal ones share what JAX has compiled, from one fit to the next."""

    def __init__(self, program: Program, counts: NDArray[np.int32]) -> None:
        self.program, self.counts = program, counts
        self._key = (program.key, counts.tobytes())

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Table) and self._key == other._key


@partial(jax.jit, static_argnums=0)
def _chain(table: _Table, params: Params) -> tuple[Markov, Any]:
    """The chain and the log prior at given parameters."""
    chain, log_prior = table.program.at(params)
    return Markov(chain.initial, chain.transition, chain.emission.log_prob(table.counts, jnp)), log_prior


@partial(jax.jit, static_argnums=0)
@partial(jax.value_and_grad, argnums=1)
def _loss(table: _Table, values: dict[str, Any], fixed: Params, expected: tuple[Any, Any, Any]) -> Any:
    """Minus the expected log joint, at the unconstrained values of some sites and the others fixed."""
    markov, log_prior = _chain(table, {**fixed, **table.program.constrain(values)})
    initial, transition, emission = expected
    # Where nothing is expected the logarithm does not matter, even of 0.
    joint = log_prior + jnp.sum(emission * jnp.where(emission > 0, markov.log_emission, 0.0))
    joint += jnp.sum(initial * jnp.log(jnp.where(initial > 0, markov.initial, 1.0)))
    return -joint - jnp.sum(transition * jnp.log(jnp.where(transition > 0, markov.transition, 1.0)))


def _climb(table: _Table, params: Params, closed: Any, statistics: Statistics) -> Params:
    """The M-step of the sites that are not in `closed`: L-BFGS on the expected log joint, from where they are."""
    fixed = {name: params[name] for name in closed}
    free = {name: value for name, value in params.items() if name not in fixed}
    if not free:
        return {}
    start = jax.device_get(table.program.unconstrain(free))
    sizes = [value.size for value in start.values()]

    def unravel(flat: NDArray) -> dict[str, NDArray]:
        parts = np.split(flat, np.cumsum(sizes)[:-1])
        return {name: part.reshape(start[name].shape) for name, part in zip(start, parts, strict=True)}

    def ravel(values: dict[str, Any]) -> NDArray[np.float64]:
        return np.concatenate([np.ravel(values[name]) for name in start])

    def loss(flat: NDArray) -> tuple[float, NDArray]:
        value, slope = jax.device_get(_loss(table, unravel(flat), fixed, tuple(statistics[:3])))
        return float(value), ravel(slope)

    # The loss is as large as the history and its gains are not: stop by the slope.
    options = {"maxiter": CLIMB, "ftol": 1e-15, "gtol": 1e-6}
    best = minimize(loss, ravel(start), jac=True, method="L-BFGS-B", options=options)
    return jax.device_get(table.program.constrain(unravel(best.x)))
