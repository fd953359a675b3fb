"""A finite-state Markov chain whose parameters no longer change, as an `OnlineModel`: the exact filter of a fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError
from promptdyn.online.model import OnlineModel
from promptdyn.online.pool import Pool
from promptdyn.prompts import Columns

__all__ = ["FrozenChain", "FrozenState", "draw_states"]

# Multiply-adds per call of a matrix product over prompts. Below this OpenBLAS stays on one thread: its workers would
# spin against the training process's own, which can make a product of 6 ms last 500. A block also fits the cache.
BLOCK_WORK = 2**18
# Multiply-adds that cost as much as a call of a product over the prompts of one matrix.
PRODUCT_WORK = 2**13


class FrozenState(NamedTuple):
    belief: NDArray[np.float64]  # (state prompt) P(z_{t+1} | y_{0:t})
    cluster: NDArray[np.int32]  # (prompt,) codes


class FrozenChain(OnlineModel[FrozenState]):
    """The exact filter of a known chain.

    Args:
        name: of the model that it came from.
        initial: (cluster state) probabilities; a cluster axis of length 1 is shared by all.
        transition: (exposure cluster state state), row-stochastic [current, next]. Exposure: 0 idle, 1 trained on,
            2 trained on by a group without variance (k = 0 or k = n); the last entry stands for those above it.
        log_emission: (group, 2) num_rollouts and num_successes -> (state group) log-probabilities.
        cluster_names: (cluster,) labels in the order of the cluster axis; None where prompts need no label.
        identity: JSON-able, what tells this chain from others: a saved state is only loaded back into an equal one.
        cluster: column(s) whose labels `cluster_names` are; default "cluster" where there are names.

    Attributes:
        rates: (state,) chance that a rollout succeeds.
    """

    def __init__(
        self,
        name: str,
        initial: NDArray[np.float64],
        transition: NDArray[np.float64],
        log_emission: Callable[[NDArray[np.integer]], NDArray[np.float64]],
        cluster_names: Sequence[str] | None = None,
        identity: Mapping[str, Any] | None = None,
        cluster: Columns | None = None,
    ) -> None:
        self.name = name
        self.initial, self.transition, self.log_emission = initial, transition, log_emission
        self.cluster_names = None if cluster_names is None else tuple(cluster_names)
        self.cluster = None if cluster_names is None else cluster or "cluster"
        self._identity = dict(identity or {"name": name})
        self.rates = np.exp(log_emission(np.array([[1, 1]])))[:, 0]
        self._code = {label: code for code, label in enumerate(self.cluster_names or ())}

    def describe(self) -> dict[str, Any]:
        """The identity given."""
        return dict(self._identity)

    def init(self, pool: Pool) -> FrozenState:
        """Fresh prompts at their cluster's initial belief; InputError names a label that the chain does not know."""
        codes = pool.cluster
        if self.cluster_names is not None:
            unknown = [name for name in pool.cluster_names if name not in self._code]
            if unknown:
                names = self.cluster_names
                some = ", ".join(names[:12]) + (f", ... {len(names)} in all" if len(names) > 12 else "")
                raise InputError(
                    f"cluster {unknown[0]!r} is none of those fitted ({some}): "
                    "give each prompt its label, or fit on a history that holds it"
                )
            codes = np.array([self._code[name] for name in pool.cluster_names], np.int32)[codes]
        belief = self.initial[codes if len(self.initial) > 1 else np.zeros_like(codes)]
        return FrozenState(np.ascontiguousarray(belief.T), codes)

    def step(
        self,
        state: FrozenState,
        rows: NDArray[np.intp],
        num_successes: NDArray,
        num_rollouts: NDArray,
        trained: NDArray[np.bool_],
    ) -> FrozenState:
        """Condition the prompts seen on their counts, then move every prompt one step, in place."""
        self.absorb(state, rows, num_successes, num_rollouts, trained)
        return state

    def absorb(
        self,
        state: FrozenState,
        rows: NDArray[np.intp],
        num_successes: NDArray,
        num_rollouts: NDArray,
        trained: NDArray[np.bool_],
    ) -> NDArray[np.float64]:
        """Do as `step`; returns the (row,) log-probabilities that the prompts seen had been given."""
        belief, cluster = state
        observed, log_evidence = self._conditioned(belief[:, rows], num_successes, num_rollouts)
        num_exposures, num_clusters = self.transition.shape[:2]
        codes = cluster if num_clusters > 1 else np.zeros_like(cluster)
        _advance(belief, self.transition[0], codes)  # those seen too, which the last line overwrites
        flat = (num_successes == 0) | (num_successes == num_rollouts)
        exposure = np.minimum(np.where(trained, 1 + flat, 0), num_exposures - 1)
        _advance(
            observed, self.transition.reshape(-1, *self.transition.shape[2:]), exposure * num_clusters + codes[rows]
        )
        belief[:, rows] = observed
        return log_evidence

    def _conditioned(
        self, belief: NDArray, num_successes: NDArray, num_rollouts: NDArray
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(state row) beliefs given a count each, and the (row,) log-probabilities that these had of the counts."""
        if not belief.shape[1]:
            return belief, np.zeros(0)
        # Once per distinct (n, k).
        counts = np.stack([num_rollouts, num_successes], axis=1)
        distinct, index = np.unique(counts, axis=0, return_inverse=True)
        index = index.reshape(-1)
        log_emission = self.log_emission(distinct)
        scale = log_emission.max(axis=0)
        likelihood = np.exp(log_emission - scale)
        belief = belief * likelihood[:, index]
        norm = belief.sum(axis=0)
        # A count that the model holds impossible (noise-free emissions) is taken at its word.
        surprised = norm <= 0
        belief[:, surprised] = likelihood[:, index[surprised]]
        belief /= np.where(surprised, belief.sum(axis=0), norm)
        return belief, scale[index] + np.log(np.maximum(norm, np.finfo(float).tiny))

    def belief(self, state: FrozenState) -> NDArray[np.float64]:
        """(state prompt)."""
        return state.belief.copy()

    def _outcome_by_state(self, num_rollouts: int) -> NDArray[np.float64]:
        """(outcome state) chances of none, some, all of n rollouts in each state."""
        counts = np.array([[num_rollouts, 0], [num_rollouts, num_rollouts]])
        none, every = np.exp(self.log_emission(counts)).T
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
        drawn = draw_states(state.belief, rng)
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
            return _product(self.rates[None], state.belief)[0]
        return self.rates[draw_states(state.belief, rng)]


def _advance(belief: NDArray, matrices: NDArray, codes: NDArray) -> None:
    """Move each prompt's (state,) belief one step, in place, by the matrix [current, next] that its code names."""
    num_states = len(belief)
    for block in _blocks(belief, num_states):
        part, of_part = belief[:, block], codes[block]
        if len(matrices) == 1:
            part[:] = matrices[0].T @ part
            continue
        present = np.unique(of_part)
        if len(present) * PRODUCT_WORK > of_part.size * num_states**2:  # many matrices of few prompts each
            part[:] = np.einsum("ip,pij->jp", part, matrices[of_part])
            continue
        for code in present:
            members = np.flatnonzero(of_part == code)
            part[:, members] = matrices[code].T @ part[:, members]


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


def draw_states(belief: NDArray, rng: np.random.Generator) -> NDArray[np.intp]:
    """(prompt,) one of the first axis per prompt, by inverting the cumulative (state prompt) probabilities."""
    uniform = rng.random(belief.shape[1])
    cumulative = np.zeros(belief.shape[1])
    drawn = np.zeros(belief.shape[1], np.intp)
    for row in belief[:-1]:
        cumulative += row
        drawn += uniform > cumulative
    return drawn
