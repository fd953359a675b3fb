"""Strategies that go by the score of each prompt's forecast: its highest, or a draw with odds that grow with it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import mul

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError
from promptdyn.registry import text_of
from promptdyn.selection.scores import entropy
from promptdyn.selection.strategies.base import Outlook, Stateless, Strategy, draw

__all__ = ["Gumbel", "Proportional", "Thompson", "Top", "TopEntropy"]

# Up to this power, if whole, a product is faster.
MOST_FACTORS = 8


@dataclass(frozen=True)
class Top(Strategy[Stateless]):
    """Highest expected score (DPS)."""

    name = "top"

    def priorities(self, state: Stateless, outlook: Outlook, rng: np.random.Generator) -> NDArray[np.float64]:
        return outlook.worth()


@dataclass(frozen=True)
class Thompson(Strategy[Stateless]):
    """Highest score at one draw from each prompt's posterior (MoPPS): uncertain prompts get their turn."""

    name = "thompson"

    def priorities(self, state: Stateless, outlook: Outlook, rng: np.random.Generator) -> NDArray[np.float64]:
        return outlook.worth(rng)


@dataclass(frozen=True)
class Gumbel(Strategy[Stateless]):
    """Draw without replacement with odds exp(score / temperature), by the Gumbel top-k trick (arXiv 1903.06059).

    Attributes:
        temperature: in units of the score, above 0; towards 0 this is `Top`. Default 0.1.
    """

    temperature: float = 0.1

    name = "gumbel"

    def __post_init__(self) -> None:
        if not 0 < self.temperature < np.inf:
            raise InputError(f"strategy 'gumbel': temperature={self.temperature} must be finite and above 0")

    def priorities(self, state: Stateless, outlook: Outlook, rng: np.random.Generator) -> NDArray[np.float64]:
        return outlook.worth() / self.temperature + rng.gumbel(size=outlook.num_prompts)


@dataclass(frozen=True)
class Proportional(Strategy[Stateless]):
    """Draw without replacement with odds score^power, and now and then anything: the better gets more, all get some.

    It needs scores that are not negative, such as "informative"; prompts that score 0 come last.

    Attributes:
        power: finite and above 0; 1 draws in proportion to the score. Default 3.
        uniform: share of the draws that take any prompt alike, from 0 to 1; default 1/8. What is thought solved, or out
            of reach, is looked at again, and repaired where the policy forgets it.
    """

    power: float = 3.0
    uniform: float = 0.125

    name = "proportional"

    def __post_init__(self) -> None:
        if not 0 < self.power < np.inf:
            raise InputError(f"strategy 'proportional': power={self.power} must be finite and above 0")
        if not 0 <= self.uniform <= 1:
            raise InputError(f"strategy 'proportional': uniform={self.uniform} is outside [0, 1]")

    def priorities(self, state: Stateless, outlook: Outlook, rng: np.random.Generator) -> NDArray[np.float64]:
        worth = outlook.worth()
        if worth.min() < 0:
            raise InputError(
                f"strategy 'proportional' needs scores of at least 0, and score "
                f"{text_of(outlook.score)} gave {worth.min():.3g}: use 'informative' or "
                "'reward_variance', or strategy 'gumbel'"
            )
        whole = self.power <= MOST_FACTORS and self.power == int(self.power)
        odds = reduce(mul, [worth] * int(self.power)) if whole else worth**self.power
        if self.uniform:
            odds = (1.0 - self.uniform) * odds + self.uniform * odds.mean()
        return draw(odds, rng)


@dataclass(frozen=True)
class TopEntropy(Strategy[Stateless]):
    """Highest expected score plus a bonus for uncertainty: `weight` times the entropy of the outcome forecast.

    With `DPS` this is the paper's optional entropy term. Attributes:
        weight: score units per nat, finite; default 0.1. A negative weight prefers certainty.
    """

    weight: float = 0.1

    name = "top_entropy"

    def __post_init__(self) -> None:
        if not np.isfinite(self.weight):
            raise InputError(f"strategy 'top_entropy': weight={self.weight} is not finite")

    def priorities(self, state: Stateless, outlook: Outlook, rng: np.random.Generator) -> NDArray[np.float64]:
        return outlook.worth() + self.weight * entropy(outlook.outcome())
