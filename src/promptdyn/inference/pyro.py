"""What the engines need of Pyro and torch. See `promptdyn.inference.engine.Density`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import array_api_compat.torch
import numpy as np
import pyro
import torch
from numpy.typing import NDArray
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Trace_ELBO, autoguide
from pyro.infer.autoguide.initialization import init_to_value
from torch import Tensor

from promptdyn.history import DenseHistory
from promptdyn.inference.engine import Values, check_explained, chunks, mini_batches
from promptdyn.kernels.sequences import Sequences
from promptdyn.kernels.torch import log_marginal
from promptdyn.models.base import Chain, DynamicsLike, Params, Pool, Statistics
from promptdyn.ppl.pyro import Program, Pyro, double, seeded

if TYPE_CHECKING:
    from promptdyn.inference.nuts import NUTS as NUTSSettings
    from promptdyn.inference.svi import SVI as SVISettings

__all__ = ["Density"]

Floats = NDArray[np.float64]
Markov = tuple[Tensor, Tensor, Tensor]  # initial, transition, log_emission


class Density:
    """See `promptdyn.inference.engine.Density`."""

    def __init__(self, model: DynamicsLike, dense: DenseHistory) -> None:
        self.dense = dense
        self.program = Program(model, Pool.of(dense))
        self._sequences = Sequences.packed(dense.symbols, dense.exposure, self.program.places)
        self._chunks = chunks(self._sequences, self.program.num_states)

    def _markov(self, chain: Chain) -> Markov:
        return chain.initial, chain.transition, chain.emission.log_prob(self.dense.counts, array_api_compat.torch)

    def _slopes(self, markov: Markov) -> tuple[list[Tensor], Floats]:
        """Derivatives of the summed log marginal with respect to the chain, and the log marginals."""
        initial, transition, log_emission = (part.detach().requires_grad_() for part in markov)
        leaves = initial, transition, log_emission
        parts = []
        for chunk in self._chunks:
            each = log_marginal(*leaves, chunk)
            parts.append([*torch.autograd.grad(each.sum(), leaves), each.detach()])
        *slopes, log_marginals = (torch.stack(part).sum(dim=0) for part in zip(*parts, strict=True))
        explained = sum(
            float((slope * part.detach()).sum()) for slope, part in zip(slopes[:2], markov[:2], strict=True)
        )
        check_explained(self.dense, explained, self._sequences.num_draws, log_marginals.numpy())
        return slopes, log_marginals.numpy()

    def unconstrain(self, params: Mapping[str, Any]) -> Values:
        """Sites as real numbers."""
        return _numpy(self.program.unconstrain(params))

    def constrain(self, values: Mapping[str, Any]) -> Params:
        """Sites of real numbers."""
        return _numpy(self.program.constrain({name: torch.tensor(value) for name, value in values.items()}))

    def joint(self, values: Values) -> tuple[float, Values]:
        """The log joint and its gradient."""
        leaves = _leaves(values)
        with double():
            chain, log_prior = self.program.at(self.program.constrain(leaves))
            markov = self._markov(chain)
            slopes, log_marginals = self._slopes(markov)
            # A logarithm of 0 has no slope.
            parts = (
                (slope * torch.where(slope == 0, 0.0, part)).sum() for slope, part in zip(slopes, markov, strict=True)
            )
            gradient = _gradient(log_prior + sum(parts), leaves)
        return float(log_marginals.sum() + log_prior.item()), gradient

    def expected(self, params: Params) -> tuple[Statistics, float, float]:
        """Expected counts, log marginal, log prior."""
        with double(), torch.no_grad():
            chain, log_prior = self.program.at(params)
            markov = self._markov(chain)
        slopes, log_marginals = self._slopes(markov)
        initial, transition = (part * slope for part, slope in zip(markov[:2], slopes[:2], strict=True))
        statistics = Statistics(initial.numpy(), transition.numpy(), slopes[2].numpy(), self.dense.counts)
        return statistics, float(log_marginals.sum()), float(log_prior)

    def expected_joint(self, values: Values, fixed: Params, statistics: Statistics) -> tuple[float, Values]:
        """The expected log joint and its gradient."""
        leaves = _leaves(values)
        with double():
            chain, log_prior = self.program.at({**fixed, **self.program.constrain(leaves)})
            initial, transition, log_emission = self._markov(chain)
            expected = [torch.tensor(part) for part in statistics[:3]]
            # Where nothing is expected the logarithm does not matter, even of 0.
            joint = log_prior + (expected[2] * torch.where(expected[2] > 0, log_emission, 0.0)).sum()
            joint = joint + (expected[0] * torch.where(expected[0] > 0, initial, 1.0).log()).sum()
            joint = joint + (expected[1] * torch.where(expected[1] > 0, transition, 1.0).log()).sum()
            return joint.item(), _gradient(joint, leaves)

    def log_marginals(self, params: Params) -> Floats:
        """(prompt,)."""
        with double(), torch.no_grad():
            markov = self._markov(self.program.at(params)[0])
            return np.sum([log_marginal(*markov, chunk).numpy() for chunk in self._chunks], axis=0)

    def _text(self, sequences: Sequences, scale: float) -> None:
        """The program with the counts of some prompts observed, each standing for `scale` prompts."""
        chain = self.program.model.program(Pyro(), self.program.pool)
        with poutine.scale(scale=scale):
            pyro.factor("num_successes", log_marginal(*self._markov(chain), sequences).sum())

    def svi(
        self, settings: SVISettings, seed: int, report: Callable[[int, float], None]
    ) -> tuple[dict[str, Floats], Floats]:
        """Adam on the ELBO of a guide."""
        sequences, num_lanes, scale = mini_batches(self.dense, self.program.places, settings.batch_size, seed)
        # Pyro's parameters are global: the user's own are put aside meanwhile.
        with double(), seeded(seed), pyro.get_param_store().scope():
            values = {name: torch.tensor(value) for name, value in self.program.start.items()}
            made: Any = getattr(autoguide, settings.guide)(self._text, init_loc_fn=init_to_value(values=values))
            optimiser = pyro.optim.ClippedAdam(
                {"lr": settings.learning_rate, "lrd": 0.1 ** (1 / settings.num_steps), "clip_norm": np.inf}
            )
            inference = SVI(self._text, made, optimiser, Trace_ELBO())
            batches = sequences.batches(num_lanes, seed)
            elbo = []
            for step in range(1, settings.num_steps + 1):
                elbo.append(-float(inference.step(next(batches), scale)))
                report(step, elbo[-1])
            with torch.no_grad():
                drawn = [made(sequences.lanes(slice(1)), 1.0) for _ in range(settings.num_draws)]
        return {name: np.stack([draw[name].numpy() for draw in drawn]) for name in self.program.start}, np.array(elbo)

    def nuts(
        self, settings: NUTSSettings, starts: Values, seed: int, report: Callable[[int, Mapping[str, float]], None]
    ) -> tuple[dict[str, Floats], dict[str, NDArray]]:
        """Draws from starts (chain ...), one chain after the other."""
        num_warmup, num_draws = settings.num_warmup, settings.num_draws
        num_chains = len(next(iter(starts.values())))
        total = num_warmup + num_draws
        chains: list[Values] = []
        energies = np.zeros((num_chains, num_draws))
        diverging = np.zeros((num_chains, num_draws), bool)
        for number in range(num_chains):
            with double(), seeded(seed + number):
                sampler = NUTS(
                    self._text, target_accept_prob=settings.target_accept, max_tree_depth=settings.max_tree_depth
                )
                sampler.initial_params = {name: torch.tensor(value[number]) for name, value in starts.items()}

                def after(kernel: Any, _: Any, stage: str, at: int, number: int = number) -> None:
                    energy = float(kernel._potential_energy_last)
                    if stage.startswith("Sample"):
                        energies[number, at] = energy
                    done = at + (num_warmup if stage.startswith("Sample") else 0) + 1
                    watch = {"log density": -energy, "diverged": len(kernel._divergences), "chain": number + 1}
                    report((number * total + done) // num_chains, watch)

                chain = MCMC(
                    sampler, num_samples=num_draws, warmup_steps=num_warmup, disable_progbar=True, hook_fn=after
                )
                chain.run(self._sequences, 1.0)
            chains.append(_numpy(chain.get_samples()))
            diverging[number, chain.diagnostics()["divergences"]["chain 0"]] = True
        draws = {name: np.stack([each[name] for each in chains]) for name in self.program.start}
        return draws, {"diverging": diverging, "lp": -energies}


def _numpy(tensors: Mapping[str, Tensor]) -> dict[str, Floats]:
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}


def _leaves(values: Values) -> dict[str, Tensor]:
    return {name: torch.tensor(value, dtype=torch.float64, requires_grad=True) for name, value in values.items()}


def _gradient(of: Tensor, leaves: dict[str, Tensor]) -> Values:
    slopes = torch.autograd.grad(of, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return {name: slope.numpy() for name, slope in zip(leaves, slopes, strict=True)}
