"""The one table of models that model x backend x engine tests run over, models of strangers, and small histories."""

from dataclasses import dataclass

import numpy as np
import pytest

from promptdyn.history import RewardHistory
from promptdyn.inference.densities import Density, load_density
from promptdyn.models import BetaState, Chain, DiscreteHMM, DynamicsLike, HierarchicalHMM, emissions
from promptdyn.models.base import cluster_of
from promptdyn.ppl import Backend


@dataclass(frozen=True)
class TwoState:
    """A program of one's own: a hardness per cluster, learned or not, told apart by two success rates."""

    cluster: str | None = None

    name = "two_state"

    def program(self, ppl, pool):
        dist, xp = ppl.dist, ppl.xp
        rate = ppl.sample("rate", dist.Beta(2.0, 2.0), init=0.3)
        with ppl.plate("cluster", pool.num_clusters):
            learn = ppl.sample("learn", dist.Beta(1.0, 9.0))
            known = ppl.sample("known", dist.Beta(2.0, 4.0))
        stay = xp.stack([1.0 - learn, learn], axis=-1)
        forget = xp.stack([0.02 + 0.0 * learn, 0.98 + 0.0 * learn], axis=-1)
        transition = xp.stack([stay, forget], axis=-2)[None]
        initial = xp.stack([1.0 - known, known], axis=-1)
        return Chain(initial, transition, emissions.Binomial(xp.stack([0.1 * rate, 0.5 + 0.5 * rate])))


@dataclass(frozen=True)
class OwnSpeed:
    """A chain per prompt: each has a speed of its own."""

    name = "own_speed"

    def program(self, ppl, pool):
        xp = ppl.xp
        with ppl.plate("prompt", pool.num_prompts):
            speed = ppl.sample("speed", ppl.dist.Normal(-2.0, 1.0))
        move = 1.0 / (1.0 + xp.exp(-speed))
        forward = xp.stack([1.0 - move, move], axis=-1)
        back = xp.stack([0.1 * move, 1.0 - 0.1 * move], axis=-1)
        initial = xp.asarray(np.array([[0.7, 0.3]]))
        emission = emissions.Binomial(xp.asarray(np.array([0.1, 0.8])))
        return Chain(initial, xp.stack([forward, back], axis=-2)[None], emission, axis="prompt")


@dataclass(frozen=True)
class OneRate:
    """One state, whose success rate has a conjugate prior: the posterior is Beta(2 + successes, 3 + failures)."""

    name = "one_rate"

    def program(self, ppl, pool):
        rate = ppl.sample("rate", ppl.dist.Beta(2.0, 3.0))
        one = ppl.xp.asarray(np.ones((1, 1)))
        return Chain(one, one[None, None], emissions.Binomial(rate[None]))


CONFIGS: dict[str, DynamicsLike] = {
    "hmm": DiscreteHMM(num_states=3),
    "hmm without exposure": DiscreteHMM(num_states=3, num_exposures=1),
    "hmm with clusters": DiscreteHMM(num_states=2, cluster="family", num_exposures=2),
    "beta-binomial hmm": DiscreteHMM(num_states=3, emission="beta_binomial", cluster=("family",)),
    "ternary hmm": DiscreteHMM(num_states=3, emission="ternary", noise=0.1),
    "hierarchical hmm": HierarchicalHMM(num_states=2, cluster="family", num_exposures=2),
    "latent kinds": HierarchicalHMM(num_states=2, num_kinds=2, cluster="family", num_exposures=1),
    "beta": BetaState(num_states=5, num_speeds=1, cluster=None),
    "beta with speeds and clusters": BetaState(num_states=4, cluster="family"),
    "own program": TwoState(),
    "own program with clusters": TwoState(cluster="family"),
}


# Plainer cases of others in the table.
PLAINER = ("hmm without exposure", "beta", "own program")


def in_brief(models, names=None):
    """Models to parametrize by: the suite runs these names, by default all but the plainer; `long` runs all."""
    kept = [name for name in models if name not in PLAINER] if names is None else names
    return [
        pytest.param(model, id=name, marks=[] if name in kept else pytest.mark.long) for name, model in models.items()
    ]


def small_history(seed: int = 0, num_prompts: int = 5, num_steps: int = 4) -> RewardHistory:
    """Groups of 1, 4 and 8 rollouts in about two thirds of the cells, some not trained on, two families."""
    rng = np.random.default_rng(seed)
    step, prompt = np.nonzero(rng.random((num_steps, num_prompts)) < 0.65)
    step, prompt = np.append(step, np.full(num_prompts, num_steps)), np.append(prompt, np.arange(num_prompts))
    n = rng.choice([1, 4, 8], len(step))
    return RewardHistory.from_columns(
        step,
        [f"p{i}" for i in prompt],
        num_successes=rng.binomial(n, rng.beta(0.5, 0.5, len(n))),
        num_rollouts=n,
        trained=rng.random(len(step)) < 0.7,
        columns={"family": [f"c{i % 2}" for i in prompt]},
    )


HISTORY = small_history(1, num_prompts=30, num_steps=20)


def density(model: DynamicsLike, history: RewardHistory, backend: Backend) -> Density:
    return load_density(backend)(model, history.dense(cluster_of(model)))
