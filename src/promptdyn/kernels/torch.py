"""The log marginal with its gradient, in torch: the recursion of `promptdyn.kernels.jax`, lanes on the last axis.

A custom autograd function keeps the filtered beliefs and runs one backward pass over them, instead of an autograd graph
as long as the history.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from promptdyn.kernels.sequences import FRESH, Sequences

__all__ = ["log_marginal"]


def log_marginal(initial: Tensor, transition: Tensor, log_emission: Tensor, sequences: Sequences) -> Tensor:
    """log p(y_{0:T-1}) of each prompt, latent path summed out; 0 for prompts in none of the lanes.

    Args:
        initial: (cluster state) probabilities; a cluster axis of length 1 is shared by all.
        transition: (exposure cluster state state), row-stochastic [current, next]; the last exposure stands for those
            above it.
        log_emission: (state symbol); symbol 0 is "missing" and is 0 in every state.
        sequences: of the prompts, in NumPy's arrays.

    Returns:
        (prompt,) tensor, differentiable with respect to the first three.
    """
    table = _table(initial, transition, sequences)
    evidence = _LogEvidence.apply(table, log_emission, _index(sequences.symbols), _index(sequences.moves))
    if sequences.owner is None:
        return evidence.sum(dim=0)
    # Empty cells are those of one prompt more.
    sums = evidence.new_zeros(sequences.num_prompts + 1).index_add(0, _index(sequences.owner).ravel(), evidence.ravel())
    return sums[:-1]


def _index(codes: Any) -> Tensor:
    return torch.as_tensor(np.asarray(codes, np.int64))


def _table(initial: Tensor, transition: Tensor, sequences: Sequences) -> Tensor:
    """(move state state) the matrix of each move: see `promptdyn.kernels.jax`."""
    level, gap, place = (_index(part) for part in (sequences.level, sequences.gap, sequences.place))
    matrix = transition[level.clamp(0, len(transition) - 1), place.clamp_max(transition.shape[1] - 1)]
    if sequences.longest_gap > 1:
        idle = transition[0]
        powers = torch.eye(idle.shape[-1], dtype=idle.dtype).expand(1, *idle.shape)
        while len(powers) < sequences.longest_gap:
            powers = torch.cat([powers, powers @ idle])
            idle = idle @ idle
        matrix = matrix @ powers[gap - 1, place.clamp_max(powers.shape[1] - 1)]
    fresh = initial[place.clamp_max(len(initial) - 1), None]
    return torch.where((level == FRESH)[:, None, None], fresh, matrix)


class _LogEvidence(torch.autograd.Function):
    """(cell lane) log P(y_t | what the prompt had shown); its gradient is for weights that a prompt's cells share."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, log_emission: Tensor, symbols: Tensor, moves: Tensor) -> Tensor:
        scale = log_emission.max(dim=0).values
        likelihood = (log_emission - scale).exp()
        num_cells, num_lanes = symbols.shape
        num_states = len(log_emission)
        tiny = torch.finfo(table.dtype).tiny
        # Before their first cell, which a fresh move leaves, lanes are anywhere.
        filtered = table.new_full((num_cells + 1, num_states, num_lanes), 1.0 / num_states)
        norm = table.new_empty(num_cells, num_lanes)
        for cell in range(num_cells):
            joint = torch.einsum("in,nij->jn", filtered[cell], table[moves[cell]]) * likelihood[:, symbols[cell]]
            norm[cell] = joint.sum(dim=0)
            # After what the model holds impossible a lane goes on from anywhere: its next prompt has done nothing.
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
            here, before = likelihood[:, symbols[cell]] * ahead, filtered[cell]
            earlier = torch.einsum("jn,nij->in", here, table[moves[cell]])
            norm = (before * earlier).sum(dim=0).clamp_min(tiny)
            slope.index_add_(0, moves[cell], torch.einsum("in,jn->nij", before, here * (weight[cell] / norm)))
            largest = earlier.max(dim=0).values
            ahead = torch.where(largest > 0, earlier / largest.clamp_min(tiny), 1.0)
        return slope, emission, None, None
