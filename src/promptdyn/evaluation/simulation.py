"""Draw histories from a model run forward: to recover known parameters, to plan how much to log, to check a fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from promptdyn.clusters import uncross
from promptdyn.errors import InputError
from promptdyn.history import RewardHistory
from promptdyn.inference.fit import Fit
from promptdyn.models.base import DynamicsLike, Pool, cluster_of, for_pool
from promptdyn.models.checks import check_dynamics
from promptdyn.online import FrozenChain
from promptdyn.online.chain import draw_states
from promptdyn.online.state import fresh_state
from promptdyn.ppl import Backend, load_backend
from promptdyn.prompts import column_names

__all__ = ["Simulation", "simulate"]


class Simulation(NamedTuple):
    """A simulated history, with its latent states and parameters."""

    history: RewardHistory
    states: NDArray[np.intp]  # (step prompt) latent state of each prompt at each step
    truth: Fit  # the true parameters, whose forecasts no other beats except by luck


def simulate(
    source: Fit | DynamicsLike,
    *,
    num_prompts: int = 500,
    num_steps: int = 100,
    prompts_per_step: int | None = None,
    num_generations: int = 8,
    columns: Mapping[str, Sequence[str]] | None = None,
    like: RewardHistory | None = None,
    seed: int = 0,
    backend: Backend = "numpyro",
) -> Simulation:
    """Run a model forward over a pool of prompts.

    In each step, random prompts are rolled out and trained on, and every prompt moves by its exposure: idle, trained
    on, or trained on by a group that came out without variance. A success has reward 1, a failure 0.

    Args:
        source: a fit, which is run at its parameters; or a model, at parameters drawn from its prior.
        num_prompts: size of the pool; default 500.
        num_steps: number of training steps; default 100.
        prompts_per_step: number of groups per step; default the whole pool.
        num_generations: number of rollouts per group; default 8.
        columns: column -> (prompt,) labels. Default: prompts take the clusters of a fit in turn.
        like: a history whose prompts, labels, steps and groups are used instead of all of the above, so that only
            success counts are drawn.
        seed: seed of parameters, groups, states and counts; default 0.
        backend: library that draws a model's parameters, "numpyro" (default) or "pyro".

    Raises:
        InputError: a size below 1, more groups a step than prompts, labels that do not fit the pool or the fit, or a
            model that learns online and has no program.
    """
    model, truth = (source.model, source) if isinstance(source, Fit) else (source, None)
    check_dynamics(model)
    rng = np.random.default_rng(seed)
    if like is None:
        if columns is None:
            columns = _labels_in_turn(truth, num_prompts) if truth else {}
        like = _draw_groups(num_prompts, num_steps, prompts_per_step, num_generations, columns, rng)
    if len(like) == 0:
        raise InputError("like: the history has no rows to draw counts for")
    truth = truth or _draw_parameters(model, like, seed, backend)
    chain = truth.frozen()
    ids = like.prompts.ids
    state = fresh_state(chain, ids, [] if chain.cluster is None else list(like.prompts.labels(chain.cluster)), None)
    steps = like.steps
    bounds = np.searchsorted(like.step, np.append(steps, steps[-1] + 1))
    num_successes = np.zeros_like(like.num_successes)
    states = np.empty((len(steps), len(ids)), np.intp)
    for t in range(len(steps)):
        rows = slice(bounds[t], bounds[t + 1])
        prompts, n = like.prompt[rows].astype(np.intp), like.num_rollouts[rows]
        states[t] = draw_states(state.belief, rng)
        # Make the belief certain of the drawn states.
        state.belief[:] = np.arange(len(state.belief))[:, None] == states[t]
        k = num_successes[rows] = _draw_counts(chain, states[t, prompts], n, rng)
        chain.step(state, prompts, k, n, like.trained[rows])
    # Rewards of 1 for a success and 0 for a failure.
    n, share = like.num_rollouts, num_successes / like.num_rollouts
    return Simulation(
        replace(
            like,
            num_successes=num_successes,
            success=None,
            reward_mean=share.astype(np.float32),
            reward_std=np.sqrt(share * (1 - share) * n / np.maximum(n - 1, 1)).astype(np.float32),
        ),
        states,
        truth,
    )


def _draw_counts(
    chain: FrozenChain, states: NDArray, num_rollouts: NDArray, rng: np.random.Generator
) -> NDArray[np.int32]:
    """Draw a (group,) success count for each group, given its prompt's state."""
    num_successes = np.zeros(len(states), np.int32)
    for n in np.unique(num_rollouts):
        chances = np.exp(chain.log_emission(num_successes=np.arange(n + 1), num_rollouts=np.full(n + 1, n)))
        groups = num_rollouts == n
        num_successes[groups] = draw_states(chances[states[groups]].T, rng)
    return num_successes


def _draw_parameters(model: DynamicsLike, like: RewardHistory, seed: int, backend: Backend) -> Fit:
    """Return a model at parameters drawn from its prior, for the pool of a history."""
    model = for_pool(model, like.prompts)
    dense = like.dense(cluster_of(model))
    program = load_backend(backend).Program(model, Pool.from_dense(dense))
    params = {name: value[0] for name, value in program.prior(1, seed).items()}
    return replace(Fit.from_parameters(program, params, dense), verdict="parameters drawn from the prior")


def _labels_in_turn(fit: Fit, num_prompts: int) -> dict[str, list[str]]:
    """Return label column -> (prompt,) labels that deal the prompts out to the fit's clusters, one after another."""
    columns = column_names(fit.cluster)
    labels = [[name] if len(columns) == 1 else uncross(name) for name in fit.cluster_names]
    by_prompt = [labels[i % len(labels)] for i in range(num_prompts)]
    return {column: [label[i] for label in by_prompt] for i, column in enumerate(columns)}


def _draw_groups(
    num_prompts: int,
    num_steps: int,
    prompts_per_step: int | None,
    num_generations: int,
    columns: Mapping[str, Sequence[str]],
    rng: np.random.Generator,
) -> RewardHistory:
    """Return a history of random groups, without successes."""
    sizes = {"num_prompts": num_prompts, "num_steps": num_steps, "num_generations": num_generations}
    groups = num_prompts if prompts_per_step is None else prompts_per_step
    for name, size in {**sizes, "prompts_per_step": groups}.items():
        if size < 1:
            raise InputError(f"{name}={size} must be at least 1")
    if groups > num_prompts:
        raise InputError(f"prompts_per_step={groups} of num_prompts={num_prompts}: give at most as many")
    for column, labels in columns.items():
        if len(labels) != num_prompts:
            raise InputError(f"columns: column {column!r} has {len(labels)} labels for {num_prompts} prompts")
    chosen = np.concatenate([np.sort(rng.choice(num_prompts, groups, replace=False)) for _ in range(num_steps)])
    return RewardHistory(
        prompt_ids=np.array([f"p{i}" for i in range(num_prompts)], object),
        prompt=chosen.astype(np.int32),
        step=np.repeat(np.arange(num_steps, dtype=np.int32), groups),
        num_rollouts=np.full(len(chosen), num_generations, np.int32),
        num_successes=np.zeros(len(chosen), np.int32),
        trained=np.ones(len(chosen), bool),
        columns={column: np.array([str(label) for label in labels], object) for column, labels in columns.items()},
        pool_size=num_prompts,
    )
