"""The No-U-Turn Sampler of NumPyro or Pyro on a program, the latent paths summed out exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from promptdyn.errors import InputError
from promptdyn.inference.climb import climb
from promptdyn.inference.convergence import judged, rhat_and_ess
from promptdyn.inference.densities import Density
from promptdyn.inference.engines.base import Engine, Result, at_least
from promptdyn.progress import Report

__all__ = ["NUTS"]

# Chains start near a mode, with this much noise on the scale of real numbers: hidden Markov models have many; chains
# started anywhere find different ones. The climb is short, since the mode of a hierarchical model may be a spike.
JITTER = 0.1
CLIMB = 50


@dataclass(frozen=True)
class NUTS(Engine):
    """Draws from the posterior of the sites.

    The trace is the mean over chains of the log density at each draw.

    Attributes:
        num_warmup: adaptation draws per chain, thrown away; default 500.
        num_samples: draws kept per chain; default 500.
        num_chains: default 2. NumPyro runs one per core side by side, Pyro one after the other.
        target_accept: mean acceptance that the step size is adapted to; default 0.9.
        max_tree_depth: at most 2^depth leapfrog steps a draw; default 10.

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
        at_least(1, self, "num_warmup", "num_chains", "max_tree_depth")
        at_least(8, self, "num_samples")
        if not 0.0 < self.target_accept < 1.0:
            raise InputError(f"nuts: target_accept={self.target_accept} is outside (0, 1)")

    def run(self, density: Density, seed: int, report: Report) -> Result:
        """Fit; `seed` is of starts and draws."""
        mode = climb(density.joint, density.unconstrain(density.program.start), CLIMB).values
        rng = np.random.default_rng(seed)
        starts = {
            name: value + JITTER * rng.standard_normal((self.num_chains, *value.shape)) for name, value in mode.items()
        }
        total = self.num_warmup + self.num_samples
        draws, stats = self.loop(density)(density, self, starts, seed, lambda done, watch: report(done, total, watch))
        converged, verdict, diagnostics = judged(*rhat_and_ess(draws), int(stats["diverging"].sum()), self.num_chains)
        return Result(
            {name: value.mean(axis=(0, 1)) for name, value in draws.items()},
            stats["lp"].mean(axis=0),
            converged,
            verdict,
            diagnostics,
            draws=draws,
            sample_stats=stats,
        )
