"""The NumPyro backend: the `PPL` that a program uses, `Program`, and the distribution of observed counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions
from numpy.typing import ArrayLike, NDArray
from numpyro import handlers
from numpyro.distributions import biject_to, constraints
from numpyro.infer import Predictive

from promptdyn.errors import InputError
from promptdyn.history import DenseHistory
from promptdyn.kernels.jax import Markov, Sequences, log_marginal
from promptdyn.models.base import Array, Chain, Distribution, DynamicsLike, Params, Pool
from promptdyn.ppl.fixed import chain_at, check_around
from promptdyn.ppl.observed import Groups, observed
from promptdyn.ppl.sites import EDGE, Names, around, check_sites, dims_of, only_what_is_handed_in, spread_of, start_of

__all__ = ["GroupCounts", "NumPyro", "Program", "run"]

# Compiler options for code that runs once: half of the compile time would go into making it fast.
RUN_ONCE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


class NumPyro:
    """The `PPL` of NumPyro."""

    dist = numpyro.distributions
    xp = jnp

    def __init__(self) -> None:
        self.names = Names()

    def sample(self, name: str, distribution: Distribution, init: ArrayLike | None = None) -> Array:
        # As numbers, since libraries compare a trace's metadata, and arrays do not compare to a single truth value.
        infer = {} if init is None else {"init": init.tolist() if isinstance(init, np.ndarray) else init}
        return numpyro.sample(self.names.site(name), distribution, infer=infer)

    def plate(self, name: str, size: int) -> AbstractContextManager:
        return numpyro.plate(self.names.plate(name), size)

    def deterministic(self, name: str, value: Array, dims: Sequence[str] = ()) -> Array:
        return numpyro.deterministic(self.names.site(name), value)

    def observe(self, name: str, distribution: Distribution, value: NDArray | None) -> None:
        numpyro.sample(self.names.site(name), distribution, obs=value)

    def enumerate(self, name: str, distribution: Distribution) -> Any:
        return numpyro.sample(self.names.site(name), distribution, infer={"enumerate": "parallel"})

    def factor(self, name: str, value: Any) -> None:
        numpyro.factor(self.names.site(name), value)

    def group_counts(self, chain: Chain, groups: Groups) -> GroupCounts:
        return GroupCounts(chain, groups)


def run(function: Callable[..., Chain], model: DynamicsLike, dense: DenseHistory, **how: Any) -> Chain:
    """Run one of the functions of `promptdyn.ppl.observed`."""
    return function(NumPyro(), model, dense, **how)


class Program:
    """See `promptdyn.ppl.Program`. Arrays are JAX's; gradients in double precision need `jax.enable_x64`."""

    def __init__(self, model: DynamicsLike, pool: Pool) -> None:
        self.model, self.pool = model, pool
        # Programs with equal keys do the same, so that one uses what was compiled for the other.
        self.key = (_hashable(model), pool.cluster.tobytes(), pool.cluster_names)
        names, shapes = Names(), {}

        def begin() -> tuple[dict[str, Any], ...]:
            ppl = NumPyro()
            ppl.names = names
            _, sites = self._trace(handlers.substitute, ppl, substitute_fn=_start)
            shapes.update(dims_of(model.name, sites, names, pool))
            supports = {name: site["fn"].support for name, site in sites.items()}
            values = {name: site["value"] for name, site in sites.items()}
            return values, {name: spread_of(site) for name, site in sites.items()}, supports

        with jax.enable_x64(True):
            try:
                # Compiled as a whole, since it would take seconds operation by operation.
                values, spreads, self._supports = jax.device_get(jax.jit(begin)())
            except AssertionError as error:
                if "unique names" not in str(error):
                    raise
                raise InputError(f"model {model.name!r}: its program samples a site twice: {error}") from None
            self.start: Params = check_sites(model.name, values, self._supports)
        self.dims: dict[str, tuple[str, ...]] = shapes
        # The program must run in NumPy alone, as a fit filters; a transfer of an array to JAX raises an error.
        with jax.transfer_guard("disallow_explicit"):
            chain = chain_at(model, self.start, pool)
            check_around(model, around(self.start, self._supports, spreads), pool)
        self.axis, self.cluster_index = chain.axis, chain.cluster_index(pool)
        self.num_states = int(chain.initial.shape[1])

    def _trace(self, handler: Any, ppl: NumPyro | None = None, **how: Any) -> tuple[Chain, dict[str, Any]]:
        """Run the program under a handler that gives its sites values; return the chain and the sampled sites."""
        handed_in = only_what_is_handed_in(self.model.name, "torch", "pyro")
        with handlers.trace() as trace, handlers.seed(rng_seed=0), handler(**how), handed_in:
            chain = self.model.program(ppl or NumPyro(), self.pool)
        return chain, {name: site for name, site in trace.items() if site["type"] == "sample"}

    def evaluate(self, params: Mapping[str, Array]) -> tuple[Chain, Any]:
        """See `promptdyn.ppl.Program`."""
        chain, sites = self._trace(handlers.substitute, data=dict(params))
        return chain, sum((site["fn"].log_prob(site["value"]).sum() for site in sites.values()), jnp.zeros(()))

    def unconstrain(self, params: Mapping[str, Array]) -> dict[str, Any]:
        """See `promptdyn.ppl.Program`. Simplexes are kept away from their edges."""
        values = {}
        for name, value in params.items():
            value = jnp.asarray(value)
            if self._supports[name] == constraints.simplex:
                value = jnp.maximum(value, EDGE)
                value = value / value.sum(axis=-1, keepdims=True)
            values[name] = biject_to(self._supports[name]).inv(value)
        return values

    def constrain(self, values: Mapping[str, Array]) -> dict[str, Any]:
        """See `promptdyn.ppl.Program`."""
        return {name: biject_to(self._supports[name])(value) for name, value in values.items()}

    def prior(self, num_samples: int, seed: int) -> Params:
        """See `promptdyn.ppl.Program`."""
        with jax.enable_x64(True):
            draw = Predictive(lambda: self.model.program(NumPyro(), self.pool), num_samples=num_samples)
            # Compiled as a whole, since it would take seconds operation by operation.
            samples = jax.jit(draw, compiler_options=RUN_ONCE)(jax.random.key(seed))
        return {name: np.asarray(samples[name]) for name in self.start}

    def predictive(self, dense: DenseHistory, draws: Params, seed: int) -> NDArray[np.integer]:
        """See `promptdyn.ppl.Program`."""

        def forward() -> Chain:
            return observed(NumPyro(), self.model, dense, condition=False)

        with jax.enable_x64(True):
            draw = Predictive(forward, draws, return_sites=["num_successes"])
            samples = jax.jit(draw)(jax.random.key(seed))
        return np.asarray(samples["num_successes"])


def _hashable(model: DynamicsLike) -> Any:
    """Return a key for the model: itself with its class, or its identity if it is not hashable."""
    try:
        hash(model)
    except TypeError:
        return id(model)
    return type(model), model


def _start(site: dict[str, Any]) -> Any:
    """Return the value at which a fit starts at a site."""
    if site["type"] != "sample" or site["is_observed"]:
        return None
    return jnp.broadcast_to(jnp.asarray(start_of(site), float), site["fn"].shape())


class GroupCounts(numpyro.distributions.Distribution):
    """Success counts of the groups of many prompts, with the latent paths summed out: batch (prompt,), event (step,).

    Args:
        chain: the prompts' chain.
        groups: the groups that were rolled out.
    """

    support = constraints.independent(constraints.nonnegative_integer, 1)

    def __init__(self, chain: Chain, groups: Groups) -> None:
        self.chain, self.groups = chain, groups
        num_steps, num_prompts = groups.symbol_of_none.shape
        super().__init__(batch_shape=(num_prompts,), event_shape=(num_steps,))

    def _markov(self) -> Markov:
        return Markov(self.chain.initial, self.chain.transition, self.chain.log_emission(self.groups.counts, jnp))

    def log_prob(self, value: Any) -> Any:
        """Return the (prompt,) log probability of (prompt step) success counts."""
        groups = self.groups
        # NumPy's counts are packed here once, not by the compiled program at every run.
        in_numpy = all(isinstance(array, np.ndarray) for array in (value, groups.symbol_of_none, groups.trained))
        symbols = value.T.astype(groups.symbol_of_none.dtype) + groups.symbol_of_none
        exposure = groups.exposure(value.T, np if in_numpy else jnp).astype(np.uint8)
        lay_out = Sequences.packed if in_numpy else Sequences.whole
        return log_marginal(self._markov(), lay_out(symbols, exposure, groups.cluster_index))

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Any:
        """Draw counts forward: states along the chain, and each observed group's k."""
        if sample_shape:
            keys = jax.random.split(key, int(np.prod(sample_shape)))
            return jax.vmap(self.sample)(keys).reshape(*sample_shape, *self.shape())
        markov, groups = self._markov(), self.groups
        cluster_index = (
            jnp.zeros(self.batch_shape, int) if groups.cluster_index is None else jnp.asarray(groups.cluster_index)
        )
        sizes = jnp.asarray(groups.counts.num_rollouts)
        k = jnp.arange(int(groups.counts.num_rollouts.max()) + 1)

        emission = jnp.exp(markov.log_emission)

        def index(array: Any, axis: int) -> Any:
            return jnp.minimum(cluster_index, array.shape[axis] - 1)

        def step(state: Any, inputs: Any) -> tuple[Any, Any]:
            none, step, key = inputs
            emission_key, move_key = jax.random.split(key)
            possible = k <= sizes[none][:, None]
            symbols = jnp.where(possible, none[:, None] + k, 0)
            num_successes = _draw(emission_key, jnp.where(possible, emission[state[:, None], symbols], 0.0))
            level = jnp.minimum(groups.exposure(num_successes, jnp, step), markov.transition.shape[0] - 1)
            chances = markov.transition[level, index(markov.transition, 1), state]
            return _draw(move_key, chances), num_successes

        first, rest = jax.random.split(key)
        state = _draw(first, markov.initial[index(markov.initial, 0)])
        keys = jax.random.split(rest, self.event_shape[0])
        inputs = (jnp.asarray(groups.symbol_of_none, int), jnp.arange(self.event_shape[0]), keys)
        return jax.lax.scan(step, state, inputs)[1].T


def _draw(key: Any, chances: Any) -> Any:
    """Draw a (prompt,) category for each row of weights, with one random number each."""
    reached = jnp.cumsum(chances, axis=-1)
    threshold = jax.random.uniform(key, reached.shape[:-1], reached.dtype) * reached[..., -1]
    return (reached <= threshold[..., None]).sum(axis=-1)
