"""Stochastic variational inference over mini-batches of prompts, with the automatic guides of NumPyro or Pyro."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError, check_choice
from promptdyn.history import DenseHistory
from promptdyn.inference.densities import Density
from promptdyn.inference.engines.base import Engine, Result, check_at_least
from promptdyn.kernels.sequences import Sequences
from promptdyn.progress import Report

__all__ = ["SVI", "Guide", "mini_batches"]

# Automatic guides with the same name in NumPyro and Pyro.
Guide = Literal[
    "AutoDelta", "AutoNormal", "AutoDiagonalNormal", "AutoLowRankMultivariateNormal", "AutoMultivariateNormal"
]
# Convergence is judged by, and the trace holds, means over so many windows of steps.
WINDOWS = 40
# A rise of so many nats per dimension does not matter to a posterior.
TOLERANCE = 0.01


@dataclass(frozen=True)
class SVI(Engine):
    """Climbs the ELBO of a guide with Adam, then draws from the guide.

    The trace is the mean ELBO of each fortieth of the run. SVI has converged if the mean of the trace's last quarter is
    above that of the quarter before by at most twice the standard error plus 0.01 nats per dimension of the sites.

    Attributes:
        guide: one of `Guide`; default "AutoNormal". "AutoDelta" finds a mode instead.
        num_steps: number of optimizer steps, at least 40; default 1500.
        learning_rate: Adam's initial learning rate, which falls tenfold (exponentially) over the run; default 0.05.
        batch_size: approximate number of prompts per step; default 512, or all prompts if there are fewer. Each prompt
            comes once per pass over the history.
        num_samples: number of draws from the guide to return; default 500.

    Raises:
        InputError: a setting is out of range.
    """

    guide: Guide = "AutoNormal"
    num_steps: int = 1500
    learning_rate: float = 0.05
    batch_size: int = 512
    num_samples: int = 500

    name = "svi"
    loops: ClassVar = {
        "numpyro": "promptdyn.inference.loops.numpyro:svi",
        "pyro": "promptdyn.inference.loops.pyro:svi",
    }

    def __post_init__(self) -> None:
        check_choice("svi: guide", self.guide, get_args(Guide))
        check_at_least(WINDOWS, self, "num_steps")
        check_at_least(1, self, "batch_size", "num_samples")
        if not 0.0 < self.learning_rate < np.inf:
            raise InputError(f"svi: learning_rate={self.learning_rate} must be finite and above 0")

    def run(self, density: Density, seed: int, report: Report) -> Result:
        """See `Engine.run`. `seed` is used for mini-batches, guide and draws."""

        def checked(step: int, value: float) -> None:
            if not np.isfinite(value):
                raise InputError(f"svi: the ELBO is {value} at step {step}: lower learning_rate={self.learning_rate}")
            report(step, self.num_steps, {"ELBO": value})

        draws_by_site, elbo = self.loop(density)(density, self, seed, checked)
        windows = np.array([part.mean() for part in np.array_split(elbo, WINDOWS)])
        before, last = windows[-WINDOWS // 2 : -WINDOWS // 4], windows[-WINDOWS // 4 :]
        rise = float(last.mean() - before.mean())
        error = float(np.sqrt((before.var() + last.var()) / len(last)))
        dimensions = sum(np.size(value) for value in density.program.start.values())
        converged = rise <= 2.0 * error + TOLERANCE * dimensions
        summary = f"the ELBO rose by {rise:.2g} ± {error:.2g} nats in the last quarter of {self.num_steps} steps"
        return Result(
            {name: value.mean(axis=0) for name, value in draws_by_site.items()},
            windows,
            converged,
            f"converged: {summary}" if converged else f"not converged: {summary}; raise num_steps",
            {"elbo": float(last.mean()), "elbo_rise": rise, "elbo_rise_error": error},
            draws={name: value[None] for name, value in draws_by_site.items()},
        )


def mini_batches(
    dense: DenseHistory, cluster_index: NDArray[np.integer] | None, batch_size: int, seed: int
) -> tuple[Sequences, int, float]:
    """Lay out prompts in random order, for mini-batches of about `batch_size` prompts.

    Returns:
        The prompts' lanes, the number of lanes per batch, and the number of batches in a pass.
    """
    num_prompts = dense.symbols.shape[1]
    order = np.random.default_rng(seed).permutation(num_prompts)
    # Lanes as short as the prompt seen most allows, so that a batch has many lanes side by side.
    sequences = Sequences.packed(dense.symbols, dense.exposure, cluster_index, num_lanes=num_prompts, order=order)
    num_lanes = min(max(round(sequences.num_lanes * batch_size / num_prompts), 1), sequences.num_lanes)
    return sequences, num_lanes, sequences.num_lanes / num_lanes
