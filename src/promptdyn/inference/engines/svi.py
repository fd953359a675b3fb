"""Stochastic variational inference over mini-batches of prompts, with the automatic guides of NumPyro or Pyro."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError, check_choice
from promptdyn.history import DenseHistory
from promptdyn.inference.densities import Density
from promptdyn.inference.engines.base import Engine, Result, at_least
from promptdyn.kernels.sequences import Sequences
from promptdyn.progress import Report

__all__ = ["SVI", "Guide", "mini_batches"]

# Those of the same name in NumPyro and Pyro.
Guide = Literal[
    "AutoDelta", "AutoNormal", "AutoDiagonalNormal", "AutoLowRankMultivariateNormal", "AutoMultivariateNormal"
]
# Means over so many windows of steps are what is judged, and kept as the trace.
WINDOWS = 40
# A rise of so many nats per dimension makes no difference to a posterior.
TOLERANCE = 0.01


@dataclass(frozen=True)
class SVI(Engine):
    """Adam on the ELBO of a guide, then draws from the guide.

    The trace is the mean ELBO of each fortieth of the run. It has levelled out where the last quarter of those lies no
    higher than the quarter before, beyond twice the standard error and 0.01 nats per dimension of the sites.

    Attributes:
        guide: one of those of `Guide`; default "AutoNormal". "AutoDelta" finds a mode instead.
        num_steps: optimizer steps, at least 40; default 1500.
        learning_rate: of Adam, falling tenfold (exponentially) over the run; default 0.05.
        batch_size: prompts a step, about, each once per pass over the history; default 512, or all where there are
            fewer.
        num_samples: posterior draws to return; default 500.

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
        at_least(WINDOWS, self, "num_steps")
        at_least(1, self, "batch_size", "num_samples")
        if not 0.0 < self.learning_rate < np.inf:
            raise InputError(f"svi: learning_rate={self.learning_rate} must be finite and above 0")

    def run(self, density: Density, seed: int, report: Report) -> Result:
        """Fit; `seed` is of mini-batches, guide and draws."""

        def checked(step: int, value: float) -> None:
            if not np.isfinite(value):
                raise InputError(f"svi: the ELBO is {value} at step {step}: lower learning_rate={self.learning_rate}")
            report(step, self.num_steps, {"ELBO": value})

        drawn, elbo = self.loop(density)(density, self, seed, checked)
        windows = np.array([part.mean() for part in np.array_split(elbo, WINDOWS)])
        before, last = windows[-WINDOWS // 2 : -WINDOWS // 4], windows[-WINDOWS // 4 :]
        rise = float(last.mean() - before.mean())
        error = float(np.sqrt((before.var() + last.var()) / len(last)))
        dimensions = sum(np.size(value) for value in density.program.start.values())
        converged = rise <= 2.0 * error + TOLERANCE * dimensions
        what = f"the ELBO rose by {rise:.2g} ± {error:.2g} nats in the last quarter of {self.num_steps} steps"
        return Result(
            {name: value.mean(axis=0) for name, value in drawn.items()},
            windows,
            converged,
            f"converged: {what}" if converged else f"not converged: {what}; raise num_steps",
            {"elbo": float(last.mean()), "elbo_rise": rise, "elbo_rise_error": error},
            draws={name: value[None] for name, value in drawn.items()},
        )


def mini_batches(
    dense: DenseHistory, places: NDArray[np.integer] | None, batch_size: int, seed: int
) -> tuple[Sequences, int, float]:
    """Lanes of prompts in random order, lanes for a batch of about `batch_size` prompts, and all lanes over these."""
    num_prompts = dense.symbols.shape[1]
    order = np.random.default_rng(seed).permutation(num_prompts)
    # As short as the prompt seen most, so that a batch is many lanes side by side.
    sequences = Sequences.packed(dense.symbols, dense.exposure, places, num_lanes=num_prompts, order=order)
    num_lanes = min(max(round(sequences.num_lanes * batch_size / num_prompts), 1), sequences.num_lanes)
    return sequences, num_lanes, sequences.num_lanes / num_lanes
