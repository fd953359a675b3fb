"""The density of a program in Pyro and torch."""

from __future__ import annotations

from collections.abc import Mapping

import array_api_compat.torch
import numpy as np
import pyro
import torch
from numpy.typing import NDArray
from pyro import poutine
from torch import Tensor

from promptdyn.history import DenseHistory
from promptdyn.inference.densities import Values, check_explained, chunks
from promptdyn.kernels.sequences import Sequences
from promptdyn.kernels.torch import log_marginal
from promptdyn.models.base import Array, Chain, DynamicsLike, Params, Pool, Statistics
from promptdyn.ppl.pyro import Program, Pyro, double

__all__ = ["Density"]

Floats = NDArray[np.float64]
Markov = tuple[Tensor, Tensor, Tensor]  # initial, transition, log_emission


class Density:
    """See `promptdyn.inference.densities.Density`."""

    backend = "pyro"

    def __init__(self, model: DynamicsLike, dense: DenseHistory) -> None:
        self.dense = dense
        self.program = Program(model, Pool.from_dense(dense))
        self.sequences = Sequences.packed(dense.symbols, dense.exposure, self.program.cluster_index)
        self._chunks = chunks(self.sequences, self.program.num_states)

    def _markov(self, chain: Chain) -> Markov:
        return chain.initial, chain.transition, chain.log_emission(self.dense.counts, array_api_compat.torch)

    def _slopes(self, markov: Markov) -> tuple[list[Tensor], Floats]:
        """Return derivatives of the summed log marginal with respect to the chain, and the log marginals."""
        initial, transition, log_emission = (part.detach().requires_grad_() for part in markov)
        leaves = initial, transition, log_emission
        parts = []
        for chunk in self._chunks:
            in_chunk = log_marginal(*leaves, chunk)
            parts.append([*torch.autograd.grad(in_chunk.sum(), leaves), in_chunk.detach()])
        *slopes, log_marginals = (torch.stack(part).sum(dim=0) for part in zip(*parts, strict=True))
        explained = sum(
            float((slope * part.detach()).sum()) for slope, part in zip(slopes[:2], markov[:2], strict=True)
        )
        check_explained(self.dense, explained, self.sequences.path_length, log_marginals.numpy())
        return slopes, log_marginals.numpy()

    def unconstrain(self, params: Mapping[str, Array]) -> Values:
        """See `promptdyn.inference.densities.Density`."""
        return _numpy(self.program.unconstrain(params))

    def constrain(self, values: Mapping[str, Array]) -> Params:
        """See `promptdyn.inference.densities.Density`."""
        return _numpy(self.program.constrain({name: torch.tensor(value) for name, value in values.items()}))

    def joint(self, values: Values) -> tuple[float, Values]:
        """See `promptdyn.inference.densities.Density`."""
        leaves = _leaves(values)
        with double():
            chain, log_prior = self.program.evaluate(self.program.constrain(leaves))
            markov = self._markov(chain)
            slopes, log_marginals = self._slopes(markov)
            # The logarithm of 0 has no slope.
            parts = (
                (slope * torch.where(slope == 0, 0.0, part)).sum() for slope, part in zip(slopes, markov, strict=True)
            )
            gradient = _gradient(log_prior + sum(parts), leaves)
        return float(log_marginals.sum() + log_prior.item()), gradient

    def expected(self, params: Params) -> tuple[Statistics, float, float]:
        """See `promptdyn.inference.densities.Density`."""
        with double(), torch.no_grad():
            chain, log_prior = self.program.evaluate(params)
            markov = self._markov(chain)
        slopes, log_marginals = self._slopes(markov)
        initial, transition = (part * slope for part, slope in zip(markov[:2], slopes[:2], strict=True))
        statistics = Statistics(initial.numpy(), transition.numpy(), slopes[2].numpy(), self.dense.counts)
        return statistics, float(log_marginals.sum()), float(log_prior)

    def expected_joint(self, values: Values, fixed: Params, statistics: Statistics) -> tuple[float, Values]:
        """See `promptdyn.inference.densities.Density`."""
        leaves = _leaves(values)
        with double():
            chain, log_prior = self.program.evaluate({**fixed, **self.program.constrain(leaves)})
            initial, transition, log_emission = self._markov(chain)
            expected = [torch.tensor(part) for part in statistics[:3]]
            # If nothing is expected, the logarithm does not matter, even that of 0.
            joint = log_prior + (expected[2] * torch.where(expected[2] > 0, log_emission, 0.0)).sum()
            joint = joint + (expected[0] * torch.where(expected[0] > 0, initial, 1.0).log()).sum()
            joint = joint + (expected[1] * torch.where(expected[1] > 0, transition, 1.0).log()).sum()
            return joint.item(), _gradient(joint, leaves)

    def log_marginals(self, params: Params) -> Floats:
        """See `promptdyn.inference.densities.Density`."""
        with double(), torch.no_grad():
            markov = self._markov(self.program.evaluate(params)[0])
            return np.sum([log_marginal(*markov, chunk).numpy() for chunk in self._chunks], axis=0)

    def conditioned(self, sequences: Sequences | None, scale: float = 1.0) -> None:
        """See `promptdyn.inference.densities.Density`."""
        chain = self.program.model.program(Pyro(), self.program.pool)
        if sequences is None:
            return
        with poutine.scale(scale=scale):
            pyro.factor("num_successes", log_marginal(*self._markov(chain), sequences).sum())


def _numpy(tensors: Mapping[str, Tensor]) -> dict[str, Floats]:
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}


def _leaves(values: Values) -> dict[str, Tensor]:
    return {name: torch.tensor(value, dtype=torch.float64, requires_grad=True) for name, value in values.items()}


def _gradient(target: Tensor, leaves: dict[str, Tensor]) -> Values:
    slopes = torch.autograd.grad(target, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return {name: slope.numpy() for name, slope in zip(leaves, slopes, strict=True)}
