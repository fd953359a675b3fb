"""Pyro: what it hands to a program, a program at chosen parameters, and the distribution of observed counts."""

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
    """Make tensors of Python numbers in double precision, as those of NumPy's arrays are."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw by a seed, and leave the user's generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


class Pyro:
    """The names that a program is handed."""

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


def run(text: Callable[..., Chain], model: DynamicsLike, dense: DenseHistory, **how: Any) -> Chain:
    """Run one of the texts of `promptdyn.ppl.observed`, in double precision."""
    with double():
        return text(Pyro(), model, dense, **how)


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
        self.axis, self.places = chain.axis, chain.places(pool)
        self.num_states = int(chain.initial.shape[1])

    def _trace(
        self, answer: Callable[[dict[str, Any]], Tensor], ppl: Pyro | None = None
    ) -> tuple[Chain, dict[str, Any]]:
        """Run the program with its sites answered."""
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

    def at(self, params: Mapping[str, Array]) -> tuple[Chain, Tensor]:
        """The chain and the log prior density at given parameters."""
        given = {name: _tensor(value) for name, value in params.items()}
        chain, sites = self._trace(lambda site: given[site["name"]])
        parts = (site["fn"].log_prob(site["value"]).sum() for site in sites.values())
        return chain, sum(parts, torch.zeros((), dtype=torch.float64))

    def unconstrain(self, params: Mapping[str, Array]) -> dict[str, Tensor]:
        """Sites as real numbers. Simplexes are kept off their edges."""
        values = {}
        for name, value in params.items():
            value = _tensor(value)
            if self._supports[name] is constraints.simplex:
                value = value.clamp_min(EDGE)
                value = value / value.sum(dim=-1, keepdim=True)
            values[name] = biject_to(self._supports[name]).inv(value)
        return values

    def constrain(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sites of real numbers."""
        return {name: biject_to(self._supports[name])(value) for name, value in values.items()}

    def prior(self, num_samples: int, seed: int) -> Params:
        """site -> (draw ...) drawn from the program run forward."""
        with double(), seeded(seed):
            drawn = Predictive(lambda: self.model.program(Pyro(), self.pool), num_samples=num_samples)()
        shapes = {name: np.shape(value) for name, value in self.start.items()}
        return {name: drawn[name].detach().numpy().reshape(num_samples, *shape) for name, shape in shapes.items()}

    def predictive(self, dense: DenseHistory, draws: Params, seed: int) -> NDArray[np.integer]:
        """(draw prompt step) success counts that the groups of a history might have shown, one set per draw."""
        given = {name: _tensor(value) for name, value in draws.items()}
        shown = []
        with double(), seeded(seed), torch.no_grad():
            for draw in range(len(next(iter(given.values())))):
                answers = {name: value[draw] for name, value in given.items()}
                with poutine.trace() as tracer, poutine.condition(data=answers):
                    observed(Pyro(), self.model, dense, condition=False)
                drawn: Any = tracer.trace.nodes["num_successes"]["value"]
                shown.append(drawn.numpy())
        return np.stack(shown)


def _tensor(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else torch.tensor(np.array(value))  # a copy, which torch does not share


def _start(site: dict[str, Any]) -> Tensor:
    """Where fitting starts at a site."""
    return torch.as_tensor(start_of(site), dtype=torch.float64).expand(site["fn"].shape()).clone()


class GroupCounts(pyro.distributions.TorchDistribution):
    """Success counts of the groups of many prompts: batch (prompt,), event (step,), the latent paths summed out.

    Args:
        chain: of the prompts.
        groups: which groups were rolled out when.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.independent(constraints.nonnegative_integer, 1)

    def __init__(self, chain: Chain, groups: Groups) -> None:
        self.chain, self.groups = chain, groups
        num_steps, num_prompts = groups.symbol_of_none.shape
        super().__init__(torch.Size([num_prompts]), torch.Size([num_steps]), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> GroupCounts:
        """Itself: it holds one entry per prompt already."""
        if torch.Size(batch_shape) != self.batch_shape:
            raise InputError(f"the counts of {self.batch_shape[0]} prompts cannot stand in a plate of {batch_shape}")
        return self

    def _log_emission(self) -> Tensor:
        return self.chain.log_emission(self.groups.counts, array_api_compat.torch)

    def log_prob(self, value: Tensor) -> Tensor:
        """(prompt,) log probability of (prompt step) success counts."""
        groups = self.groups
        symbols = value.T.numpy().astype(groups.symbol_of_none.dtype) + groups.symbol_of_none
        exposure = groups.exposure(value.T.numpy()).astype(np.uint8)
        sequences = Sequences.packed(symbols, exposure, groups.places)
        return log_marginal(self.chain.initial, self.chain.transition, self._log_emission(), sequences)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Counts drawn forward: states along the chain, then each observed group's k."""
        if sample_shape:
            draws = [self.sample() for _ in range(int(np.prod(sample_shape)))]
            return torch.stack(draws).reshape(*sample_shape, *self.shape())
        groups, (initial, transition) = self.groups, self.chain[:2]
        num_exposures, num_moves = transition.shape[:2]
        places = torch.zeros(self.batch_shape, dtype=torch.long)
        if groups.places is not None:
            places = torch.as_tensor(groups.places).long()
        move = places.clamp_max(num_moves - 1)
        nones = torch.as_tensor(groups.symbol_of_none.astype(np.int64))
        sizes = torch.as_tensor(groups.counts.num_rollouts).long()
        k = torch.arange(int(sizes.max()) + 1)
        chance = self._log_emission().exp()
        with torch.no_grad():
            state = _draw(initial[places.clamp_max(initial.shape[0] - 1)])
            shown = []
            for step, none in enumerate(nones):
                possible = k <= sizes[none][:, None]
                symbols = torch.where(possible, none[:, None] + k, 0)
                shown.append(_draw(torch.where(possible, chance[state[:, None], symbols], 0.0)))
                level = groups.exposure(shown[-1], torch, step).clamp_max(num_exposures - 1)
                state = _draw(transition[level, move, state])
        return torch.stack(shown, dim=1)


def _draw(chances: Tensor) -> Tensor:
    """(prompt,) one category per row of weights."""
    return torch.multinomial(chances, 1)[:, 0]
