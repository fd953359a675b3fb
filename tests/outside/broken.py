"""An emission from outside, and a model that has it: now and then a whole group fails, whatever its prompt's state."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from promptdyn.models import Chain, emissions


@dataclass(frozen=True)
class Breaking:
    """No rollout of a group succeeds with chance `broken`, as when its sandbox is down; else they are binomial."""

    success_rates: Any
    broken: Any

    def log_prob(self, num_successes, num_rollouts, xp=np):
        whole = emissions.Binomial(self.success_rates).log_prob(num_successes, num_rollouts, xp)
        whole = whole + xp.log1p(-self.broken)
        return xp.where(xp.asarray(num_successes == 0), xp.logaddexp(whole, xp.log(self.broken)), whole)


@dataclass(frozen=True)
class Fragile:
    """Two states, hard and easy, between which a step may move a prompt."""

    name = "fragile"

    def program(self, ppl, pool):
        dist, xp = ppl.dist, ppl.xp
        broken = ppl.sample("broken", dist.Beta(2.0, 8.0))
        with ppl.plate("state", 2):
            move = ppl.sample("move", dist.Beta(1.0, 9.0))
        transition = xp.stack([xp.stack([1.0 - move[0], move[0]]), xp.stack([move[1], 1.0 - move[1]])])
        initial = xp.asarray(np.full((1, 2), 0.5))
        return Chain(initial, transition[None, None], Breaking(xp.asarray(np.array([0.2, 0.9])), broken))
