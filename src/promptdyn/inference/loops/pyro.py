"""Pyro's SVI and NUTS on a program, in double precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyro
import torch
from numpy.typing import NDArray
from pyro import infer
from pyro.infer.autoguide.initialization import init_to_value

from promptdyn.inference.densities import Values
from promptdyn.inference.densities.pyro import Density
from promptdyn.inference.engines.nuts import NUTS
from promptdyn.inference.engines.svi import SVI, mini_batches
from promptdyn.ppl.pyro import double, seeded

__all__ = ["nuts", "svi"]

Floats = NDArray[np.float64]


def svi(
    density: Density, settings: SVI, seed: int, report: Callable[[int, float], None]
) -> tuple[dict[str, Floats], Floats]:
    """Climb the ELBO of a guide with Adam; see `promptdyn.inference.loops.numpyro.svi`."""
    sequences, num_lanes, scale = mini_batches(density.dense, density.program.cluster_index, settings.batch_size, seed)
    # Pyro's parameters are global, so the user's own are set aside meanwhile.
    with double(), seeded(seed), pyro.get_param_store().scope():
        start = {name: torch.tensor(value) for name, value in density.program.start.items()}
        guide: Any = getattr(infer.autoguide, settings.guide)(
            density.conditioned, init_loc_fn=init_to_value(values=start)
        )
        optimizer = pyro.optim.ClippedAdam(
            {"lr": settings.learning_rate, "lrd": 0.1 ** (1 / settings.num_steps), "clip_norm": np.inf}
        )
        inference = infer.SVI(density.conditioned, guide, optimizer, infer.Trace_ELBO())
        batches = sequences.batches(num_lanes, seed)
        elbo = []
        for step in range(1, settings.num_steps + 1):
            elbo.append(-float(inference.step(next(batches), scale)))
            report(step, elbo[-1])
        with torch.no_grad():
            draws = [guide(sequences.lanes(slice(1)), 1.0) for _ in range(settings.num_samples)]
    return {name: np.stack([draw[name].numpy() for draw in draws]) for name in density.program.start}, np.array(elbo)


def nuts(
    density: Density, settings: NUTS, starts: Values, seed: int, report: Callable[[int, Mapping[str, float]], None]
) -> tuple[dict[str, Floats], dict[str, NDArray]]:
    """Draw with NUTS, one chain after the other; see `promptdyn.inference.loops.numpyro.nuts`."""
    num_warmup, num_samples = settings.num_warmup, settings.num_samples
    num_chains = len(next(iter(starts.values())))
    total = num_warmup + num_samples
    chains: list[dict[str, Floats]] = []
    energies = np.zeros((num_chains, num_samples))
    diverging = np.zeros((num_chains, num_samples), bool)
    for number in range(num_chains):
        with double(), seeded(seed + number):
            sampler = infer.NUTS(
                density.conditioned, target_accept_prob=settings.target_accept, max_tree_depth=settings.max_tree_depth
            )
            sampler.initial_params = {name: torch.tensor(value[number]) for name, value in starts.items()}

            def after(kernel: Any, _: Any, stage: str, draw: int, number: int = number) -> None:
                energy = float(kernel._potential_energy_last)
                if stage.startswith("Sample"):
                    energies[number, draw] = energy
                done = draw + (num_warmup if stage.startswith("Sample") else 0) + 1
                watch = {"log density": -energy, "diverged": len(kernel._divergences), "chain": number + 1}
                report((number * total + done) // num_chains, watch)

            chain = infer.MCMC(
                sampler, num_samples=num_samples, warmup_steps=num_warmup, disable_progbar=True, hook_fn=after
            )
            chain.run(density.sequences, 1.0)
        chains.append({name: draws.detach().numpy() for name, draws in chain.get_samples().items()})
        diverging[number, chain.diagnostics()["divergences"]["chain 0"]] = True
    draws = {name: np.stack([chain_draws[name] for chain_draws in chains]) for name in density.program.start}
    return draws, {"diverging": diverging, "lp": -energies}
