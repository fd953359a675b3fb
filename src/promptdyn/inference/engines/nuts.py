"""The No-U-Turn Sampler of NumPyro or Pyro on a program whose latent paths are summed out exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from promptdyn.errors import InputError
from promptdyn.inference.climb import climb
from promptdyn.inference.convergence import judge, rhat_and_ess
from promptdyn.inference.densities import Density
from promptdyn.inference.engines.base import Engine, Result, check_at_least
from promptdyn.progress import Report

__all__ = ["NUTS"]

# Chains start near one mode, with noise of this size on the unconstrained scale: hidden Markov models have many modes,
# and chains with other starts would find different ones. The climb is short, since a hierarchical model's mode may be a
# spike.
JITTER = 0.1
CLIMB = 50


@dataclass(frozen=True)
class NUTS(Engine):
    """Draws from the posterior of the sites with the No-U-Turn Sampler.

    The trace is the mean over chains of the log density at each draw.

    Attributes:
        num_warmup: number of warm-up draws per chain, which are discarded; default 500.
        num_samples: number of draws kept per chain, at least 8; default 500.
        num_chains: number of chains; default 2. NumPyro runs one per core side by side, Pyro one after the other.
        target_accept: mean acceptance probability to which the step size adapts; default 0.9.
        max_tree_depth: a draw takes at most 2^depth leapfrog steps; default 10.

    Raises:
        InputError: a setting is out of range.
    """

    num_warmup: int = 500
    num_samples: int = 500
    num_chains: int = 2
    target_accept: float = 0.9
    max_tree_depth: int = 10

    name = "nuts"
    loops: ClassVar = {
        "numpyro": "promptdyn.inference.loops.numpyro:nuts",
        "pyro": "promptdyn.inference.loops.pyro:nuts",
    }

    def __post_init__(self) -> None:
        check_at_least(1, self, "num_warmup", "num_chains", "max_tree_depth")
        check_at_least(8, self, "num_samples")
        if not 0.0 < self.target_accept < 1.0:
            raise InputError(f"nuts: target_accept={self.target_accept} is outside (0, 1)")

    def run(self, density: Density, seed: int, report: Report) -> Result:
        """See `Engine.run`. `seed` is used for starts and draws."""
        mode = climb(density.joint, density.unconstrain(density.program.start), CLIMB).values
        rng = np.random.default_rng(seed)
        starts = {
            name: value + JITTER * rng.standard_normal((self.num_chains, *value.shape)) for name, value in mode.items()
        }
        total = self.num_warmup + self.num_samples
        draws, stats = self.loop(density)(density, self, starts, seed, lambda done, watch: report(done, total, watch))
        converged, verdict, diagnostics = judge(*rhat_and_ess(draws), int(stats["diverging"].sum()), self.num_chains)
        return Result(
            {name: value.mean(axis=(0, 1)) for name, value in draws.items()},
            stats["lp"].mean(axis=0),
            converged,
            verdict,
            diagnostics,
            draws=draws,
            sample_stats=stats,
        )
