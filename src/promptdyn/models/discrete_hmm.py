"""A hidden Markov model of a prompt's success rate, with one set of parameters for the pool or for each cluster.

A prompt is in one of `num_states` states, ordered by success rate. A group of n rollouts has k successes,

    k | z ~ Binomial(n, p_z)                                ("binomial")
    k | z ~ BetaBinomial(n, p_z s, (1 - p_z) s)             ("beta_binomial")
    none / some / all | z                                   ("ternary": three states, the observation of DPS)

and the state moves by a transition matrix that depends on the prompt's cluster and *exposure*: whether it idled in that
step, was trained on, or was trained on without a gradient. Rows have Dirichlet priors around a sticky walk. The gaps
between the success rates are a Dirichlet simplex, which keeps the states in order. The recursions are in Rabiner
(1989).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from promptdyn.errors import InputError, check_choice
from promptdyn.models import emissions
from promptdyn.models.base import PPL, Array, Chain, Dynamics, Emission, Floats, Params, Pool, Statistics
from promptdyn.models.checks import check_whole

__all__ = ["DiscreteHMM"]

EmissionName = Literal["binomial", "beta_binomial", "ternary"]
# Success rates stay this far from 0 and 1, so that every count is possible in every state.
RATE_MARGIN = 1e-4


@dataclass(frozen=True)
class DiscreteHMM(Dynamics):
    """Discrete hidden Markov model of prompts.

    Sites: `initial` (cluster state), `transition` (exposure cluster state state), and for the emission `gaps`
    (state + 1,) between 0, the success rates and 1, and `precision` () with "beta_binomial".

    Attributes:
        num_states: number of states, at least 2 (3 with the ternary emission); default 12.
        emission: "binomial" (default, uses the count k of n), "beta_binomial" or "ternary" (none / some / all).
        cluster: column(s) of the history whose labels have initial and transition probabilities of their own; emissions
            are shared. Default None: one set for the whole pool.
        num_exposures: number of exposures with transitions of their own. 3 (default): idle, trained on, trained on by a
            group without variance; 2: idle, trained on; 1: all steps alike.
        stickiness: prior chance to stay in a state for one step; default 0.97. The rest goes to nearby states.
        concentration: strength of the prior, in transitions per row; default 10. The initial belief has the same
            strength.
        noise: chance that a group shows another outcome than its state's, for "ternary" only; default 0.

    Raises:
        InputError: a setting is out of range.
    """

    num_states: int = 12
    emission: EmissionName = "binomial"
    cluster: str | tuple[str, ...] | None = None
    num_exposures: Literal[1, 2, 3] = 3
    stickiness: float = 0.97
    concentration: float = 10.0
    noise: float = 0.0

    name = "hmm"

    def __post_init__(self) -> None:
        check_choice("DiscreteHMM: emission", self.emission, get_args(EmissionName))
        if self.emission == "ternary" and self.num_states != 3:
            raise InputError(f"DiscreteHMM: num_states={self.num_states}, but the ternary emission has 3 states")
        check_whole(self, "num_states", 2)
        check_rows(self)
        if not 0.0 <= self.noise < 1.0:
            raise InputError(f"DiscreteHMM: noise={self.noise} is outside [0, 1)")
        if self.noise > 0.0 and self.emission != "ternary":
            raise InputError(f"DiscreteHMM: noise={self.noise}, but only the ternary emission has noise")

    @property
    def _initial_weight(self) -> Floats:
        """(state,) prior counts of the first state, above one each."""
        return np.full(self.num_states, self.concentration / self.num_states)

    @property
    def _transition_weight(self) -> Floats:
        """(state state) prior counts of moves, above one each."""
        return self.concentration * sticky_walk(self.num_states, self.stickiness)

    def program(self, ppl: PPL, pool: Pool) -> Chain:
        """See `Dynamics.program`."""
        dist, xp = ppl.dist, ppl.xp
        with ppl.plate("cluster", pool.num_clusters):
            initial = ppl.sample("initial", dist.Dirichlet(xp.asarray(1.0 + self._initial_weight)))
        with (
            ppl.plate("state", self.num_states),
            ppl.plate("cluster", pool.num_clusters),
            ppl.plate("exposure", self.num_exposures),
        ):
            transition = ppl.sample(
                "transition",
                dist.Dirichlet(xp.asarray(1.0 + self._transition_weight)),
                init=sticky_walk(self.num_states, self.stickiness),
            )
        return Chain(initial, transition, self._emission(ppl))

    def _emission(self, ppl: PPL) -> Emission:
        if self.emission == "ternary":
            return emissions.Ternary(self.noise)
        rates = ordered_rates(ppl, self.num_states)
        if self.emission == "binomial":
            return emissions.Binomial(rates)
        return emissions.BetaBinomial(rates, ppl.sample("precision", ppl.dist.LogNormal(np.log(50.0), 1.0)))

    def m_step(self, statistics: Statistics, params: Params) -> Params:
        """Return posterior modes of `initial` and `transition` given expected counts; EM climbs to the emission's."""
        initial = statistics.initial + self._initial_weight
        transition = statistics.transition + self._transition_weight
        return {
            "initial": initial / initial.sum(axis=-1, keepdims=True),
            "transition": transition / transition.sum(axis=-1, keepdims=True),
        }


def check_rows(model: Any) -> None:
    """Raise InputError unless a model's num_exposures, stickiness and concentration are in range."""
    name = type(model).__name__
    check_choice(f"{name}: num_exposures", model.num_exposures, (1, 2, 3))
    if not 0.0 < model.stickiness < 1.0:
        raise InputError(f"{name}: stickiness={model.stickiness} is outside (0, 1)")
    if not 0.0 < model.concentration < np.inf:
        raise InputError(f"{name}: concentration={model.concentration} must be finite and above 0")


def sticky_walk(num_states: int, stickiness: float) -> Floats:
    """Return (state state) chances to stay, or to move with odds that halve per state of distance."""
    states = np.arange(num_states)
    walk = 0.5 ** np.abs(states[:, None] - states)
    np.fill_diagonal(walk, 0.0)
    moves = (1.0 - stickiness) * walk / walk.sum(axis=1, keepdims=True)
    return moves + stickiness * np.eye(num_states)


def ordered_rates(ppl: PPL, num_states: int) -> Array:
    """Return (state,) ascending success rates, from a simplex of the gaps between 0, the rates and 1."""
    # A fit starts from rates spread evenly between 0.01 and 0.99.
    start = np.full(num_states + 1, 0.98 / (num_states - 1))
    start[[0, -1]] = 0.01
    gaps = ppl.sample("gaps", ppl.dist.Dirichlet(ppl.xp.asarray(np.full(num_states + 1, 1.1))), init=start)
    rates = RATE_MARGIN + (1.0 - 2.0 * RATE_MARGIN) * ppl.xp.cumulative_sum(gaps, axis=-1)[:-1]
    return ppl.deterministic("success_rates", rates, dims=("state",))
