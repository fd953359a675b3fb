"""Dynamics-Predictive Sampling (arXiv 2603.10887, ICLR 2026), exactly as published, or pooled over clusters.

Each prompt is a Markov chain of three states (0 unsolved, 1 partly solved, 2 solved), which its group of rollouts
shows without noise: none, some or all succeeded. The transition matrix of each prompt has a Dirichlet prior on every
row and is learned online with exponential forgetting.

The paper updates the Dirichlet counts of every prompt at every step, alpha <- d * alpha + (1 - d) * alpha_0 + xi. This
implementation stores only the learned part D = alpha - alpha_0 at the prompt's last observation and a weight d^age,
which gives the same numbers with a fraction of the memory traffic.

With clusters, the prior is learned: a prompt's rows are shrunk to the mean rows of its cluster, which come from a
Dirichlet prior alpha_0 and the transitions xi of all the cluster's prompts, decayed at every step. They are worth
`strength` transitions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError, check_choice
from promptdyn.history import outcome_of
from promptdyn.models.checks import check_decay, probability_vector
from promptdyn.online import OnlineModel, Pool

__all__ = ["DPS", "DPSState"]

# The paper's named priors, transposed to this library's [current, next].
PriorName = Literal["uniform", "progress", "stability", "local"]
PRIOR_TRANSITIONS: dict[str, list[list[float]]] = {
    "uniform": [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]],
    "progress": [[1.0, 1.0, 1.0], [0.5, 1.0, 1.0], [0.5, 0.5, 1.0]],
    "stability": [[1.0, 0.5, 0.5], [0.5, 1.0, 0.5], [0.5, 0.5, 1.0]],
    "local": [[1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 1.0]],
}
# Prompts per block of the pass over all prompts: its arrays (about 15 doubles per prompt) stay in the CPU's cache.
BLOCK = 8192


class DPSState(NamedTuple):
    """State of `DPS`, for each prompt and cluster."""

    learned: NDArray[np.float64]  # (current next prompt) transition counts above the prior, at the last observation
    weight: NDArray[np.float64]  # (prompt,) share of `learned` that is left since
    posterior: NDArray[np.float64]  # (state prompt) P(z_t | y_{0:t}) at the last step absorbed
    belief: NDArray[np.float64]  # (state prompt) P(z_{t+1} | y_{0:t})
    pooled: NDArray[np.float64]  # (current next cluster) discounted transition counts of the cluster, above the prior
    cluster: NDArray[np.int32]  # (prompt,) codes


@dataclass(frozen=True)
class DPS(OnlineModel[DPSState]):
    """Dynamics-Predictive Sampling.

    Attributes:
        decay: the paper's lambda, the share of the learned transition counts kept from one step to the next, in (0, 1].
            Default 0.7, as published for MATH; 0.5 was published for Countdown and Geometry3k.
        prior_transition: Dirichlet prior counts: one number for all entries (default 1), a name ("uniform",
            "progress", "stability", "local"), or a (3, 3) matrix [current, next].
        prior_initial: "uniform" (default) or three probabilities.
        cluster: column(s) whose labels are clusters that share transitions. Default None: no clusters.
        strength: number of transitions that the cluster's rows are worth to each prompt, above 0; default 4. Used with
            clusters only.
        cluster_decay: share of a cluster's counts kept from one step to the next, in (0, 1]; default 0.98.

    Raises:
        InputError: a setting is out of range.
    """

    decay: float = 0.7
    prior_transition: float | PriorName | Sequence[Sequence[float]] | NDArray[np.float64] = 1.0
    prior_initial: Literal["uniform"] | Sequence[float] | NDArray[np.float64] = "uniform"
    cluster: str | tuple[str, ...] | None = None
    strength: float = 4.0
    cluster_decay: float = 0.98

    name = "dps"
    shared = ("pooled",)
    num_states = 3

    def __post_init__(self) -> None:
        for setting in ("decay", "cluster_decay"):
            check_decay(getattr(self, setting), "DPS", setting)
        if not 0 < self.strength < np.inf:
            raise InputError(f"DPS: strength={self.strength} must be finite and above 0")
        _ = self._prior, self._initial  # both are checked where they are built

    @property
    def _prior(self) -> NDArray[np.float64]:
        value: Any = self.prior_transition
        if isinstance(value, str):
            check_choice("DPS: prior_transition", value, get_args(PriorName))
            value = PRIOR_TRANSITIONS[value]
        prior = np.asarray(value, dtype=float)
        if prior.ndim == 0:
            prior = np.full((3, 3), float(prior))
        if prior.shape != (3, 3) or not np.all((prior >= 0) & (prior < np.inf)) or not np.all(prior.sum(axis=1) > 0):
            raise InputError(
                f"DPS: prior_transition={self.prior_transition!r} is not a positive number, a name, or a 3 x 3 matrix "
                "of finite counts >= 0 with a positive sum in every row"
            )
        return prior

    @property
    def _initial(self) -> NDArray[np.float64]:
        if isinstance(self.prior_initial, str):
            if self.prior_initial != "uniform":
                raise InputError(f"DPS: prior_initial={self.prior_initial!r} is not 'uniform' or 3 probabilities")
            return np.full(3, 1 / 3)
        return probability_vector(self.prior_initial, 3, "DPS: prior_initial")

    def describe(self) -> dict[str, Any]:
        """Return name and settings, with the priors as numbers."""
        return {
            **super().describe(),
            "prior_transition": self._prior.tolist(),
            "prior_initial": self._initial.tolist(),
        }

    def init(self, pool: Pool) -> DPSState:
        """Return the state before anything is learned, at the initial belief."""
        size = pool.num_prompts
        belief = np.repeat(self._initial[:, None], size, axis=1)
        learned, pooled = np.zeros((3, 3, size)), np.zeros((3, 3, pool.num_clusters))
        return DPSState(learned, np.zeros(size), belief.copy(), belief, pooled, pool.cluster)

    def _prior_of_prompts(self, pooled: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the (current next cluster) prior counts of each cluster's prompts."""
        prior = self._prior[:, :, None]
        if self.cluster is None:
            return prior
        counts = prior + pooled
        return self.strength * counts / counts.sum(axis=1, keepdims=True)

    def step(
        self,
        state: DPSState,
        rows: NDArray[np.intp],
        num_successes: NDArray,
        num_rollouts: NDArray,
        trained: NDArray[np.bool_],
    ) -> DPSState:
        """Do one step of the paper's recursion (posterior, counts, forecast), in place. `trained` is not used."""
        learned, weight, posterior, belief, pooled, cluster = state
        prior = self._prior_of_prompts(pooled)
        observed = outcome_of(num_successes, num_rollouts)

        # xi(current, next) ∝ posterior_{t-1}(current) E[Phi](current, next) 1[next = observed]
        alpha = prior[:, :, cluster[rows]] + weight[rows] * learned[:, :, rows]
        next_probability = alpha[:, observed, np.arange(len(rows))] / alpha.sum(axis=1)
        xi = posterior[:, rows] * next_probability
        total = xi.sum(axis=0)
        # A jump that the prior rules out ("local") adds no transition count, instead of a division by zero.
        xi = np.divide(xi, total, out=np.zeros_like(xi), where=total > 0)
        counts = self.decay * weight[rows] * learned[:, :, rows]
        counts[:, observed, np.arange(len(rows))] += xi
        learned[:, :, rows] = counts

        weight *= self.decay
        weight[weight < 1e-20] = 0.0  # below rounding error; denormal numbers would be slow
        weight[rows] = 1.0
        posterior[:] = belief
        posterior[:, rows] = np.arange(3)[:, None] == observed
        if self.cluster is not None:
            pooled *= self.cluster_decay
            np.add.at(pooled.transpose(1, 2, 0), (observed, cluster[rows]), xi.T)
            prior = self._prior_of_prompts(pooled)

        for start in range(0, weight.size, BLOCK):
            block = slice(start, start + BLOCK)
            alpha = learned[:, :, block] * weight[block]
            alpha += prior if self.cluster is None else prior[:, :, cluster[block]]
            share = posterior[:, block] / alpha.sum(axis=1)
            alpha *= share[:, None]
            alpha.sum(axis=0, out=belief[:, block])
        return state

    def belief(self, state: DPSState) -> NDArray[np.float64]:
        """Return (state prompt) P(unsolved, partly solved, solved) at the next step."""
        return state.belief.copy()

    def outcome(self, state: DPSState, num_rollouts: int | NDArray) -> NDArray[np.float64]:
        """Return the (outcome prompt) belief itself, since a group shows its state without noise."""
        return state.belief.copy()

    def informative(
        self, state: DPSState, num_rollouts: int | NDArray, rng: np.random.Generator | None = None
    ) -> NDArray[np.float64]:
        """Return (prompt,) P(partly solved), which does not depend on `num_rollouts`.

        With `rng`, it is 1 if a state drawn from the belief is partly solved, else 0.
        """
        if rng is None:
            return state.belief[1].copy()
        return (rng.random(state.belief.shape[1]) < state.belief[1]).astype(float)

    def success_rate(self, state: DPSState, rng: np.random.Generator | None = None) -> NDArray[np.float64]:
        """Return (prompt,) success rates, one half for a partly solved prompt, since DPS does not use counts."""
        if rng is None:
            return state.belief[2] + 0.5 * state.belief[1]
        uniform = rng.random(state.belief.shape[1])
        return np.where(uniform < state.belief[2], 1.0, np.where(uniform < 1 - state.belief[0], 0.5, 0.0))
