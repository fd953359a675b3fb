"""The log marginal and its gradient in torch: the recursion of `promptdyn.kernels.jax`, with lanes on the last axis.

A custom autograd function keeps the filtered beliefs and makes one backward pass over them, which avoids an autograd
graph as long as the history.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from promptdyn.kernels.sequences import FRESH, Sequences

__all__ = ["log_marginal"]


def log_marginal(initial: Tensor, transition: Tensor, log_emission: Tensor, sequences: Sequences) -> Tensor:
    """Return log p(y_{0:T-1}) of each prompt with its latent path summed out; 0 for prompts in no lane.

    Args:
        initial: (cluster state) probabilities; all clusters share an axis of length 1.
        transition: (exposure cluster state state), row-stochastic [current, next]; the last exposure serves for those
            above it too.
        log_emission: (state symbol); symbol 0 is "missing" and is 0 in every state.
        sequences: the prompts' observations, in NumPy's arrays.

    Returns:
        (prompt,) tensor, differentiable with respect to the first three.
    """
    table = _table(initial, transition, sequences)
    evidence = _LogEvidence.apply(table, log_emission, _index(sequences.symbols), _index(sequences.moves))
    if sequences.owner is None:
        return evidence.sum(dim=0)
    # Empty cells belong to one more prompt, which is dropped.
    sums = evidence.new_zeros(sequences.num_prompts + 1).index_add(0, _index(sequences.owner).ravel(), evidence.ravel())
    return sums[:-1]


def _index(codes: Any) -> Tensor:
    return torch.as_tensor(np.asarray(codes, np.int64))


def _table(initial: Tensor, transition: Tensor, sequences: Sequences) -> Tensor:
    """Return the (move state state) matrix of each move, see `promptdyn.kernels.jax`."""
    level, gap, cluster = (_index(part) for part in (sequences.level, sequences.gap, sequences.cluster_index))
    matrix = transition[level.clamp(0, len(transition) - 1), cluster.clamp_max(transition.shape[1] - 1)]
    if sequences.longest_gap > 1:
        idle = transition[0]
        powers = torch.eye(idle.shape[-1], dtype=idle.dtype).expand(1, *idle.shape)
        while len(powers) < sequences.longest_gap:
            powers = torch.cat([powers, powers @ idle])
            idle = idle @ idle
        matrix = matrix @ powers[gap - 1, cluster.clamp_max(powers.shape[1] - 1)]
    fresh = initial[cluster.clamp_max(len(initial) - 1), None]
    return torch.where((level == FRESH)[:, None, None], fresh, matrix)


class _LogEvidence(torch.autograd.Function):
    """(cell lane) log P(y_t | the prompt's earlier cells). The gradient needs equal weights of a prompt's cells."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, log_emission: Tensor, symbols: Tensor, moves: Tensor) -> Tensor:
        scale = log_emission.max(dim=0).values
        likelihood = (log_emission - scale).exp()
        num_cells, num_lanes = symbols.shape
        num_states = len(log_emission)
        tiny = torch.finfo(table.dtype).tiny
        # Beliefs are uniform before the first cell, which a fresh move forgets.
        filtered = table.new_full((num_cells + 1, num_states, num_lanes), 1.0 / num_states)
        norm = table.new_empty(num_cells, num_lanes)
        for cell in range(num_cells):
            joint = torch.einsum("in,nij->jn", filtered[cell], table[moves[cell]]) * likelihood[:, symbols[cell]]
            norm[cell] = joint.sum(dim=0)
            # After an impossible observation the lane continues with a uniform belief, for its next prompt's sake.
            filtered[cell + 1] = torch.where(norm[cell] > 0, joint / norm[cell].clamp_min(tiny), 1.0 / num_states)
        ctx.save_for_backward(table, likelihood, symbols, moves, filtered)
        return norm.clamp_min(tiny).log() + scale[symbols]

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        table, likelihood, symbols, moves, filtered = ctx.saved_tensors
        tiny = torch.finfo(table.dtype).tiny
        emission, slope = torch.zeros_like(likelihood), torch.zeros_like(table)
        ahead = torch.ones_like(filtered[0])
        for cell in range(len(symbols) - 1, -1, -1):
            joint = filtered[cell + 1] * ahead
            emission.index_add_(1, symbols[cell], joint * (weight[cell] / joint.sum(dim=0).clamp_min(tiny)))
            at_cell, before = likelihood[:, symbols[cell]] * ahead, filtered[cell]
            earlier = torch.einsum("jn,nij->in", at_cell, table[moves[cell]])
            norm = (before * earlier).sum(dim=0).clamp_min(tiny)
            slope.index_add_(0, moves[cell], torch.einsum("in,jn->nij", before, at_cell * (weight[cell] / norm)))
            largest = earlier.max(dim=0).values
            ahead = torch.where(largest > 0, earlier / largest.clamp_min(tiny), 1.0)
        return slope, emission, None, None
