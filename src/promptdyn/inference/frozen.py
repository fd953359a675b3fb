"""A fitted Markov model with its parameters frozen, as an `OnlineModel`. NumPy only."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError
from promptdyn.models.base import MarkovModel, Params

__all__ = ["FrozenMarkov", "FrozenState"]

# Multiply-adds per call of a matrix product over prompts. Below this OpenBLAS stays on one thread: its workers would
# spin against the training process's own, which can make a product of 6 ms last 500. A block also fits the cache.
BLOCK_WORK = 2**18


class FrozenState(NamedTuple):
    belief: NDArray[np.float64]  # (state prompt) P(z_{t+1} | y_{0:t})
    cluster: NDArray[np.int32]  # (prompt,) codes


class FrozenMarkov:
    """The exact filter of a Markov model whose parameters no longer change.

    Args:
        model: the fitted model.
        params: its parameters.
        cluster_names: (cluster,) labels in the order of the parameters' cluster axis.
    """

    def __init__(self, model: MarkovModel, params: Params, cluster_names: Sequence[str]) -> None:
        self.model, self.params, self.cluster_names = model, params, tuple(cluster_names)
        self.name = model.name
        components = model.components(params, np.zeros((1, 2), np.int32))
        self._initial, self._transition = components.initial, components.transition
        self._rates = model.success_rates(params)
        self._code = {label: code for code, label in enumerate(self.cluster_names)}

    def describe(self) -> dict[str, Any]:
        """The model's settings and a digest of its parameters."""
        digest = hashlib.sha256()
        for name in sorted(self.params):
            digest.update(name.encode() + np.ascontiguousarray(self.params[name]).tobytes())
        return {**self.model.describe(), "clusters": list(self.cluster_names), "params_sha256": digest.hexdigest()}

    def init(self, clusters: Sequence[str | None]) -> FrozenState:
        """Fresh prompts at their cluster's initial belief; InputError names a label the fit has not seen."""
        if self.model.cluster is None:
            codes = np.zeros(len(clusters), np.int32)
        else:
            unknown = [label for label in clusters if label not in self._code]
            if unknown:
                raise InputError(
                    f"cluster {unknown[0]!r} is none of those fitted ({', '.join(self.cluster_names)}): "
                    f"give each prompt its {self.model.cluster!r} label, or fit on a history that holds it"
                )
            codes = np.fromiter((self._code[str(label)] for label in clusters), np.int32, len(clusters))
        return FrozenState(np.ascontiguousarray(self._initial[codes].T), codes)

    def _log_emission(self, num_rollouts: NDArray, num_successes: NDArray) -> NDArray[np.float64]:
        """(state group) log-likelihood of each group, computed once per distinct (n, k)."""
        counts, index = np.unique(np.stack([num_rollouts, num_successes], axis=1), axis=0, return_inverse=True)
        return self.model.components(self.params, counts).log_emission[:, index.reshape(-1)]

    def step(
        self,
        state: FrozenState,
        rows: NDArray[np.intp],
        num_successes: NDArray,
        num_rollouts: NDArray,
        trained: NDArray[np.bool_],
    ) -> FrozenState:
        """Condition the prompts seen on their counts, then move every prompt one step, in place."""
        belief, cluster = state
        observed = belief[:, rows]
        if rows.size:
            log_emission = self._log_emission(num_rollouts, num_successes)
            observed *= np.exp(log_emission - log_emission.max(axis=0))
            norm = observed.sum(axis=0)
            # A count that the model holds impossible (noise-free emissions) is taken at its word.
            surprised = norm <= 0
            observed[:, surprised] = np.exp(log_emission - log_emission.max(axis=0))[:, surprised]
            observed /= np.where(surprised, observed.sum(axis=0), norm)
        self._age(belief, cluster)
        exposed = self._transition[trained.astype(int) if len(self._transition) == 2 else 0]
        if len(self._transition) == 2:
            matrices = exposed[np.arange(len(rows)), cluster[rows]]
        else:
            matrices = exposed[cluster[rows]]
        belief[:, rows] = np.einsum("ig,gij->jg", observed, matrices)
        return state

    def _age(self, belief: NDArray, cluster: NDArray) -> None:
        """Move every prompt as one that was not trained on; those seen are overwritten by the caller."""
        aged = self._transition[0]
        for block in _blocks(belief, len(belief)):
            part, codes = belief[:, block], cluster[block]
            if len(aged) == 1:
                part[:] = aged[0].T @ part
                continue
            for code in np.unique(codes):
                members = np.flatnonzero(codes == code)
                part[:, members] = aged[code].T @ part[:, members]

    def belief(self, state: FrozenState) -> NDArray[np.float64]:
        """(state prompt)."""
        return state.belief.copy()

    def _outcome_by_state(self, num_rollouts: int) -> NDArray[np.float64]:
        """(outcome state) chances of none, some, all of n rollouts in each state."""
        counts = np.array([[num_rollouts, 0], [num_rollouts, num_rollouts]])
        none, every = np.exp(self.model.components(self.params, counts).log_emission).T
        return np.stack([none, np.maximum(1.0 - none - every, 0.0), every])

    def outcome(self, state: FrozenState, num_rollouts: int | NDArray) -> NDArray[np.float64]:
        """(outcome prompt) forecast chances of none, some, all."""
        return self._mix(state.belief, num_rollouts, slice(None))

    def informative(
        self, state: FrozenState, num_rollouts: int | NDArray, rng: np.random.Generator | None = None
    ) -> NDArray[np.float64]:
        """(prompt,) forecast P(0 < k < n); given `rng`, that of a state drawn from the belief."""
        if rng is None:
            return self._mix(state.belief, num_rollouts, slice(1, 2))[0]
        drawn = _draw(state.belief, rng)
        distinct, index = np.unique(np.broadcast_to(num_rollouts, drawn.shape), return_inverse=True)
        return np.stack([self._outcome_by_state(int(n))[1] for n in distinct])[index.reshape(-1), drawn]

    def _mix(self, belief: NDArray, num_rollouts: int | NDArray, outcomes: slice) -> NDArray[np.float64]:
        """(outcome prompt) chances of some outcomes, mixed over states."""
        distinct = np.unique(num_rollouts)
        if distinct.size == 1:
            return _product(self._outcome_by_state(int(distinct[0]))[outcomes], belief)
        mixed = np.empty((len(range(3)[outcomes]), belief.shape[1]))
        for n in distinct:
            of_n = np.flatnonzero(num_rollouts == n)
            mixed[:, of_n] = _product(self._outcome_by_state(int(n))[outcomes], belief[:, of_n])
        return mixed

    def success_rate(self, state: FrozenState, rng: np.random.Generator | None = None) -> NDArray[np.float64]:
        """(prompt,) forecast success rate; given `rng`, that of a state drawn from the belief."""
        if rng is None:
            return _product(self._rates[None], state.belief)[0]
        return self._rates[_draw(state.belief, rng)]


def _blocks(belief: NDArray, num_rows: int) -> Iterator[slice]:
    """Slices of prompts small enough for one product with a (num_rows, state) matrix."""
    size = max(1, BLOCK_WORK // (num_rows * len(belief)))
    return (slice(start, start + size) for start in range(0, belief.shape[1], size))


def _product(matrix: NDArray, belief: NDArray) -> NDArray[np.float64]:
    """matrix @ belief, block by block."""
    out = np.empty((len(matrix), belief.shape[1]))
    for block in _blocks(belief, len(matrix)):
        np.matmul(matrix, belief[:, block], out=out[:, block])
    return out


def _draw(belief: NDArray, rng: np.random.Generator) -> NDArray[np.intp]:
    """(prompt,) one state per prompt, by inverting the cumulative belief."""
    uniform = rng.random(belief.shape[1])
    cumulative = np.zeros(belief.shape[1])
    drawn = np.zeros(belief.shape[1], np.intp)
    for row in belief[:-1]:
        cumulative += row
        drawn += uniform > cumulative
    return drawn
