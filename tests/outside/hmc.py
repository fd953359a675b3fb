"""An engine with a loop of its own for one backend: NumPyro's HMC, with steps of a fixed number."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from promptdyn.inference import Engine, Result
from promptdyn.inference.convergence import judge, rhat_and_ess


def in_numpyro(density, settings, seed):
    import jax
    from numpyro.infer import HMC, MCMC, init_to_value

    start = init_to_value(values=density.program.start)
    kernel = HMC(density.conditioned, trajectory_length=settings.trajectory_length, init_strategy=start)
    mcmc = MCMC(kernel, num_warmup=settings.num_warmup, num_samples=settings.num_samples, progress_bar=False)
    with jax.enable_x64(True):
        mcmc.run(jax.random.key(seed), density.sequences, extra_fields=["diverging"])
        draws = {site: np.asarray(mcmc.get_samples()[site])[None] for site in density.program.start}
        return draws, int(mcmc.get_extra_fields()["diverging"].sum())


@dataclass(frozen=True)
class FixedHMC(Engine):
    """Draws from the posterior by HMC."""

    num_warmup: int = 200
    num_samples: int = 1000
    trajectory_length: float = 1.0

    name = "hmc"
    loops: ClassVar = {"numpyro": in_numpyro}

    def run(self, density, seed, report):
        draws, divergences = self.loop(density)(density, self, seed)
        params = {site: values.mean(axis=(0, 1)) for site, values in draws.items()}
        return Result(params, np.zeros(0), *judge(*rhat_and_ess(draws), divergences, num_chains=1), draws=draws)
