"""The oracle of the kernels' tests: sums over every one of the K^T latent paths, written as plainly as can be."""

from itertools import product
from typing import NamedTuple

import numpy as np


class PathSums(NamedTuple):
    log_marginal: float
    filtered: np.ndarray  # (step state)
    smoothed: np.ndarray  # (step state)
    transitions: np.ndarray  # (exposure state state) expected counts


def level(transition, exposure):
    """Place on the exposure axis: its last entry stands for all above it."""
    return min(int(exposure), len(transition) - 1)


def joint(initial, transition, log_emission, symbols, exposure, upto):
    """Path -> p(path, y_{0:upto-1}) for one prompt, over steps 0 .. upto - 1."""
    chances = {}
    for path in product(range(len(initial)), repeat=upto):
        p = initial[path[0]]
        for t, state in enumerate(path):
            p *= np.exp(log_emission[state, symbols[t]])
            if t + 1 < upto:
                p *= transition[level(transition, exposure[t]), state, path[t + 1]]
        chances[path] = p
    return chances


def path_sums(initial, transition, log_emission, symbols, exposure) -> PathSums:
    num_steps, num_states = len(symbols), len(initial)
    filtered = np.zeros((num_steps, num_states))
    for t in range(num_steps):
        for path, p in joint(initial, transition, log_emission, symbols, exposure, t + 1).items():
            filtered[t, path[-1]] += p
    smoothed = np.zeros((num_steps, num_states))
    transitions = np.zeros_like(transition)
    paths = joint(initial, transition, log_emission, symbols, exposure, num_steps)
    for path, p in paths.items():
        for t, state in enumerate(path):
            smoothed[t, state] += p
            if t + 1 < num_steps:
                transitions[level(transition, exposure[t]), state, path[t + 1]] += p
    total = sum(paths.values())
    return PathSums(
        log_marginal=float(np.log(total)),
        filtered=filtered / filtered.sum(axis=1, keepdims=True),
        smoothed=smoothed / total,
        transitions=transitions / total,
    )
