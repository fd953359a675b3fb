"""A hidden Markov model in which clusters of prompts learn from one another, or in which kinds of prompts are latent.

States and emission are those of `DiscreteHMM`. A row of probabilities of cluster c is the pool's row, changed by the
cluster's own offsets:

    row_c = softmax(log row + scale * offset_c)        offset_c ~ Normal(0, 1)        scale ~ HalfNormal

A cluster with little data stays near the pool, and the scale, by which clusters may differ, is learned; scale 0 makes
all clusters equal. This is the non-centered form, which NUTS samples well. With `num_kinds` above 1, transitions differ
between latent kinds instead, as a mixture of chains: a prompt stays of one kind, its kind is summed out with its path,
and clusters have their own probabilities of kinds and first states.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Literal

import numpy as np

from promptdyn.models import emissions
from promptdyn.models.base import PPL, Array, Chain, Dynamics, Floats, Params, Pool, Statistics
from promptdyn.models.checks import check_whole
from promptdyn.models.discrete_hmm import check_rows, ordered_rates, sticky_walk

__all__ = ["HierarchicalHMM"]

# Prior scales of the clusters' differences: in transitions, and in first states, which differ more.
SCALE, SCALE_INITIAL = 0.5, 1.0
# Least probability of the pool's rows before they are changed, and the largest change of a log-probability.
FLOOR, LARGEST = 1e-9, 100.0
# Least scale; offsets at this scale no longer matter.
SMALLEST = 1e-6
# Rounds of each M-step, Newton steps in each round, and the longest Newton step.
ROUNDS, NEWTON_STEPS, LONGEST = 5, 3, 1.0


@dataclass(frozen=True)
class HierarchicalHMM(Dynamics):
    """Hidden Markov model with partial pooling over clusters or latent kinds of prompt.

    Sites: the pool's `pool_initial` (kind x state,) and `pool_transition` (exposure state state); the clusters'
    `offset_initial` (cluster, kind x state) and `offset` (exposure cluster|kind state state), their scales
    `scale_initial` () and `scale` (); and `gaps` (state + 1,) between 0, the success rates and 1.

    The chain has `num_kinds * num_states` states, ordered by kind. EM's M-step is empirical Bayes: offsets are set to
    their mode; scales and the pool's rows maximize the marginal likelihood, with the offsets integrated out by
    Laplace's method. (At the mode of all sites at once, which "map" finds, scales are much too large.) So EM's log
    joint need not rise. If many steps are unobserved, expected counts seem to tell more than they do, and scales come
    out somewhat small.

    Attributes:
        num_states: number of states of a prompt, at least 2; default 12.
        cluster: column(s) of the history whose labels have parameters of their own. Default "auto": all label columns
            of the history, crossed; None: one set for the whole pool.
        num_kinds: number of latent kinds of prompts with transitions of their own; default 1: transitions differ by
            cluster. A fit starts with kinds that move at different speeds.
        num_exposures: number of exposures with transitions of their own, as in `DiscreteHMM`; default 3.
        stickiness: prior chance to stay in a state for one step; default 0.97. The rest goes to nearby states.
        concentration: strength of the prior, in transitions per row of the pool; default 10. The pool's initial belief
            has the same strength.

    Raises:
        InputError: a setting is out of range.
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
        """See `Dynamics.program`."""
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
            # Kinds that start equal would stay equal.
            start = np.linspace(1.0, -1.0, num_kinds)[:, None, None] * np.eye(num_states)
            offset = ppl.sample("offset", dist.Normal(0.0, 1.0), init=start if num_kinds > 1 else None)
        scale = ppl.sample("scale", dist.HalfNormal(SCALE))
        scale_initial = ppl.sample("scale_initial", dist.HalfNormal(SCALE_INITIAL))

        initial = _tilt(xp, pool_initial, scale_initial * offset_initial)
        transition = _tilt(xp, pool_transition[:, None], scale * offset)
        rates = ordered_rates(ppl, num_states)
        if num_kinds > 1:
            # One chain over states (kind, state), which never leaves its kind.
            same_kind = xp.asarray(np.eye(num_kinds)[:, None, :, None])
            transition = transition[:, :, :, None] * same_kind
            size = num_kinds * num_states
            transition = xp.reshape(transition, (self.num_exposures, 1, size, size))
            rates = xp.concat([rates] * num_kinds)
        return Chain(initial, transition, emissions.Binomial(rates))

    def m_step(self, statistics: Statistics, params: Params) -> Params:
        """Return all sites but `gaps` by empirical Bayes, given expected counts; EM climbs to the gaps."""
        transition = statistics.transition
        if self.num_kinds > 1:
            kinds = np.arange(self.num_kinds)
            blocks = transition.reshape(self.num_exposures, *(self.num_kinds, self.num_states) * 2)
            transition = np.moveaxis(blocks[:, kinds, :, kinds], 0, 1)
        # `_empirical_bayes` wants the pooled axis (cluster or kind) first.
        rows, scale, offset = _empirical_bayes(
            np.moveaxis(transition, 1, 0),
            self._transition_weight,
            SCALE,
            params["pool_transition"],
            params["scale"],
            np.moveaxis(params["offset"], 1, 0),
        )
        first, scale_initial, offset_initial = _empirical_bayes(
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


def _tilt(xp: ModuleType, pool: Array, tilt: Array) -> Array:
    """Return (... state) softmax(log pool + tilt)."""
    # The tilt is bounded, not taken relative to its maximum, whose slope compiled programs may get wrong.
    odds = (pool + FLOOR) * xp.exp(xp.clip(tilt, -LARGEST, LARGEST))
    return odds / xp.sum(odds, axis=-1)[..., None]


def _empirical_bayes(
    counts: Floats, weight: Floats, prior_scale: float, pool: Floats, scale: Floats, offset: Floats
) -> tuple[Floats, Floats, Floats]:
    """Estimate rows of probabilities of several groups by empirical Bayes.

    Args:
        counts: (group ... state) expected counts.
        weight: (... state) prior counts of the pool's rows, above one each.
        prior_scale: scale of the half-normal prior of `scale`.
        pool, scale, offset: (... state), () and (group ... state) values to start from.

    Returns:
        The pool's rows, the scale and the offsets.
    """
    total = counts.sum(axis=-1, keepdims=True)

    def rows(tilt: Floats) -> Floats:
        return np.asarray(_tilt(np, pool, tilt))

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
        # The scale: EM over offsets, whose posteriors are normal with that mode and Hessian.
        variance = (1.0 / diagonal).sum() + (total * (across**2).sum(axis=-1, keepdims=True) / rest).sum()
        offset = tilt / scale
        squares = (tilt**2).sum() + variance
        size = tilt.size + np.sqrt(tilt.size**2 + 4.0 * squares / prior_scale**2)
        scale = np.maximum(np.sqrt(2.0 * squares / size), SMALLEST)
        tilt = scale * offset
        # The pool's rows given the offsets: iterative scaling, which is exact if offsets are 0.
        for _ in range(NEWTON_STEPS):
            expected = (total * rows(tilt)).sum(axis=0) + weight.sum(axis=-1, keepdims=True) * pool
            pool = pool * (counts.sum(axis=0) + weight) / np.maximum(expected, np.finfo(float).tiny)
            pool = pool / pool.sum(axis=-1, keepdims=True)
    return pool, scale, offset
