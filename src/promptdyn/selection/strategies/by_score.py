"""Strategies that use the prompts' scores: take the highest, or draw with odds that grow with the score."""

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

# A whole power up to this one is computed as a product, which is faster.
MOST_FACTORS = 8


@dataclass(frozen=True)
class Top(Strategy[Stateless]):
    """Take the prompts with the highest expected scores (DPS)."""

    name = "top"

    def priorities(self, state: Stateless, outlook: Outlook, rng: np.random.Generator) -> NDArray[np.float64]:
        return outlook.scores()


@dataclass(frozen=True)
class Thompson(Strategy[Stateless]):
    """Take the highest scores at one draw from each prompt's posterior (MoPPS): uncertain prompts get a turn."""

    name = "thompson"

    def priorities(self, state: Stateless, outlook: Outlook, rng: np.random.Generator) -> NDArray[np.float64]:
        return outlook.scores(rng)


@dataclass(frozen=True)
class Gumbel(Strategy[Stateless]):
    """Draw without replacement with odds exp(score / temperature), by the Gumbel top-k trick (arXiv 1903.06059).

    Attributes:
        temperature: in units of the score, above 0; default 0.1. As it approaches 0, this becomes `Top`.
    """

    temperature: float = 0.1

    name = "gumbel"

    def __post_init__(self) -> None:
        if not 0 < self.temperature < np.inf:
            raise InputError(f"strategy 'gumbel': temperature={self.temperature} must be finite and above 0")

    def priorities(self, state: Stateless, outlook: Outlook, rng: np.random.Generator) -> NDArray[np.float64]:
        return outlook.scores() / self.temperature + rng.gumbel(size=outlook.num_prompts)


@dataclass(frozen=True)
class Proportional(Strategy[Stateless]):
    """Draw without replacement with odds score^power, and a share of the draws uniformly.

    Scores must not be negative ("informative" is not); prompts with score 0 come last.

    Scores are drawn from their posterior, so that odds are E[score^power] on average. Odds E[score]^power would take
    ignorance for knowledge: the third power of a rate of 1/8 is small, whether it was seen in eight groups or in eight
    hundred, and prompts that were hardly tried would not be tried again.

    Attributes:
        power: finite and above 0; default 3. With 1, odds are proportional to the score.
        uniform: share of draws in which all prompts have equal odds, from 0 to 1; default 1/8. So prompts that seem
            solved, or out of reach, are looked at again, and taught again if the policy forgets them.
        drawn: whether scores are drawn from their posterior; if not, they are the posterior's means. Default True.
    """

    power: float = 3.0
    uniform: float = 0.125
    drawn: bool = True

    name = "proportional"

    def __post_init__(self) -> None:
        if not 0 < self.power < np.inf:
            raise InputError(f"strategy 'proportional': power={self.power} must be finite and above 0")
        if not 0 <= self.uniform <= 1:
            raise InputError(f"strategy 'proportional': uniform={self.uniform} is outside [0, 1]")

    def priorities(self, state: Stateless, outlook: Outlook, rng: np.random.Generator) -> NDArray[np.float64]:
        scores = outlook.scores(rng if self.drawn else None)
        if scores.min() < 0:
            raise InputError(
                f"strategy 'proportional' needs scores of at least 0, and score "
                f"{text_of(outlook.score)} gave {scores.min():.3g}: use 'informative' or "
                "'reward_variance', or strategy 'gumbel'"
            )
        whole = self.power <= MOST_FACTORS and self.power == int(self.power)
        odds = reduce(mul, [scores] * int(self.power)) if whole else scores**self.power
        if self.uniform:
            odds = (1.0 - self.uniform) * odds + self.uniform * odds.mean()
        return draw(odds, rng)


@dataclass(frozen=True)
class TopEntropy(Strategy[Stateless]):
    """Take the highest expected scores plus `weight` times the entropy of the forecast outcome.

    With `DPS` this is the paper's optional entropy term.

    Attributes:
        weight: finite, in units of the score per nat; default 0.1. A negative weight prefers certain forecasts.
    """

    weight: float = 0.1

    name = "top_entropy"

    def __post_init__(self) -> None:
        if not np.isfinite(self.weight):
            raise InputError(f"strategy 'top_entropy': weight={self.weight} is not finite")

    def priorities(self, state: Stateless, outlook: Outlook, rng: np.random.Generator) -> NDArray[np.float64]:
        return outlook.scores() + self.weight * entropy(outlook.outcome())
