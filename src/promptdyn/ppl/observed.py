"""A model's program with the counts of a history observed: one text for NumPyro and Pyro.

`observed` sums the latent paths out with the exact kernel. `enumerated` makes each state a site and leaves the sums to
the backend: it shows what the model is, and the kernel is tested against it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from promptdyn.history import Counts, DenseHistory, Exposure
from promptdyn.history.events import exposure_of
from promptdyn.models.base import Chain, DynamicsLike, Pool

__all__ = ["Groups", "enumerated", "observed"]


class Groups(NamedTuple):
    """Which prompts were rolled out at which steps, without the success counts that were observed."""

    cluster_index: NDArray[np.integer] | None  # (prompt,) on the chain's cluster axis; None: one entry for all
    symbol_of_none: NDArray[np.unsignedinteger]  # (step prompt) symbol of 0 successes; 0: not observed
    num_rollouts: NDArray[np.int32]  # (step prompt); 0: not observed
    trained: NDArray[np.bool_]  # (step prompt) whether the group fed the gradient
    counts: Counts  # of each symbol

    def exposure(self, num_successes: Any, xp: Any = np, step: Any = slice(None)) -> Any:
        """Return the exposure that each step has for each prompt if its groups have so many successes.

        Args:
            num_successes: (step prompt), or (prompt,) of one step.
            xp: array module of `num_successes`.
            step: index of that one step; default all steps.
        """
        num_rollouts, trained = xp.asarray(self.num_rollouts)[step], xp.asarray(self.trained)[step]
        return exposure_of(num_successes, num_rollouts, trained, xp)


def observed(ppl: Any, model: DynamicsLike, dense: DenseHistory, condition: bool = True) -> Chain:
    """Run the program with its success counts at the site `num_successes` (prompt step).

    Args:
        condition: True (default) observes the history's counts; False leaves them to be drawn.
    """
    pool = Pool.from_dense(dense)
    num_successes = dense.counts.num_successes[dense.symbols]
    symbol_of_none = (dense.symbols - num_successes).astype(dense.symbols.dtype)
    chain = model.program(ppl, pool)
    num_rollouts = dense.counts.num_rollouts[dense.symbols]
    trained = dense.exposure != Exposure.IDLE
    groups = Groups(chain.cluster_index(pool), symbol_of_none, num_rollouts, trained, dense.counts)
    with ppl.plate("prompt", pool.num_prompts):
        ppl.observe("num_successes", ppl.group_counts(chain, groups), num_successes.T if condition else None)
    return chain


def enumerated(ppl: Any, model: DynamicsLike, dense: DenseHistory) -> Chain:
    """Run the program with every prompt's state at step t as a site `latent_t`, which the backend enumerates."""
    pool, xp = Pool.from_dense(dense), ppl.xp
    chain = model.program(ppl, pool)
    num_exposures, num_moves = chain.transition.shape[:2]
    cluster_index = chain.cluster_index(pool)
    cluster = np.zeros(pool.num_prompts, np.int64) if cluster_index is None else cluster_index.astype(np.int64)
    start, move = (xp.asarray(np.minimum(cluster, size - 1)) for size in (chain.initial.shape[0], num_moves))
    exposure = xp.asarray(np.minimum(dense.exposure, num_exposures - 1).astype(np.int64))
    symbols = xp.asarray(dense.symbols.astype(np.int64))
    log_emission = chain.log_emission(dense.counts, xp)
    with ppl.plate("prompt", pool.num_prompts):
        chances = chain.initial[start]
        for t in range(len(dense.steps)):
            state = ppl.enumerate(f"latent_{t}", ppl.dist.Categorical(probs=chances))
            ppl.factor(f"group_{t}", log_emission[state, symbols[t]])
            chances = chain.transition[exposure[t], move, state]
    return chain
