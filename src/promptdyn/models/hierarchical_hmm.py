"""A hidden Markov model whose clusters of prompts learn from one another, or whose kinds of prompt are latent.

States and emission are those of `DiscreteHMM`. A row of probabilities of cluster c is the pool's row, tilted by offsets
of its own,

    row_c = softmax(log row + scale * offset_c)        offset_c ~ Normal(0, 1)        scale ~ HalfNormal

so a cluster with little data stays near the pool, and how far clusters may go is learned: scale 0 is one set for all.
It is the non-centred form, in which NUTS moves freely. With `num_kinds` above 1 transitions differ between latent kinds
instead, a mixture of chains: a prompt is of one kind for good, its kind is summed out with its path, and clusters tell
how probable kinds and first states are.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Literal

import numpy as np

from promptdyn.models import emissions
from promptdyn.models.base import PPL, Array, Chain, Dynamics, Floats, Params, Pool, Statistics, check_whole
from promptdyn.models.discrete_hmm import check_rows, ordered_rates, sticky_walk

__all__ = ["HierarchicalHMM"]

# Prior scales of how far rows of clusters go: of transitions, and of first states, which differ more.
SCALE, SCALE_INITIAL = 0.5, 1.0
# What a probability that the pool has given up keeps, and the largest tilt.
FLOOR, LARGEST = 1e-9, 100.0
# Scale at which offsets no longer matter.
SMALLEST = 1e-6
# Rounds of each M-step, and Newton steps in each, no longer than so.
ROUNDS, NEWTON_STEPS, LONGEST = 5, 3, 1.0


@dataclass(frozen=True)
class HierarchicalHMM(Dynamics):
    """Hidden Markov model with partial pooling over clusters or latent kinds of prompt.

    Sites: the pool's `pool_initial` (kind x state,) and `pool_transition` (exposure state state); the clusters'
    `offset_initial` (cluster, kind x state) and `offset` (exposure cluster|kind state state), their scales
    `scale_initial` () and `scale` (); and `gaps` (state + 1,) between 0, the success rates and 1.

    Its chain has `num_kinds * num_states` states, kind by kind. EM's M-step is empirical Bayes: offsets at their mode,
    and scales and the pool's rows as they make the marginal likelihood large, with the offsets integrated out by
    Laplace's method. (At the mode of all sites at once, which "map" finds, scales are much too large.) Its log joint
    need not rise. Where many steps are unobserved it takes expected counts for more than they tell, and scales come out
    somewhat small.

    Attributes:
        num_states: states of a prompt, at least 2; default 12.
        cluster: column(s) of the history whose levels differ. Default "auto": all label columns of the history,
            crossed; None: one set for the whole pool.
        num_kinds: latent kinds of prompt whose transitions differ; default 1, none: clusters' differ. The start of a
            fit has them move at different speeds.
        num_exposures: kinds of step that have transitions of their own, as in `DiscreteHMM`; default 3.
        stickiness: prior chance to stay in a state for one step, default 0.97; the rest goes to states nearby.
        concentration: prior strength, in transitions per row of the pool (default 10); its initial belief gets as much.

    Raises:
        InputError: a setting is out of range, naming it.
    """

    num_states: int = 12
    cluster: str | tuple[str, ...] | None = "auto"
    num_kinds: int = 1
    num_exposures: Literal[1, 2, 3] = 3
    stickiness: float = 0.97
    concentration: float = 10.0

    name = "hierarchical"
    empirical_bayes = True

    def __post_init__(self) -> None:
        check_whole(self, "num_states", 2)
        check_whole(self, "num_kinds", 1)
        check_rows(self)

    @property
    def _initial_weight(self) -> Floats:
        """(kind x state,) prior counts of the pool's first state, above one each."""
        size = self.num_kinds * self.num_states
        return np.full(size, self.concentration / size)

    @property
    def _transition_weight(self) -> Floats:
        """(state state) prior counts of the pool's moves, above one each."""
        return self.concentration * sticky_walk(self.num_states, self.stickiness)

    def program(self, ppl: PPL, pool: Pool) -> Chain:
        """The generative model."""
        dist, xp = ppl.dist, ppl.xp
        num_states, num_kinds = self.num_states, self.num_kinds
        pool_initial = ppl.sample("pool_initial", dist.Dirichlet(xp.asarray(1.0 + self._initial_weight)))
        with ppl.plate("state", num_states), ppl.plate("exposure", self.num_exposures):
            pool_transition = ppl.sample(
                "pool_transition",
                dist.Dirichlet(xp.asarray(1.0 + self._transition_weight)),
                init=sticky_walk(num_states, self.stickiness),
            )
        with ppl.plate("first_state", num_kinds * num_states), ppl.plate("cluster", pool.num_clusters):
            offset_initial = ppl.sample("offset_initial", dist.Normal(0.0, 1.0))
        groups = ("kind", num_kinds) if num_kinds > 1 else ("cluster", pool.num_clusters)
        with (
            ppl.plate("next_state", num_states),
            ppl.plate("state", num_states),
            ppl.plate(*groups),
            ppl.plate("exposure", self.num_exposures),
        ):
            # Kinds that began alike would stay alike.
            apart = np.linspace(1.0, -1.0, num_kinds)[:, None, None] * np.eye(num_states)
            offset = ppl.sample("offset", dist.Normal(0.0, 1.0), init=apart if num_kinds > 1 else None)
        scale = ppl.sample("scale", dist.HalfNormal(SCALE))
        scale_initial = ppl.sample("scale_initial", dist.HalfNormal(SCALE_INITIAL))

        initial = _tilted(xp, pool_initial, scale_initial * offset_initial)
        transition = _tilted(xp, pool_transition[:, None], scale * offset)
        rates = ordered_rates(ppl, num_states)
        if num_kinds > 1:
            # One chain of states (kind, state) that never leaves its kind.
            own = xp.asarray(np.eye(num_kinds)[:, None, :, None])
            transition = transition[:, :, :, None] * own
            size = num_kinds * num_states
            transition = xp.reshape(transition, (self.num_exposures, 1, size, size))
            rates = xp.concat([rates] * num_kinds)
        return Chain(initial, transition, emissions.Binomial(rates))

    def m_step(self, statistics: Statistics, params: Params) -> Params:
        """All sites but `gaps` given expected counts, by empirical Bayes; EM climbs to the gaps."""
        transition = statistics.transition
        if self.num_kinds > 1:
            kinds = np.arange(self.num_kinds)
            blocks = transition.reshape(self.num_exposures, *(self.num_kinds, self.num_states) * 2)
            transition = np.moveaxis(blocks[:, kinds, :, kinds], 0, 1)
        # Groups of rows that are pooled come first.
        rows, scale, offset = _pooled(
            np.moveaxis(transition, 1, 0),
            self._transition_weight,
            SCALE,
            params["pool_transition"],
            params["scale"],
            np.moveaxis(params["offset"], 1, 0),
        )
        first, scale_initial, offset_initial = _pooled(
            statistics.initial,
            self._initial_weight,
            SCALE_INITIAL,
            params["pool_initial"],
            params["scale_initial"],
            params["offset_initial"],
        )
        return {
            **{"pool_transition": rows, "scale": scale, "offset": np.moveaxis(offset, 0, 1)},
            **{"pool_initial": first, "scale_initial": scale_initial, "offset_initial": offset_initial},
        }


def _tilted(xp: ModuleType, pool: Array, tilt: Array) -> Array:
    """(... state) softmax(log pool + tilt)."""
    # Bounded instead of taken relative to its maximum, the slope of which compiled programs may get wrong.
    odds = (pool + FLOOR) * xp.exp(xp.clip(tilt, -LARGEST, LARGEST))
    return odds / xp.sum(odds, axis=-1)[..., None]


def _pooled(
    counts: Floats, weight: Floats, prior_scale: float, pool: Floats, scale: Floats, offset: Floats
) -> tuple[Floats, Floats, Floats]:
    """Empirical Bayes of rows of probabilities of several groups, from counts of each.

    Args:
        counts: (group ... state).
        weight: (... state) prior counts of the pool's rows, above one each.
        prior_scale: of the half-normal prior of the scale.
        pool, scale, offset: (... state), () and (group ... state), where to begin.

    Returns:
        The pool's rows, the scale and the offsets.
    """
    total = counts.sum(axis=-1, keepdims=True)

    def rows(tilt: Floats) -> Floats:
        return np.asarray(_tilted(np, pool, tilt))

    tilt = scale * offset
    for _ in range(ROUNDS):
        # Offsets: Newton's method for each row, whose Hessian is total (diag p - p p') + I / scale^2.
        for _ in range(NEWTON_STEPS):
            p = rows(tilt)
            slope = counts - total * p - tilt / scale**2
            diagonal = total * p + 1.0 / scale**2
            across = p / diagonal
            rest = 1.0 - total * (p * across).sum(axis=-1, keepdims=True)
            move = slope / diagonal + across * (total * (across * slope).sum(axis=-1, keepdims=True)) / rest
            tilt = tilt + np.clip(move, -LONGEST, LONGEST)
        # The scale: EM over offsets whose posteriors are normal, of that mode and Hessian.
        variance = (1.0 / diagonal).sum() + (total * (across**2).sum(axis=-1, keepdims=True) / rest).sum()
        offset = tilt / scale
        squares = (tilt**2).sum() + variance
        size = tilt.size + np.sqrt(tilt.size**2 + 4.0 * squares / prior_scale**2)
        scale = np.maximum(np.sqrt(2.0 * squares / size), SMALLEST)
        tilt = scale * offset
        # The pool's rows given offsets: iterative scaling, exact where offsets are 0.
        for _ in range(NEWTON_STEPS):
            expected = (total * rows(tilt)).sum(axis=0) + weight.sum(axis=-1, keepdims=True) * pool
            pool = pool * (counts.sum(axis=0) + weight) / np.maximum(expected, np.finfo(float).tiny)
            pool = pool / pool.sum(axis=-1, keepdims=True)
    return pool, scale, offset
