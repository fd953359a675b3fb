"""Which prompts to take: a policy turns scores into priorities, and the highest priorities are taken.

Of equal priorities those of the prompts seen least are taken, and of these some at random, never by position in the
pool.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import mul
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError
from promptdyn.online import OnlineFilter
from promptdyn.registry import Registry
from promptdyn.selection.scores import Score

__all__ = [
    "POLICIES",
    "Gumbel",
    "Policy",
    "Proportional",
    "Thompson",
    "Top",
    "TopEntropy",
    "Uniform",
    "entropy",
    "take",
]

# Up to this power, if whole, a product is faster.
MOST_FACTORS = 8
# Odds of what scores 0: the least that can be divided by.
LEAST_ODDS = 1e-300


@runtime_checkable
class Policy(Protocol):
    """Gives each prompt a priority for the next step."""

    name: str

    def priorities(
        self, online: OnlineFilter, score: Score, num_rollouts: int, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """(prompt,) priorities, higher first."""


@dataclass(frozen=True)
class Top:
    """Highest expected score (DPS)."""

    name = "top"

    def priorities(
        self, online: OnlineFilter, score: Score, num_rollouts: int, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        return score(online, num_rollouts, None)


@dataclass(frozen=True)
class Thompson:
    """Highest score at one draw from each prompt's posterior (MoPPS): uncertain prompts get their turn."""

    name = "thompson"

    def priorities(
        self, online: OnlineFilter, score: Score, num_rollouts: int, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        return score(online, num_rollouts, rng)


@dataclass(frozen=True)
class Gumbel:
    """Draw without replacement with odds exp(score / temperature), by the Gumbel top-k trick (arXiv 1903.06059).

    Attributes:
        temperature: in units of the score, above 0; towards 0 this is `Top`. Default 0.1.
    """

    temperature: float = 0.1

    name = "gumbel"

    def __post_init__(self) -> None:
        if not 0 < self.temperature < np.inf:
            raise InputError(f"policy 'gumbel': temperature={self.temperature} must be finite and above 0")

    def priorities(
        self, online: OnlineFilter, score: Score, num_rollouts: int, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        return score(online, num_rollouts, None) / self.temperature + rng.gumbel(size=online.num_prompts)


@dataclass(frozen=True)
class Proportional:
    """Draw without replacement with odds score^power, and now and then anything: the better gets more, all get some.

    The draw is an exponential race, equal to Gumbel top-k on power * log(score) (Efraimidis and Spirakis 2006). It
    needs scores that are not negative, such as "informative"; prompts that score 0 come last.

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
            raise InputError(f"policy 'proportional': power={self.power} must be finite and above 0")
        if not 0 <= self.uniform <= 1:
            raise InputError(f"policy 'proportional': uniform={self.uniform} is outside [0, 1]")

    def priorities(
        self, online: OnlineFilter, score: Score, num_rollouts: int, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        worth = score(online, num_rollouts, None)
        if worth.min() < 0:
            raise InputError(
                f"policy 'proportional' needs scores of at least 0, and score {getattr(score, '__name__', score)} gave "
                f"{worth.min():.3g}: use 'informative' or 'reward_variance', or policy 'gumbel'"
            )
        whole = self.power <= MOST_FACTORS and self.power == int(self.power)
        odds = reduce(mul, [worth] * int(self.power)) if whole else worth**self.power
        if self.uniform:
            odds = (1.0 - self.uniform) * odds + self.uniform * odds.mean()
        race = rng.standard_exponential(worth.shape)
        race /= np.maximum(odds, LEAST_ODDS)
        return np.negative(race, out=race)


@dataclass(frozen=True)
class TopEntropy:
    """Highest expected score plus a bonus for uncertainty: `weight` times the entropy of the outcome forecast.

    With `DPS` this is the paper's optional entropy term. Attributes:
        weight: score units per nat, finite; default 0.1. A negative weight prefers certainty.
    """

    weight: float = 0.1

    name = "top_entropy"

    def __post_init__(self) -> None:
        if not np.isfinite(self.weight):
            raise InputError(f"policy 'top_entropy': weight={self.weight} is not finite")

    def priorities(
        self, online: OnlineFilter, score: Score, num_rollouts: int, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        return score(online, num_rollouts, None) + self.weight * entropy(online.outcome(num_rollouts))


@dataclass(frozen=True)
class Uniform:
    """Every prompt alike, in shuffled passes through the pool, as trainers do without a selector: the baseline."""

    name = "uniform"

    def priorities(
        self, online: OnlineFilter, score: Score, num_rollouts: int, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        return np.zeros(online.num_prompts)


POLICIES = Registry("policy", Proportional, Top, Thompson, Gumbel, TopEntropy, Uniform)


def entropy(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    """(prompt,) entropy in nats of (prompt, outcome) probabilities."""
    return -np.sum(probability * np.log(np.maximum(probability, 1e-300)), axis=1)


def take(
    priorities: NDArray[np.float64],
    k: int,
    excluded: NDArray[np.intp],
    rng: np.random.Generator,
    times_seen: NDArray[np.integer] | None = None,
) -> NDArray[np.intp]:
    """(k,) rows with the highest priorities, highest first, ties in random order.

    Args:
        priorities: (prompt,).
        k: how many; at most the prompts that are not excluded.
        excluded: rows that are not to be taken.
        rng: breaks ties.
        times_seen: (prompt,) where priorities tie at the last to be taken, rows seen least are; default: any are.
    """
    allowed = np.delete(np.arange(priorities.size), excluded) if excluded.size else None
    ranked = priorities if allowed is None else priorities[allowed]
    threshold = np.partition(ranked, ranked.size - k)[ranked.size - k]
    above = np.flatnonzero(ranked > threshold)
    tied = np.flatnonzero(ranked == threshold)
    places = k - above.size
    if times_seen is not None and places < tied.size:
        times = (times_seen if allowed is None else times_seen[allowed])[tied]
        last = np.partition(times, places - 1)[places - 1]
        above = np.concatenate([above, tied[times < last]])
        tied, places = tied[times == last], k - above.size
    rows = np.concatenate([above, rng.choice(tied, places, replace=False)])
    # A stable sort of shuffled rows: equal priorities keep a random order.
    rows = rng.permutation(rows)
    rows = rows[np.argsort(-ranked[rows], kind="stable")]
    return rows if allowed is None else allowed[rows]
