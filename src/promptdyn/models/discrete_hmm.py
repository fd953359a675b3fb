"""A hidden Markov model of a prompt's success rate, with one set of parameters for a pool or a cluster of it.

A prompt is in one of `num_states` states, ordered by success rate. A group of n rollouts shows k successes,

    k | z ~ Binomial(n, p_z)            ("binomial")
    none / some / all | z               ("ternary": three states, the observation of DPS)

and the state moves by a transition matrix of the prompt's cluster and of its *exposure*: whether it was
trained on in that step or merely aged while others were. Rows have Dirichlet priors centred on a sticky
walk, success rates a Beta prior (Rabiner 1989 for the recursions; the M-step is the posterior mode).
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

from promptdyn.errors import InputError
from promptdyn.models import emissions
from promptdyn.models.base import Components, Floats, Params, Statistics

__all__ = ["DiscreteHMM"]

# Success rates stay this far from 0 and 1, so that no count is impossible in any state.
RATE_MARGIN = 1e-4


@dataclass(frozen=True)
class DiscreteHMM:
    """Discrete hidden Markov model of prompts.

    Attributes:
        num_states: number of states, at least 2 (3 with the ternary emission); default 8.
        emission: "binomial" (default, uses the count k of n) or "ternary" (none / some / all).
        cluster: column(s) of the history whose levels get initial and transition probabilities of their own;
            emissions are shared. Default None: one set for the whole pool.
        exposure: whether transitions differ between prompts trained on in a step and the others; default True.
        stickiness: prior chance to stay in a state for one step; the rest goes to states nearby.
        concentration: prior strength, in transitions per row; the initial belief gets as much.
        noise: ternary only, chance that a group shows another outcome than its state's; default 0.

    Raises:
        InputError: a setting is out of range, naming it.
    """

    num_states: int = 8
    emission: str = "binomial"
    cluster: str | tuple[str, ...] | None = None
    exposure: bool = True
    stickiness: float = 0.97
    concentration: float = 5.0
    noise: float = 0.0

    name = "hmm"

    def __post_init__(self) -> None:
        if self.emission not in ("binomial", "ternary"):
            raise InputError(f"DiscreteHMM: emission={self.emission!r} is neither 'binomial' nor 'ternary'")
        if self.emission == "ternary" and self.num_states != 3:
            raise InputError(f"DiscreteHMM: num_states={self.num_states}, but the ternary emission has 3 states")
        if not isinstance(self.num_states, Integral) or self.num_states < 2:
            raise InputError(f"DiscreteHMM: num_states={self.num_states} must be a whole number, at least 2")
        if not 0.0 < self.stickiness < 1.0:
            raise InputError(f"DiscreteHMM: stickiness={self.stickiness} is outside (0, 1)")
        if not 0.0 < self.concentration < np.inf:
            raise InputError(f"DiscreteHMM: concentration={self.concentration} must be finite and above 0")
        if not 0.0 <= self.noise < 1.0:
            raise InputError(f"DiscreteHMM: noise={self.noise} is outside [0, 1)")
        if self.noise > 0.0 and self.emission != "ternary":
            raise InputError(f"DiscreteHMM: noise={self.noise}, but only the ternary emission has noise")

    def describe(self) -> dict[str, Any]:
        """Name and settings, JSON-able."""
        settings = {key: getattr(self, key) for key in self.__dataclass_fields__}
        if isinstance(self.cluster, tuple):
            settings["cluster"] = list(self.cluster)
        return {"name": self.name, **settings}

    def transition_prior(self) -> Floats:
        """(state state) mean of the prior of each row: stay, or move with odds halving per state of distance.

        Override it for other dynamics. A move of prior 0 is never learned, since fitting starts from here.
        """
        states = np.arange(self.num_states)
        walk = 0.5 ** np.abs(states[:, None] - states)
        np.fill_diagonal(walk, 0.0)
        moves = (1.0 - self.stickiness) * walk / walk.sum(axis=1, keepdims=True)
        return moves + self.stickiness * np.eye(self.num_states)

    def initial_params(self, num_clusters: int) -> Params:
        """Start of the fit: the priors' means, and success rates spread evenly with the ends near 0 and 1."""
        num_exposures = 2 if self.exposure else 1
        params = {
            "initial": np.full((num_clusters, self.num_states), 1.0 / self.num_states),
            "transition": np.tile(self.transition_prior(), (num_exposures, num_clusters, 1, 1)),
        }
        if self.emission == "binomial":
            params["success_rates"] = np.linspace(0.01, 0.99, self.num_states)
        return params

    def components(self, params: Params, counts: NDArray, xp: Any = np) -> Components:
        """Parameters and (symbol, 2) counts -> initial, transition, log-emission arrays."""
        if self.emission == "binomial":
            log_emission = emissions.binomial(params["success_rates"], counts, xp)
        else:
            log_emission = emissions.ternary(self.noise, counts, xp)
        return Components(xp.asarray(params["initial"]), xp.asarray(params["transition"]), log_emission)

    def maximise(self, statistics: Statistics) -> Params:
        """Posterior mode given expected counts, with states sorted by success rate."""
        initial = statistics.initial + self.concentration / self.num_states
        transition = statistics.transition + self.concentration * self.transition_prior()
        params = {
            "initial": initial / initial.sum(axis=-1, keepdims=True),
            "transition": transition / transition.sum(axis=-1, keepdims=True),
        }
        if self.emission == "binomial":
            num_rollouts, num_successes = statistics.counts.T
            # Beta(2, 2), centred on nothing in particular: one success and one failure of prior weight.
            rates = (statistics.emission @ num_successes + 1.0) / (statistics.emission @ num_rollouts + 2.0)
            params["success_rates"] = np.clip(rates, RATE_MARGIN, 1.0 - RATE_MARGIN)
            order = np.argsort(params["success_rates"])
            params = {
                "initial": params["initial"][:, order],
                "transition": params["transition"][:, :, order[:, None], order],
                "success_rates": params["success_rates"][order],
            }
        return params

    def log_prior(self, params: Params) -> float:
        """Log density of the Dirichlet and Beta priors at `params`, up to a constant."""
        weight = self.concentration * self.transition_prior()
        value = np.sum(xlogy(weight, params["transition"]))
        value += self.concentration / self.num_states * np.sum(np.log(params["initial"]))
        if self.emission == "binomial":
            value += np.sum(np.log(params["success_rates"]) + np.log1p(-params["success_rates"]))
        return float(value)

    def success_rates(self, params: Params) -> Floats:
        """(state,) success rates; with the ternary emission 0, 1/2 and 1 by convention."""
        return params["success_rates"] if self.emission == "binomial" else np.array([0.0, 0.5, 1.0])
