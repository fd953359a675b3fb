"""NumPyro: what it hands to a program, a program at chosen parameters, and the distribution of observed counts."""

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

# To the compiler, of what runs once: half of the time that it takes is spent on making code fast.
RUN_ONCE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


class NumPyro:
    """The names that a program is handed."""

    dist = numpyro.distributions
    xp = jnp

    def __init__(self) -> None:
        self.names = Names()

    def sample(self, name: str, distribution: Distribution, init: ArrayLike | None = None) -> Array:
        # As numbers: others compare a trace's metadata, and arrays do not compare as one.
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


def run(text: Callable[..., Chain], model: DynamicsLike, dense: DenseHistory, **how: Any) -> Chain:
    """Run one of the texts of `promptdyn.ppl.observed`."""
    return text(NumPyro(), model, dense, **how)


class Program:
    """See `promptdyn.ppl.Program`. Arrays are JAX's; gradients in double precision need `jax.enable_x64`."""

    def __init__(self, model: DynamicsLike, pool: Pool) -> None:
        self.model, self.pool = model, pool
        # Programs of equal keys do the same, so that what was compiled for one serves the other.
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
                # Compiled whole: operation by operation it would take seconds.
                values, spreads, self._supports = jax.device_get(jax.jit(begin)())
            except AssertionError as error:
                if "unique names" not in str(error):
                    raise
                raise InputError(f"model {model.name!r}: its program samples a site twice: {error}") from None
            self.start: Params = check_sites(model.name, values, self._supports)
        self.dims: dict[str, tuple[str, ...]] = shapes
        # In NumPy alone, as a fit filters: whatever takes an array to JAX is told.
        with jax.transfer_guard("disallow_explicit"):
            chain = chain_at(model, self.start, pool)
            check_around(model, around(self.start, self._supports, spreads), pool)
        self.axis, self.places = chain.axis, chain.places(pool)
        self.num_states = int(chain.initial.shape[1])

    def _trace(self, handler: Any, ppl: NumPyro | None = None, **how: Any) -> tuple[Chain, dict[str, Any]]:
        """Run the program under a handler that answers its sites."""
        handed_in = only_what_is_handed_in(self.model.name, "torch", "pyro")
        with handlers.trace() as trace, handlers.seed(rng_seed=0), handler(**how), handed_in:
            chain = self.model.program(ppl or NumPyro(), self.pool)
        return chain, {name: site for name, site in trace.items() if site["type"] == "sample"}

    def at(self, params: Mapping[str, Array]) -> tuple[Chain, Any]:
        """The chain and the log prior density at given parameters."""
        chain, sites = self._trace(handlers.substitute, data=dict(params))
        return chain, sum((site["fn"].log_prob(site["value"]).sum() for site in sites.values()), jnp.zeros(()))

    def unconstrain(self, params: Mapping[str, Array]) -> dict[str, Any]:
        """Sites as real numbers. Simplexes are kept off their edges."""
        values = {}
        for name, value in params.items():
            value = jnp.asarray(value)
            if self._supports[name] == constraints.simplex:
                value = jnp.maximum(value, EDGE)
                value = value / value.sum(axis=-1, keepdims=True)
            values[name] = biject_to(self._supports[name]).inv(value)
        return values

    def constrain(self, values: Mapping[str, Array]) -> dict[str, Any]:
        """Sites of real numbers."""
        return {name: biject_to(self._supports[name])(value) for name, value in values.items()}

    def prior(self, num_samples: int, seed: int) -> Params:
        """site -> (draw ...) drawn from the program run forward."""
        with jax.enable_x64(True):
            draw = Predictive(lambda: self.model.program(NumPyro(), self.pool), num_samples=num_samples)
            # Compiled whole: operation by operation it would take seconds. It runs once, so it is not made fast.
            drawn = jax.jit(draw, compiler_options=RUN_ONCE)(jax.random.key(seed))
        return {name: np.asarray(drawn[name]) for name in self.start}

    def predictive(self, dense: DenseHistory, draws: Params, seed: int) -> NDArray[np.integer]:
        """(draw prompt step) success counts that the groups of a history might have shown, one set per draw."""

        def text() -> Chain:
            return observed(NumPyro(), self.model, dense, condition=False)

        with jax.enable_x64(True):
            draw = Predictive(text, draws, return_sites=["num_successes"])
            drawn = jax.jit(draw)(jax.random.key(seed))
        return np.asarray(drawn["num_successes"])


def _hashable(model: DynamicsLike) -> Any:
    """The model, or where it is not hashable something that is its own."""
    try:
        hash(model)
    except TypeError:
        return id(model)
    return type(model), model


def _start(site: dict[str, Any]) -> Any:
    """Where fitting starts at a site."""
    if site["type"] != "sample" or site["is_observed"]:
        return None
    return jnp.broadcast_to(jnp.asarray(start_of(site), float), site["fn"].shape())


class GroupCounts(numpyro.distributions.Distribution):
    """Success counts of the groups of many prompts: batch (prompt,), event (step,), the latent paths summed out.

    Args:
        chain: of the prompts.
        groups: which groups were rolled out when.
    """

    support = constraints.independent(constraints.nonnegative_integer, 1)

    def __init__(self, chain: Chain, groups: Groups) -> None:
        self.chain, self.groups = chain, groups
        num_steps, num_prompts = groups.symbol_of_none.shape
        super().__init__(batch_shape=(num_prompts,), event_shape=(num_steps,))

    def _markov(self) -> Markov:
        return Markov(self.chain.initial, self.chain.transition, self.chain.log_emission(self.groups.counts, jnp))

    def log_prob(self, value: Any) -> Any:
        """(prompt,) log probability of (prompt step) success counts."""
        groups = self.groups
        # Counts that are NumPy's are packed here, once, and not by the compiled program each time it runs.
        known = all(isinstance(array, np.ndarray) for array in (value, groups.symbol_of_none, groups.trained))
        symbols = value.T.astype(groups.symbol_of_none.dtype) + groups.symbol_of_none
        exposure = groups.exposure(value.T, np if known else jnp).astype(np.uint8)
        laid = Sequences.packed if known else Sequences.whole
        return log_marginal(self._markov(), laid(symbols, exposure, groups.places))

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Any:
        """Counts drawn forward: states along the chain, then each observed group's k."""
        if sample_shape:
            keys = jax.random.split(key, int(np.prod(sample_shape)))
            return jax.vmap(self.sample)(keys).reshape(*sample_shape, *self.shape())
        markov, groups = self._markov(), self.groups
        places = jnp.zeros(self.batch_shape, int) if groups.places is None else jnp.asarray(groups.places)
        sizes = jnp.asarray(groups.counts.num_rollouts)
        k = jnp.arange(int(groups.counts.num_rollouts.max()) + 1)

        shows = jnp.exp(markov.log_emission)

        def entries(array: Any, axis: int) -> Any:
            return jnp.minimum(places, array.shape[axis] - 1)

        def step(state: Any, inputs: Any) -> tuple[Any, Any]:
            none, step, key = inputs
            show, move = jax.random.split(key)
            possible = k <= sizes[none][:, None]
            symbols = jnp.where(possible, none[:, None] + k, 0)
            num_successes = _draw(show, jnp.where(possible, shows[state[:, None], symbols], 0.0))
            level = jnp.minimum(groups.exposure(num_successes, jnp, step), markov.transition.shape[0] - 1)
            chances = markov.transition[level, entries(markov.transition, 1), state]
            return _draw(move, chances), num_successes

        first, rest = jax.random.split(key)
        state = _draw(first, markov.initial[entries(markov.initial, 0)])
        keys = jax.random.split(rest, self.event_shape[0])
        inputs = (jnp.asarray(groups.symbol_of_none, int), jnp.arange(self.event_shape[0]), keys)
        return jax.lax.scan(step, state, inputs)[1].T


def _draw(key: Any, chances: Any) -> Any:
    """(prompt,) one category per row of weights, by one random number each."""
    reached = jnp.cumsum(chances, axis=-1)
    at = jax.random.uniform(key, reached.shape[:-1], reached.dtype) * reached[..., -1]
    return (reached <= at[..., None]).sum(axis=-1)
