"""The exact filter of a mixture of chains, such as the posterior draws of a fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from promptdyn.online.chain import FrozenChain, FrozenState
from promptdyn.online.model import OnlineModel
from promptdyn.online.pool import Pool

__all__ = ["FrozenMixture", "MixtureState"]


class MixtureState(NamedTuple):
    """State of `FrozenMixture`, for each prompt."""

    belief: NDArray[np.float64]  # (chain state prompt) P(z_{t+1} | y_{0:t}) in each chain
    weight: NDArray[np.float64]  # (chain prompt) P(chain | y_{0:t}), from the prompt's own counts
    cluster: NDArray[np.int32]  # (prompt,) codes


class FrozenMixture(OnlineModel[MixtureState]):
    """The exact filter of a mixture of chains that are equally likely at first. Each prompt weighs them by its counts.

    If the chains are draws of p(parameters | history), a forecast is the posterior predictive, given the history of the
    fit and the counts that the prompt has shown since.

    Args:
        chains: chains with the same states, exposures and clusters.
        identity: JSON-able facts that tell this mixture from others. Default: the name.
    """

    def __init__(self, chains: Sequence[FrozenChain], identity: Mapping[str, Any] | None = None) -> None:
        self.chains = list(chains)
        self.name, self.cluster = self.chains[0].name, self.chains[0].cluster
        self._identity = dict(identity or {"name": self.name})

    def describe(self) -> dict[str, Any]:
        """Return the mixture's identity."""
        return dict(self._identity)

    def init(self, pool: Pool) -> MixtureState:
        """Return the pool's initial state; raises InputError if the chains do not know a label."""
        states = [chain.init(pool) for chain in self.chains]
        weight = np.full((len(states), pool.num_prompts), 1.0 / len(states))
        return MixtureState(np.stack([state.belief for state in states]), weight, states[0].cluster)

    def step(
        self,
        state: MixtureState,
        rows: NDArray[np.intp],
        num_successes: NDArray,
        num_rollouts: NDArray,
        trained: NDArray[np.bool_],
    ) -> MixtureState:
        """Condition every chain and its weight on the counts, then move every prompt one step, in place."""
        counts = (rows, num_successes, num_rollouts, trained)
        evidence = np.stack([chain.absorb(part, *counts) for chain, part in self._parts(state)])
        weight = state.weight[:, rows] * np.exp(evidence - evidence.max(axis=0))
        state.weight[:, rows] = weight / weight.sum(axis=0)
        return state

    def _parts(self, state: MixtureState) -> list[tuple[FrozenChain, FrozenState]]:
        """Return each chain with its own state, which is a view."""
        return [
            (chain, FrozenState(belief, state.cluster)) for chain, belief in zip(self.chains, state.belief, strict=True)
        ]

    def belief(self, state: MixtureState) -> NDArray[np.float64]:
        """Return (state prompt) beliefs, averaged over chains."""
        return np.einsum("cp,csp->sp", state.weight, state.belief)

    def outcome(self, state: MixtureState, num_rollouts: int | NDArray) -> NDArray[np.float64]:
        """Return (outcome prompt) forecast chances that none, some and all rollouts succeed."""
        each = [chain.outcome(part, num_rollouts) for chain, part in self._parts(state)]
        return np.einsum("cp,cop->op", state.weight, np.stack(each))

    def informative(
        self, state: MixtureState, num_rollouts: int | NDArray, rng: np.random.Generator | None = None
    ) -> NDArray[np.float64]:
        """Return (prompt,) forecasts P(0 < k < n); with `rng`, at a chain and a state drawn for each prompt."""
        each = np.stack([chain.informative(part, num_rollouts, rng) for chain, part in self._parts(state)])
        return _mixed(each, state.weight, rng)

    def success_rate(self, state: MixtureState, rng: np.random.Generator | None = None) -> NDArray[np.float64]:
        """Return (prompt,) forecast success rates; with `rng`, at a chain and a state drawn for each prompt."""
        each = np.stack([chain.success_rate(part, rng) for chain, part in self._parts(state)])
        return _mixed(each, state.weight, rng)


def _mixed(values: NDArray, weight: NDArray, rng: np.random.Generator | None) -> NDArray[np.float64]:
    """Reduce (chain prompt) values to (prompt,): their weighted mean, or with `rng` the values of drawn chains."""
    if rng is None:
        return np.einsum("cp,cp->p", weight, values)
    is_above = rng.random(weight.shape[1]) > np.cumsum(weight, axis=0)[:-1]
    return np.take_along_axis(values, is_above.sum(axis=0)[None], axis=0)[0]
