"""The baseline without selection: shuffled passes through the pool."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from promptdyn.selection.strategies.base import Outlook, Stateless, Strategy

__all__ = ["Uniform"]


@dataclass(frozen=True)
class Uniform(Strategy[Stateless]):
    """Take all prompts equally often, in shuffled passes through the pool, as trainers without a selector do."""

    name = "uniform"
    rule = "uniformly, in shuffled passes through the pool"

    def priorities(self, state: Stateless, outlook: Outlook, rng: np.random.Generator) -> NDArray[np.float64]:
        return np.zeros(outlook.num_prompts)
