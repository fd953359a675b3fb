"""The Pyro backend: the `PPL` that a program uses, `Program`, and the distribution of observed counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar

import array_api_compat.torch
import numpy as np
import pyro
import pyro.distributions
import torch
from numpy.typing import ArrayLike, NDArray
from pyro import poutine
from pyro.infer import Predictive
from pyro.infer.autoguide.initialization import InitMessenger
from torch import Tensor
from torch.distributions import biject_to, constraints

from promptdyn.errors import InputError
from promptdyn.history import DenseHistory
from promptdyn.kernels.sequences import Sequences
from promptdyn.kernels.torch import log_marginal
from promptdyn.models.base import Array, Chain, Distribution, DynamicsLike, Params, Pool
from promptdyn.ppl.fixed import chain_at, check_around
from promptdyn.ppl.observed import Groups, observed
from promptdyn.ppl.sites import EDGE, Names, around, check_sites, dims_of, only_what_is_handed_in, spread_of, start_of

__all__ = ["GroupCounts", "Program", "Pyro", "double", "run", "seeded"]


@contextmanager
def double() -> Iterator[None]:
    """Make new tensors double precision within the block."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw with a seed within the block, and restore the user's generator after it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


class Pyro:
    """The `PPL` of Pyro."""

    dist = pyro.distributions
    xp = array_api_compat.torch

    def __init__(self) -> None:
        self.names = Names()

    def sample(self, name: str, distribution: Distribution, init: ArrayLike | None = None) -> Tensor:
        infer: Any = {} if init is None else {"init": init}
        return pyro.sample(self.names.site(name), distribution, infer=infer)

    def plate(self, name: str, size: int) -> AbstractContextManager:
        return pyro.plate(self.names.plate(name), size)

    def deterministic(self, name: str, value: Tensor, dims: Sequence[str] = ()) -> Tensor:
        return pyro.deterministic(self.names.site(name), value)

    def observe(self, name: str, distribution: Distribution, value: NDArray | None) -> None:
        pyro.sample(self.names.site(name), distribution, obs=None if value is None else torch.as_tensor(value))

    def enumerate(self, name: str, distribution: Distribution) -> Tensor:
        return pyro.sample(self.names.site(name), distribution, infer={"enumerate": "parallel"})

    def factor(self, name: str, value: Tensor) -> None:
        pyro.factor(self.names.site(name), value)

    def group_counts(self, chain: Chain, groups: Groups) -> GroupCounts:
        return GroupCounts(chain, groups)


def run(function: Callable[..., Chain], model: DynamicsLike, dense: DenseHistory, **how: Any) -> Chain:
    """Run one of the functions of `promptdyn.ppl.observed`, in double precision."""
    with double():
        return function(Pyro(), model, dense, **how)


class Program:
    """See `promptdyn.ppl.Program`. Arrays are torch's, in double precision."""

    def __init__(self, model: DynamicsLike, pool: Pool) -> None:
        self.model, self.pool = model, pool
        try:
            ppl = Pyro()
            _, sites = self._trace(_start, ppl)
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            if "Multiple sample sites" not in reason:
                raise
            raise InputError(f"model {model.name!r}: its program samples a site twice: {reason}") from None
        self._supports = {name: site["fn"].support for name, site in sites.items()}
        values = {name: site["value"] for name, site in sites.items()}
        self.start: Params = check_sites(model.name, values, self._supports)
        self.dims = dims_of(model.name, sites, ppl.names, pool)
        chain = chain_at(model, self.start, pool)
        spreads = {name: spread_of(site) for name, site in sites.items()}
        check_around(model, around(self.start, self._supports, spreads), pool)
        self.axis, self.cluster_index = chain.axis, chain.cluster_index(pool)
        self.num_states = int(chain.initial.shape[1])

    def _trace(
        self, answer: Callable[[dict[str, Any]], Tensor], ppl: Pyro | None = None
    ) -> tuple[Chain, dict[str, Any]]:
        """Run the program with given values of its sites; return the chain and the sampled sites."""
        handed_in = only_what_is_handed_in(self.model.name, "jax", "jaxlib", "numpyro")
        with double(), poutine.trace() as tracer, InitMessenger(answer), handed_in:
            chain = self.model.program(ppl or Pyro(), self.pool)
        nodes = tracer.trace.nodes.items()
        kinds = {name: type(site.get("fn")).__name__ for name, site in nodes}
        return chain, {
            name: site
            for name, site in nodes
            if site["type"] == "sample" and not site["is_observed"] and kinds[name] != "_Subsample"
        }

    def evaluate(self, params: Mapping[str, Array]) -> tuple[Chain, Tensor]:
        """See `promptdyn.ppl.Program`."""
        values = {name: _tensor(value) for name, value in params.items()}
        chain, sites = self._trace(lambda site: values[site["name"]])
        parts = (site["fn"].log_prob(site["value"]).sum() for site in sites.values())
        return chain, sum(parts, torch.zeros((), dtype=torch.float64))

    def unconstrain(self, params: Mapping[str, Array]) -> dict[str, Tensor]:
        """See `promptdyn.ppl.Program`. Simplexes are kept away from their edges."""
        values = {}
        for name, value in params.items():
            value = _tensor(value)
            if self._supports[name] is constraints.simplex:
                value = value.clamp_min(EDGE)
                value = value / value.sum(dim=-1, keepdim=True)
            values[name] = biject_to(self._supports[name]).inv(value)
        return values

    def constrain(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `promptdyn.ppl.Program`."""
        return {name: biject_to(self._supports[name])(value) for name, value in values.items()}

    def prior(self, num_samples: int, seed: int) -> Params:
        """See `promptdyn.ppl.Program`."""
        with double(), seeded(seed):
            drawn = Predictive(lambda: self.model.program(Pyro(), self.pool), num_samples=num_samples)()
        shapes = {name: np.shape(value) for name, value in self.start.items()}
        return {name: drawn[name].detach().numpy().reshape(num_samples, *shape) for name, shape in shapes.items()}

    def predictive(self, dense: DenseHistory, draws: Params, seed: int) -> NDArray[np.integer]:
        """See `promptdyn.ppl.Program`."""
        values = {name: _tensor(value) for name, value in draws.items()}
        counts = []
        with double(), seeded(seed), torch.no_grad():
            for draw in range(len(next(iter(values.values())))):
                answers = {name: value[draw] for name, value in values.items()}
                with poutine.trace() as tracer, poutine.condition(data=answers):
                    observed(Pyro(), self.model, dense, condition=False)
                drawn: Any = tracer.trace.nodes["num_successes"]["value"]
                counts.append(drawn.numpy())
        return np.stack(counts)


def _tensor(value: Any) -> Tensor:
    return (
        value if isinstance(value, Tensor) else torch.tensor(np.array(value))
    )  # a copy, so that torch does not share memory with NumPy


def _start(site: dict[str, Any]) -> Tensor:
    """Return the value at which a fit starts at a site."""
    return torch.as_tensor(start_of(site), dtype=torch.float64).expand(site["fn"].shape()).clone()


class GroupCounts(pyro.distributions.TorchDistribution):
    """Success counts of the groups of many prompts, with the latent paths summed out: batch (prompt,), event (step,).

    Args:
        chain: the prompts' chain.
        groups: the groups that were rolled out.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.independent(constraints.nonnegative_integer, 1)

    def __init__(self, chain: Chain, groups: Groups) -> None:
        self.chain, self.groups = chain, groups
        num_steps, num_prompts = groups.symbol_of_none.shape
        super().__init__(torch.Size([num_prompts]), torch.Size([num_steps]), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> GroupCounts:
        """Return the distribution itself, which has one entry per prompt already."""
        if torch.Size(batch_shape) != self.batch_shape:
            raise InputError(f"the counts of {self.batch_shape[0]} prompts cannot stand in a plate of {batch_shape}")
        return self

    def _log_emission(self) -> Tensor:
        return self.chain.log_emission(self.groups.counts, array_api_compat.torch)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the (prompt,) log probability of (prompt step) success counts."""
        groups = self.groups
        symbols = value.T.numpy().astype(groups.symbol_of_none.dtype) + groups.symbol_of_none
        exposure = groups.exposure(value.T.numpy()).astype(np.uint8)
        sequences = Sequences.packed(symbols, exposure, groups.cluster_index)
        return log_marginal(self.chain.initial, self.chain.transition, self._log_emission(), sequences)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw counts forward: states along the chain, and each observed group's k."""
        if sample_shape:
            draws = [self.sample() for _ in range(int(np.prod(sample_shape)))]
            return torch.stack(draws).reshape(*sample_shape, *self.shape())
        groups, (initial, transition) = self.groups, self.chain[:2]
        num_exposures, num_moves = transition.shape[:2]
        cluster_index = torch.zeros(self.batch_shape, dtype=torch.long)
        if groups.cluster_index is not None:
            cluster_index = torch.as_tensor(groups.cluster_index).long()
        move = cluster_index.clamp_max(num_moves - 1)
        nones = torch.as_tensor(groups.symbol_of_none.astype(np.int64))
        sizes = torch.as_tensor(groups.counts.num_rollouts).long()
        k = torch.arange(int(sizes.max()) + 1)
        chance = self._log_emission().exp()
        with torch.no_grad():
            state = _draw(initial[cluster_index.clamp_max(initial.shape[0] - 1)])
            counts = []
            for step, none in enumerate(nones):
                possible = k <= sizes[none][:, None]
                symbols = torch.where(possible, none[:, None] + k, 0)
                counts.append(_draw(torch.where(possible, chance[state[:, None], symbols], 0.0)))
                level = groups.exposure(counts[-1], torch, step).clamp_max(num_exposures - 1)
                state = _draw(transition[level, move, state])
        return torch.stack(counts, dim=1)


def _draw(chances: Tensor) -> Tensor:
    """Draw a (prompt,) category for each row of weights."""
    return torch.multinomial(chances, 1)[:, 0]
