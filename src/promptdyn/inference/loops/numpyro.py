"""NumPyro's SVI and NUTS on a program, in double precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from numpy.typing import NDArray
from numpyro import infer

from promptdyn.inference.densities import Values
from promptdyn.inference.densities.numpyro import THREADS, Density
from promptdyn.inference.engines.nuts import NUTS
from promptdyn.inference.engines.svi import SVI, mini_batches
from promptdyn.ppl.numpyro import RUN_ONCE

__all__ = ["nuts", "svi"]

Floats = NDArray[np.float64]
# Number of a sampler's iterations between two reports.
WINDOW = 10


def svi(
    density: Density, settings: SVI, seed: int, report: Callable[[int, float], None]
) -> tuple[dict[str, Floats], Floats]:
    """Climb the ELBO of a guide with Adam, whose learning rate falls tenfold.

    Args:
        density: the program's density.
        settings: the engine.
        seed: seed of batches, guide and draws.
        report: function of (step, ELBO), called after each step.

    Returns:
        site -> (draw ...) draws from the guide, and the (step,) ELBO.
    """
    sequences, num_lanes, scale = mini_batches(density.dense, density.program.cluster_index, settings.batch_size, seed)
    with jax.enable_x64(True):
        start = {name: jnp.asarray(value) for name, value in density.program.start.items()}
        guide: Any = getattr(infer.autoguide, settings.guide)(
            density.conditioned, init_loc_fn=infer.init_to_value(values=start)
        )
        optimizer = numpyro.optim.Adam(lambda step: settings.learning_rate * 0.1 ** (step / settings.num_steps))
        inference = infer.SVI(density.conditioned, guide, optimizer, infer.Trace_ELBO())
        batches = sequences.batches(num_lanes, seed)
        first, last = jax.random.split(jax.random.key(seed))
        state = jax.jit(lambda key: inference.init(key, None, scale), compiler_options=RUN_ONCE)(first)
        update = jax.jit(partial(inference.update, scale=scale))
        elbo = []
        for step in range(1, settings.num_steps + 1):
            state, loss = update(state, next(batches))
            elbo.append(-float(loss))
            report(step, elbo[-1])

        def draw(key: Any, state: Any) -> Any:
            params = inference.get_params(state)
            return guide.sample_posterior(key, params, None, scale, sample_shape=(settings.num_samples,))

        draws = jax.jit(draw, compiler_options=RUN_ONCE)(last, state)
    return {name: np.asarray(draws[name]) for name in density.program.start}, np.array(elbo)


def nuts(
    density: Density, settings: NUTS, starts: Values, seed: int, report: Callable[[int, Mapping[str, float]], None]
) -> tuple[dict[str, Floats], dict[str, NDArray]]:
    """Draw with NUTS, the chains side by side.

    Args:
        density: the program's density.
        settings: the engine.
        starts: site -> (chain ...) real numbers at which the chains start.
        seed: seed of the draws.
        report: function of (iterations done, {name: number to watch}).

    Returns:
        site -> (chain draw ...) draws, and ArviZ's sample statistics, name -> (chain draw).
    """
    num_warmup, num_samples = settings.num_warmup, settings.num_samples
    sampler = infer.NUTS(
        density.conditioned, target_accept_prob=settings.target_accept, max_tree_depth=settings.max_tree_depth
    )
    with jax.enable_x64(True):
        arguments = jax.device_put((density.sequences, 1.0))
        begin = jax.jit(
            lambda key, init, arguments: sampler.init(key, num_warmup, init, arguments, {}), compiler_options=RUN_ONCE
        )
        keys = jax.random.split(jax.random.key(seed), len(next(iter(starts.values()))))
        # One compiled chain per core. In a batch, chains would wait for the longest tree among them at each draw.
        states = [
            begin(key, {name: jnp.asarray(value[chain]) for name, value in starts.items()}, arguments)
            for chain, key in enumerate(keys)
        ]

        @jax.jit
        def advance(state: Any, arguments: Any) -> Any:
            def one(state: Any, _: None) -> Any:
                state = sampler.sample(state, arguments, {})
                return state, (state.z, state.diverging, state.num_steps, state.accept_prob, -state.potential_energy)

            return jax.lax.scan(one, state, length=WINDOW)

        compiled = advance.lower(states[0], arguments).compile()

    windows = []
    for done in range(WINDOW, num_warmup + num_samples + WINDOW, WINDOW):
        results = list(THREADS.map(lambda state: compiled(state, arguments), states))
        states = [state for state, _ in results]
        windows.append(jax.tree.map(lambda *chains: np.stack(chains), *(window for _, window in results)))
        _, diverging, num_steps, _, log_density = windows[-1]
        watch = {
            "log density": float(log_density[:, -1].mean()),
            "leapfrog steps": float(num_steps.mean()),
            "diverged": float(diverging.sum()),
        }
        report(min(done, num_warmup + num_samples), watch)

    # Join the (chain draw ...) windows and drop the warm-up.
    def after_warmup(*parts: NDArray) -> NDArray:
        return np.concatenate(parts, axis=1)[:, num_warmup : num_warmup + num_samples]

    values, diverging, num_steps, accept, log_density = jax.tree.map(after_warmup, *windows)
    stats = {"diverging": diverging, "n_steps": num_steps, "acceptance_rate": accept, "lp": log_density}
    return density.constrain(values), stats
