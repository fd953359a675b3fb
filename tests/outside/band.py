"""Scores from outside: a function, and a class with settings."""

from dataclasses import dataclass

import numpy as np


def uncertain(online, num_rollouts, rng=None):
    """The entropy of the forecast of none, some, all."""
    chances = online.outcome(num_rollouts)
    return -(chances * np.log(np.maximum(chances, 1e-300))).sum(axis=1)


@dataclass(frozen=True)
class Band:
    """1 where the forecast success rate lies between two bounds, falling off outside."""

    low: float = 0.2
    high: float = 0.8

    name = "band"

    def __call__(self, online, num_rollouts, rng=None):
        rate = online.success_rate(rng)
        return 1.0 - np.maximum(self.low - rate, 0.0) - np.maximum(rate - self.high, 0.0)
