"""The exact filter of a fit: an `OnlineModel` that is a finite-state Markov chain with fixed parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError
from promptdyn.history.events import exposure_of
from promptdyn.online.model import OnlineModel
from promptdyn.online.pool import Pool
from promptdyn.prompts import Columns

__all__ = ["FrozenChain", "FrozenState", "draw_states"]

# Most multiply-adds in one matrix product over prompts. OpenBLAS then stays on one thread: its worker threads would
# compete with the training process's own, which can stretch a product of 6 ms to 500 ms. A block also fits the cache.
BLOCK_WORK = 2**18
# One call of a matrix product costs about as much time as so many multiply-adds.
PRODUCT_WORK = 2**13


class LogEmission(Protocol):
    """An `Emission`'s `log_prob` in NumPy: (group,) counts and group sizes -> (state group) log-probabilities."""

    def __call__(self, *, num_successes: NDArray[np.integer], num_rollouts: NDArray[np.integer]) -> NDArray[np.float64]:
        """Return the log-probabilities."""


class FrozenState(NamedTuple):
    """State of `FrozenChain`, for each prompt."""

    belief: NDArray[np.float64]  # (state prompt) P(z_{t+1} | y_{0:t})
    cluster: NDArray[np.int32]  # (prompt,) codes


class FrozenChain(OnlineModel[FrozenState]):
    """The exact filter of a known chain.

    Args:
        name: name of the model that the chain came from.
        initial: (cluster state) probabilities; all clusters share an axis of length 1.
        transition: (exposure cluster state state), row-stochastic [current, next]. Exposure: 0 idle, 1 trained on,
            2 trained on by a group without variance (k = 0 or k = n). With fewer entries the last one serves for the
            exposures above it.
        log_emission: the emission's `log_prob`: (group,) `num_successes` and `num_rollouts`, by keyword, to (state
            group) log-probabilities.
        cluster_names: (cluster,) labels in the order of the cluster axis; None (default) if prompts need no label.
        identity: JSON-able facts that tell this chain from others: a saved state loads only into a chain with equal
            ones. Default: the name.
        cluster: column(s) whose labels `cluster_names` are; default "cluster" if there are names.

    Attributes:
        rates: (state,) chance that a rollout succeeds.
    """

    def __init__(
        self,
        name: str,
        initial: NDArray[np.float64],
        transition: NDArray[np.float64],
        log_emission: LogEmission,
        cluster_names: Sequence[str] | None = None,
        identity: Mapping[str, Any] | None = None,
        cluster: Columns | None = None,
    ) -> None:
        self.name = name
        self.initial, self.transition, self.log_emission = initial, transition, log_emission
        self.cluster_names = None if cluster_names is None else tuple(cluster_names)
        self.cluster = None if cluster_names is None else cluster or "cluster"
        self._identity = dict(identity or {"name": name})
        self.rates = np.exp(log_emission(num_successes=np.ones(1, int), num_rollouts=np.ones(1, int)))[:, 0]
        self._code = {label: code for code, label in enumerate(self.cluster_names or ())}

    def describe(self) -> dict[str, Any]:
        """Return the chain's identity."""
        return dict(self._identity)

    def init(self, pool: Pool) -> FrozenState:
        """Return the pool's prompts at their clusters' initial beliefs.

        Raises:
            InputError: a prompt's label is none of `cluster_names`.
        """
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
        """Condition the observed prompts on their counts, then move every prompt one step, in place."""
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
        """Do the same as `step` and return the (row,) log-probabilities that the counts had before."""
        belief, cluster = state
        observed, log_evidence = self._conditioned(belief[:, rows], num_successes, num_rollouts)
        num_exposures, num_clusters = self.transition.shape[:2]
        codes = cluster if num_clusters > 1 else np.zeros_like(cluster)
        _advance(belief, self.transition[0], codes)  # the observed prompts too, but the last line overwrites them
        exposure = np.minimum(exposure_of(num_successes, num_rollouts, trained), num_exposures - 1)
        _advance(
            observed, self.transition.reshape(-1, *self.transition.shape[2:]), exposure * num_clusters + codes[rows]
        )
        belief[:, rows] = observed
        return log_evidence

    def _conditioned(
        self, belief: NDArray, num_successes: NDArray, num_rollouts: NDArray
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return (state row) beliefs conditioned on one count each, and the counts' (row,) log-probabilities before."""
        if not belief.shape[1]:
            return belief, np.zeros(0)
        # The emission is computed once for each distinct count.
        counts = np.stack([num_successes, num_rollouts], axis=1)
        distinct, index = np.unique(counts, axis=0, return_inverse=True)
        index = index.reshape(-1)
        log_emission = self.log_emission(num_successes=distinct[:, 0], num_rollouts=distinct[:, 1])
        scale = log_emission.max(axis=0)
        likelihood = np.exp(log_emission - scale)
        belief = belief * likelihood[:, index]
        norm = belief.sum(axis=0)
        # Where the belief gave the count no chance (noise-free emissions), the count alone decides.
        impossible = norm <= 0
        belief[:, impossible] = likelihood[:, index[impossible]]
        belief /= np.where(impossible, belief.sum(axis=0), norm)
        return belief, scale[index] + np.log(np.maximum(norm, np.finfo(float).tiny))

    def belief(self, state: FrozenState) -> NDArray[np.float64]:
        """Return a copy of the (state prompt) beliefs."""
        return state.belief.copy()

    def _outcome_by_state(self, num_rollouts: int) -> NDArray[np.float64]:
        """Return (outcome state) chances that none, some and all rollouts of a group succeed."""
        extremes = np.array([0, num_rollouts])
        log_emission = self.log_emission(num_successes=extremes, num_rollouts=np.full(2, num_rollouts))
        none, every = np.exp(log_emission).T
        return np.stack([none, np.maximum(1.0 - none - every, 0.0), every])

    def outcome(self, state: FrozenState, num_rollouts: int | NDArray) -> NDArray[np.float64]:
        """Return (outcome prompt) forecast chances that none, some and all rollouts succeed."""
        return self._mix(state.belief, num_rollouts, slice(None))

    def informative(
        self, state: FrozenState, num_rollouts: int | NDArray, rng: np.random.Generator | None = None
    ) -> NDArray[np.float64]:
        """Return (prompt,) forecasts P(0 < k < n); with `rng`, P given a state drawn from the belief."""
        if rng is None:
            return self._mix(state.belief, num_rollouts, slice(1, 2))[0]
        states = draw_states(state.belief, rng)
        distinct, index = np.unique(np.broadcast_to(num_rollouts, states.shape), return_inverse=True)
        return np.stack([self._outcome_by_state(int(n))[1] for n in distinct])[index.reshape(-1), states]

    def _mix(self, belief: NDArray, num_rollouts: int | NDArray, outcomes: slice) -> NDArray[np.float64]:
        """Return (outcome prompt) chances of the given outcomes, averaged over states."""
        distinct = np.unique(num_rollouts)
        if distinct.size == 1:
            return _product(self._outcome_by_state(int(distinct[0]))[outcomes], belief)
        mixed = np.empty((len(range(3)[outcomes]), belief.shape[1]))
        for n in distinct:
            prompts = np.flatnonzero(num_rollouts == n)
            mixed[:, prompts] = _product(self._outcome_by_state(int(n))[outcomes], belief[:, prompts])
        return mixed

    def success_rate(self, state: FrozenState, rng: np.random.Generator | None = None) -> NDArray[np.float64]:
        """Return (prompt,) forecast success rates; with `rng`, those of states drawn from the beliefs."""
        if rng is None:
            return _product(self.rates[None], state.belief)[0]
        return self.rates[draw_states(state.belief, rng)]


def _advance(belief: NDArray, matrices: NDArray, codes: NDArray) -> None:
    """Move each prompt's (state,) belief one step, in place, by `matrices[code]` [current, next]."""
    num_states = len(belief)
    for block in _blocks(belief, num_states):
        part, part_codes = belief[:, block], codes[block]
        if len(matrices) == 1:
            part[:] = matrices[0].T @ part
            continue
        distinct = np.unique(part_codes)
        if len(distinct) * PRODUCT_WORK > part_codes.size * num_states**2:  # many matrices with few prompts each
            part[:] = np.einsum("ip,pij->jp", part, matrices[part_codes])
            continue
        for code in distinct:
            prompts = np.flatnonzero(part_codes == code)
            part[:, prompts] = matrices[code].T @ part[:, prompts]


def _blocks(belief: NDArray, num_rows: int) -> Iterator[slice]:
    """Yield slices of prompts, each small enough for one product with a (num_rows, state) matrix."""
    size = max(1, BLOCK_WORK // (num_rows * len(belief)))
    return (slice(start, start + size) for start in range(0, belief.shape[1], size))


def _product(matrix: NDArray, belief: NDArray) -> NDArray[np.float64]:
    """Return matrix @ belief, computed block by block."""
    out = np.empty((len(matrix), belief.shape[1]))
    for block in _blocks(belief, len(matrix)):
        np.matmul(matrix, belief[:, block], out=out[:, block])
    return out


def draw_states(belief: NDArray, rng: np.random.Generator) -> NDArray[np.intp]:
    """Draw a (prompt,) state for each prompt from (state prompt) probabilities, by inverse transform sampling."""
    uniform = rng.random(belief.shape[1])
    cumulative = np.zeros(belief.shape[1])
    states = np.zeros(belief.shape[1], np.intp)
    for row in belief[:-1]:
        cumulative += row
        states += uniform > cumulative
    return states
