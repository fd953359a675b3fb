"""The log marginal with its gradient, in torch: the recursion of `promptdyn.kernels.jax`, prompts on the last axis.

A custom autograd function keeps the filtered beliefs and runs one backward pass over them, instead of an autograd graph
as long as the history.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["log_marginal"]


def log_marginal(
    initial: Tensor,
    transition: Tensor,
    log_emission: Tensor,
    symbols: Tensor,
    exposure: Tensor,
    places: Tensor | None = None,
) -> Tensor:
    """log p(y_{0:T-1}) of each prompt, latent path summed out.

    Args:
        initial: (cluster state) probabilities; a cluster axis of length 1 is shared by all.
        transition: (exposure cluster state state), row-stochastic [current, next]; the last exposure stands for those
            above it.
        log_emission: (state symbol); symbol 0 is "missing" and is 0 in every state.
        symbols: (step prompt) columns of `log_emission`.
        exposure: (step prompt) 0, 1 or 2.
        places: (prompt,) of each prompt on the cluster axes; None where there is one entry for all.

    Returns:
        (prompt,) tensor, differentiable with respect to the first three.
    """

    def entries(array: Tensor, axis: int) -> Tensor:
        return array if places is None or array.shape[axis] == 1 else array.index_select(axis, places.long())

    level = exposure.long().clamp_max(transition.shape[0] - 1)
    return _LogMarginal.apply(
        entries(initial, 0).T, entries(transition, 1).movedim(1, -1), log_emission, symbols.long(), level
    )


def _moved(transition: Tensor, exposure: Tensor, equation: str, belief: Tensor) -> Tensor:
    """`equation` applied with each prompt's own transition matrix."""
    moved = torch.zeros_like(belief)
    for code, matrix in enumerate(transition):
        result = torch.einsum(equation, belief, matrix.expand(*matrix.shape[:2], belief.shape[1]))
        moved = result if len(transition) == 1 else torch.where(exposure == code, result, moved)
    return moved


class _LogMarginal(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, initial: Tensor, transition: Tensor, log_emission: Tensor, symbols: Tensor, exposure: Tensor
    ) -> Tensor:
        scale = log_emission.max(dim=0).values
        likelihood = (log_emission - scale).exp()
        num_steps, num_prompts = symbols.shape
        tiny = torch.finfo(initial.dtype).tiny
        predicted = initial.expand(-1, num_prompts)
        filtered = initial.new_empty(num_steps, initial.shape[0], num_prompts)
        total = initial.new_zeros(num_prompts)
        for step in range(num_steps):
            joint = predicted * likelihood[:, symbols[step]]
            norm = joint.sum(dim=0).clamp_min(tiny)
            filtered[step] = joint / norm
            total += norm.log() + scale[symbols[step]]
            predicted = _moved(transition, exposure[step], "in,ijn->jn", filtered[step])
        ctx.save_for_backward(initial, transition, likelihood, symbols, exposure, filtered)
        return total

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        initial, transition, likelihood, symbols, exposure, filtered = ctx.saved_tensors
        num_exposures, _, _, breadth = transition.shape
        tiny = torch.finfo(initial.dtype).tiny
        emission = torch.zeros_like(likelihood)
        pairs = torch.zeros_like(transition)
        emission.index_add_(1, symbols[-1], filtered[-1] * weight)
        future = torch.ones_like(filtered[-1])
        for step in range(len(symbols) - 2, -1, -1):
            ahead = likelihood[:, symbols[step + 1]] * future
            ahead = ahead / ahead.max(dim=0).values.clamp_min(tiny)
            future = _moved(transition, exposure[step], "jn,ijn->in", ahead)
            joint = filtered[step] * future
            norm = joint.sum(dim=0).clamp_min(tiny)
            emission.index_add_(1, symbols[step], joint / norm * weight)
            now = filtered[step] / norm * weight
            for code in range(num_exposures):
                of_code = now if num_exposures == 1 else now * (exposure[step] == code)
                pairs[code] += (
                    (of_code @ ahead.T)[..., None] if breadth == 1 else torch.einsum("in,jn->ijn", of_code, ahead)
                )
        ahead = likelihood[:, symbols[0]] * future
        first = ahead * weight / (initial * ahead).sum(dim=0).clamp_min(tiny)
        if initial.shape[1] == 1:
            first = first.sum(dim=1, keepdim=True)
        return first, pairs, emission, None, None
