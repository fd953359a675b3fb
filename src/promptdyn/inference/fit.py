"""A fitted model: what an engine found, ready to save, to inspect and to filter with."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError, PromptdynWarning
from promptdyn.history import Counts, DenseHistory, RewardHistory
from promptdyn.inference.files import packed, read_fit, unpacked
from promptdyn.inference.idata import inference_data
from promptdyn.models.base import Chain, DynamicsLike, Params, Pool, cluster_of
from promptdyn.online import DiscountedBeta, FrozenChain, FrozenMixture, OnlineFilter
from promptdyn.ppl import Program, chain_at
from promptdyn.prompts import PROMPT_ID, Columns, Ids, Prompts
from promptdyn.registry import describe
from promptdyn.storage import write_state

if TYPE_CHECKING:
    from promptdyn.inference._arviz import InferenceData

__all__ = ["Fit"]


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted model. `Fit(model, params, cluster_names)` makes one from known parameters.

    Attributes:
        model: the model that was fitted.
        params: site -> array, with shapes as in the model: a mode (EM, MAP) or the posterior mean (SVI, NUTS).
        cluster_names: (cluster,) labels in the order of the parameters' cluster axis.
        log_marginal: log p(observations | params) in nats, summed over prompts.
        num_observed: number of rollout groups that were fitted on.
        steps: (step,) logged steps of these groups.
        marks: (step,) fingerprints of the groups of each of these steps, see `RewardHistory.marks`.
        method: name and settings of the engine, backend and seed.
        trace: the engine's objective over the run; see the engine.
        converged: whether the engine's criterion is met.
        verdict: the result in one line and, if the engine has not converged, what to do.
        diagnostics: the numbers behind the verdict, such as max_rhat, min_ess and divergences of NUTS.
        seconds: wall-clock time of the fit, compilation included.
        draws: site -> (chain draw ...) draws from the posterior (SVI, NUTS); empty for EM and MAP.
        sample_stats: ArviZ's name -> (chain draw) statistics of NUTS; empty otherwise.
        prompt_ids: ids of the prompts, in the order of the chain's prompt axis, if each prompt has a chain of its own;
            else empty.
        prompt_clusters: (prompt,) index of each of these prompts into `cluster_names`; else empty.
        dense: the history that was fitted on; None in a fit that was loaded.
    """

    model: DynamicsLike
    params: Params
    cluster_names: tuple[str, ...]
    log_marginal: float = np.nan
    num_observed: int = 0
    steps: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    marks: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))
    method: dict[str, Any] = field(default_factory=lambda: {"name": "given", "backend": "numpyro"})
    trace: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    converged: bool = True
    verdict: str = "parameters as given"
    diagnostics: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    draws: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    sample_stats: dict[str, NDArray] = field(default_factory=dict)
    prompt_ids: tuple[str, ...] = ()
    prompt_clusters: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    dense: DenseHistory | None = None

    @classmethod
    def from_parameters(cls, program: Program, params: Params, pool: DenseHistory) -> Fit:
        """Return a fit of a program at known parameters, for the clusters, and chains, of a history's prompts."""
        per_prompt = program.axis == "prompt"
        return cls(
            model=program.model,
            params=params,
            cluster_names=pool.cluster_names,
            prompt_ids=tuple(map(str, pool.prompt_ids)) if per_prompt else (),
            prompt_clusters=pool.cluster if per_prompt else np.zeros(0, np.int32),
        )

    def __repr__(self) -> str:
        return f"Fit({self.model!r}, {self.method['name']}, {self.num_observed} groups, {self.verdict})"

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.model.name

    @property
    def cluster(self) -> Columns | None:
        """Column(s) whose labels are the model's clusters."""
        return cluster_of(self.model)

    @property
    def features(self) -> None:
        """None, since a program uses no features."""

    def online(
        self,
        prompts: Prompts | Ids,
        num_samples: int = 0,
        exact: bool = True,
    ) -> OnlineFilter:
        """Start to filter a pool with the fitted parameters.

        Args:
            prompts: the pool, with the column(s) of `cluster`; for a model without clusters, (prompt,) ids will do. If
                each prompt has a chain of its own, the pool's prompts must be in the fit.
            num_samples: 0 (default) filters at `params`. A larger number filters a mixture of so many posterior draws,
                whose forecasts account for the uncertainty of the parameters, at so many times the cost.
            exact: True (default) is the exact filter. False is a Beta distribution per prompt that approximates it
                (`promptdyn.online.DiscountedBeta`), with two numbers per prompt instead of one per state.

        Raises:
            InputError: an empty pool, a repeated id, a missing column, a cluster or prompt that is not in the fit, more
                draws than the fit has, or draws with exact=False.
        """
        if num_samples and not exact:
            raise InputError(f"num_samples={num_samples} with exact=False: a mixture of draws has an exact filter only")
        model = self.frozen(num_samples) if exact else DiscountedBeta(self._frozen(self.params))
        return OnlineFilter(model, prompts)

    def was_fitted_on(self, history: RewardHistory) -> NDArray[np.bool_]:
        """Return (step,) whether the fit was made on a step's groups, all of them or those that were trained on.

        A fit from known parameters was fitted on nothing.

        Warns:
            PromptdynWarning: an earlier version saved the fit without its steps, so that nothing is known.
        """
        if self.num_observed and not len(self.marks):
            warnings.warn(
                f"{self.model.name}: an earlier version saved this fit without the steps that it was fitted on: they "
                "may be among those to forecast; fit again",
                PromptdynWarning,
                stacklevel=2,
            )
        fitted = np.zeros(len(history.steps), bool)
        for rows in (history,) if history.trained.all() else (history, history.observed("trained")):
            fitted |= np.isin(history.steps, rows.steps[np.isin(rows.marks(), self.marks)])
        return fitted

    @property
    def pool(self) -> Pool:
        """The fit's clusters, and the prompts that have parameters of their own."""
        return Pool(self.prompt_clusters, self.cluster_names)

    @cached_property
    def chain(self) -> Chain:
        """The chain at the fitted parameters, in NumPy arrays."""
        return chain_at(self.model, self.params, self.pool)

    @property
    def success_rates(self) -> NDArray[np.float64]:
        """(state,) chance that a rollout succeeds."""
        return np.exp(self.chain.log_emission(Counts(np.ones(1, np.int32), np.ones(1, np.int32))))[:, 0]

    @overload
    def frozen(self, num_samples: Literal[0] = 0) -> FrozenChain: ...
    @overload
    def frozen(self, num_samples: int) -> FrozenChain | FrozenMixture: ...
    def frozen(self, num_samples: int = 0) -> FrozenChain | FrozenMixture:
        """Return the online model of the fitted chain, or of a mixture of `num_samples` posterior draws."""
        if num_samples == 0:
            return self._frozen(self.params)
        flat = {name: value.reshape(-1, *value.shape[2:]) for name, value in self.draws.items()}
        available = len(next(iter(flat.values()))) if flat else 0
        if not 1 <= num_samples <= available:
            mend = f"give 1 to {available}" if available else "fit with method='nuts' or 'svi'"
            raise InputError(f"num_samples={num_samples}, but the fit has {available} posterior draws: {mend}")
        chosen = np.linspace(0, available - 1, num_samples).round().astype(int)
        chains = [self._frozen({name: value[draw] for name, value in flat.items()}) for draw in chosen]
        parts = [chain.describe()["params_sha256"] for chain in chains]
        return FrozenMixture(chains, {**chains[0].describe(), "params_sha256": parts})

    def _frozen(self, params: Params) -> FrozenChain:
        """Return the online model of the chain at given parameters."""
        chain = self.chain if params is self.params else chain_at(self.model, params, self.pool)
        digest = hashlib.sha256()
        for name in sorted(params):
            digest.update(name.encode() + np.ascontiguousarray(params[name]).tobytes())
        names = self.cluster_names if self.cluster is not None else None
        return FrozenChain(
            self.model.name,
            chain.initial,
            chain.transition,
            chain.emission.log_prob,
            self.prompt_ids or names,
            {**describe(self.model), "clusters": list(self.cluster_names), "params_sha256": digest.hexdigest()},
            PROMPT_ID if self.prompt_ids else self.cluster,
        )

    @cached_property
    def idata(self) -> InferenceData:
        """ArviZ data of the fit, see `inference_data`. The point of EM and MAP is one draw."""
        return self.inference_data()

    def inference_data(
        self,
        history: RewardHistory | None = None,
        *,
        posterior_predictive: bool = False,
        prior_predictive: bool = False,
    ) -> InferenceData:
        """Return ArviZ data: an InferenceData, or a DataTree from ArviZ 1.0 on.

        The groups are `posterior` and `prior` (sites, and values that the program records; axes cluster, exposure,
        state, ...), `sample_stats` (NUTS), `log_likelihood` (`history`, one value per prompt, which is the unit to
        leave out), `observed_data` (`num_successes` of each group of rollouts) and `constant_data` (prompt, step and
        size of each group).

            arviz.plot_ppc(fit.inference_data(posterior_predictive=True))

        Args:
            history: history of the log likelihood and the observed data, with all its rows. Default: the history that
                was fitted on; a loaded fit does not have it, and leaves these groups out.
            posterior_predictive: True also draws counts for the same groups, one set per posterior draw, or 100 sets at
                the point of EM and MAP. Default False.
            prior_predictive: True also draws one set of counts per draw from the prior. Default False.

        Warns:
            PromptdynWarning: `arviz.loo` and `arviz.compare` cannot use the log likelihood, since it is that of one
                point, or conditional on parameters that each prompt has of its own.

        Raises:
            InputError: the history has other clusters than the fit, or other prompts if each prompt has a chain of its
                own; or counts are to be drawn, and there is no history.
        """
        dense = self.dense if history is None else history.dense(self.cluster)
        if dense is not None and dense.cluster_names != self.cluster_names:
            raise InputError(
                f"the history has clusters {', '.join(dense.cluster_names)}, the fit {', '.join(self.cluster_names)}"
            )
        if dense is not None and self.prompt_ids and tuple(map(str, dense.prompt_ids)) != self.prompt_ids:
            raise InputError(
                f"the history's prompts are not the {len(self.prompt_ids)} of the fit, each with a chain of its own, "
                "in their order: give the history that was fitted on"
            )
        if dense is None and (posterior_predictive or prior_predictive):
            raise InputError(
                "a fit that was loaded has no history to draw counts for: give one, inference_data(history)"
            )
        return inference_data(self, dense, posterior_predictive, prior_predictive)

    def save(self, path: str | Path) -> None:
        """Write the fit, with its draws, to one .npz file, atomically; the file has a version and needs no pickle.

        Raises:
            InputError: the path cannot be written; the model is no dataclass, or has a setting that is not a number, a
                word, or a tuple of these.
        """
        write_state(path, "fit", *self.state())

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray]]:
        """Return JSON-able values and arrays for `from_state`; the history is not part of them."""
        return packed(vars(self))

    @classmethod
    def load(cls, path: str | Path, model: type[DynamicsLike] | None = None) -> Fit:
        """Read a fit.

        Args:
            path: a file that `save` wrote.
            model: class of the model that was fitted. Default: the class of that name in `MODELS`; register your own
                with `MODELS.register`. A file never decides which code runs.

        Raises:
            InputError: the file is missing or damaged, or of another model, or of a model that is not registered.
        """
        return read_fit(path, model, cls.from_state)

    @classmethod
    def from_state(cls, values: Mapping[str, Any], arrays: Mapping[str, NDArray], model: type[DynamicsLike]) -> Fit:
        """Return a fit from what `state` returned and its model's class.

        Raises:
            InputError, KeyError, TypeError, AttributeError: something is missing, or has another type.
        """
        loaded = cls(**unpacked(values, arrays, model))
        _ = loaded.chain  # checks the parameters
        return loaded
