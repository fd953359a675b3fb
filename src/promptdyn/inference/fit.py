"""Fitting a model to a reward history, and the result as something to save, inspect and run online."""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import ConvergenceWarning, InputError, PromptdynWarning
from promptdyn.history import Counts, DenseHistory, Observed, RewardHistory
from promptdyn.inference.densities import load_density
from promptdyn.inference.engines import METHODS, Engine
from promptdyn.inference.engines.base import check_result
from promptdyn.models import MODELS
from promptdyn.models.base import (
    Chain,
    DynamicsLike,
    Params,
    Pool,
    as_dynamics,
    check_dynamics,
    cluster_of,
    for_pool,
    model_fault,
)
from promptdyn.online import DiscountedBeta, FrozenChain, FrozenMixture, OnlineFilter
from promptdyn.plugins import object_reference
from promptdyn.ppl import Backend, Program, chain_at
from promptdyn.progress import Report, bars
from promptdyn.prompts import PROMPT_ID, Columns, Ids, Prompts
from promptdyn.registry import Registry, describe
from promptdyn.storage import read_state, write_state

if TYPE_CHECKING:
    from promptdyn.inference._arviz import InferenceData

__all__ = ["Fit", "engine_for", "fit"]


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted model; made by hand from a model, parameters and cluster names, one whose parameters are known.

    Attributes:
        model: what was fitted.
        params: site -> array, see the model for shapes: a mode (EM, MAP) or the posterior mean (SVI, NUTS).
        cluster_names: (cluster,) labels in the order of the parameters' cluster axis.
        log_marginal: log p(observations | params), in nats, summed over prompts.
        num_observed: rollout groups fitted on.
        steps: (step,) the logged steps that they are of.
        marks: (step,) by which the groups of each of those steps are known again, see `RewardHistory.marks`.
        method: name and settings of the engine, backend and seed.
        trace: how the engine's objective went; see the engine.
        converged: whether the engine's criterion is met.
        verdict: one line: what the fit came to, and where it has not converged, what to do.
        diagnostics: the numbers behind the verdict, such as max_rhat, min_ess and divergences of NUTS.
        seconds: wall-clock time of the fit, compilation included.
        draws: site -> (chain draw ...) of the posterior (SVI, NUTS); empty for EM and MAP.
        sample_stats: ArviZ's name -> (chain draw) of NUTS; empty otherwise.
        prompt_ids: of a model whose chains are each prompt's own the prompts, in the order of that axis.
        prompt_clusters: and their codes among `cluster_names`.
        dense: what was fitted on; None in a fit that was loaded.
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
    def at(cls, program: Program, params: Params, pool: DenseHistory) -> Fit:
        """A fit of a program at known parameters, for the clusters (and own chains) of a history's prompts."""
        own = program.axis == "prompt"
        return cls(
            model=program.model,
            params=params,
            cluster_names=pool.cluster_names,
            prompt_ids=tuple(map(str, pool.prompt_ids)) if own else (),
            prompt_clusters=pool.cluster if own else np.zeros(0, np.int32),
        )

    def __repr__(self) -> str:
        return f"Fit({self.model!r}, {self.method['name']}, {self.num_observed} groups, {self.verdict})"

    @property
    def name(self) -> str:
        """What the model is called."""
        return self.model.name

    @property
    def cluster(self) -> Columns | None:
        """Column(s) whose labels the model's clusters are."""
        return cluster_of(self.model)

    @property
    def features(self) -> None:
        """A program reads no features."""

    def online(
        self,
        prompts: Prompts | Ids,
        num_samples: int = 0,
        exact: bool = True,
    ) -> OnlineFilter:
        """Online filter with the fitted parameters.

        Args:
            prompts: the pool, with the column(s) of `cluster`; for a model without clusters (prompt,) ids will do.
                Where chains are each prompt's own, prompts of the fit.
            num_samples: 0 (default) filters at `params`, more a mixture over so many of the posterior's draws, so that
                forecasts know how unsure the parameters are; at as many times the cost.
            exact: True (default), or False for a Beta per prompt that follows the chain by its moments
                (`promptdyn.online.DiscountedBeta`): two numbers a prompt instead of one per state.

        Raises:
            InputError: empty pool, repeated id, a missing column, a cluster or prompt not in the fit, more draws than
                it has, or draws that are to be filtered by moments.
        """
        if num_samples and not exact:
            raise InputError(f"num_samples={num_samples} with exact=False: a mixture of draws has an exact filter only")
        model = self.frozen(num_samples) if exact else DiscountedBeta(self._frozen(self.params))
        return OnlineFilter(model, prompts)

    def saw(self, history: RewardHistory) -> NDArray[np.bool_]:
        """(step,) whether the fit was made on what each of the history's logged steps shows, or its trained rows alone.

        A fit made by hand has seen nothing.

        Warns:
            PromptdynWarning: the fit was saved by a version that did not keep what it saw, so that nothing is known.
        """
        if self.num_observed and not len(self.marks):
            warnings.warn(
                f"{self.model.name}: the fit does not say which steps it was fitted on, an earlier version saved it: "
                "whether it has seen what it is to forecast is not known; fit again",
                PromptdynWarning,
                stacklevel=2,
            )
        seen = np.zeros(len(history.steps), bool)
        for rows in (history,) if history.trained.all() else (history, history.observed("trained")):
            seen |= np.isin(history.steps, rows.steps[np.isin(rows.marks(), self.marks)])
        return seen

    @property
    def pool(self) -> Pool:
        """Prompts that have parameters of their own, and the clusters."""
        return Pool(self.prompt_clusters, self.cluster_names)

    @cached_property
    def chain(self) -> Chain:
        """The chain of the fitted parameters: NumPy arrays and an emission."""
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
        """The fitted chain, or a mixture over draws, as what filters a pool; `online` makes one."""
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
        """ArviZ data of the fit; of EM and MAP, with the one point as one draw. See `inference_data`."""
        return self.inference_data()

    def inference_data(
        self,
        history: RewardHistory | None = None,
        *,
        posterior_predictive: bool = False,
        prior_predictive: bool = False,
    ) -> InferenceData:
        """ArviZ data: InferenceData, or DataTree from ArviZ 1.0 on.

        Groups: `posterior` and `prior` (sites, and what the program records; axes cluster, exposure, state, ...),
        `sample_stats` (NUTS), `log_likelihood` (`history`: of each prompt, the unit to leave out), `observed_data`
        (`num_successes` of each group of rollouts) and `constant_data` (whose groups those are).

            arviz.plot_ppc(fit.inference_data(posterior_predictive=True))

        Args:
            history: what the log likelihood and the observed data are of, all its rows; default what was fitted on,
                which a loaded fit no longer has: it goes without these groups.
            posterior_predictive: True also draws the counts that the same groups might have shown, one set per draw of
                the posterior, or 100 sets at the one point of EM and MAP. Default False.
            prior_predictive: and one set per draw of the prior. Default False.

        Warns:
            PromptdynWarning: `arviz.loo` and `arviz.compare` cannot use the log likelihood: it is of one point, or of
                prompts given parameters of their own.

        Raises:
            InputError: the history has other clusters than the fit, or other prompts where chains are a prompt's own;
                counts are to be drawn, and there is no history whose groups they would be of.
        """
        from promptdyn.inference.idata import inference_data

        dense = self.dense if history is None else history.dense(self.cluster)
        if dense is not None and dense.cluster_names != self.cluster_names:
            raise InputError(
                f"the history has clusters {', '.join(dense.cluster_names)}, the fit {', '.join(self.cluster_names)}"
            )
        if dense is not None and self.prompt_ids and tuple(map(str, dense.prompt_ids)) != self.prompt_ids:
            raise InputError(
                f"the history has not the {len(self.prompt_ids)} prompts of the fit, each with a chain of its own, or "
                "not in their order: give what was fitted on"
            )
        if dense is None and (posterior_predictive or prior_predictive):
            raise InputError(
                "a fit that was loaded has no history to draw counts for: give one, inference_data(history)"
            )
        return inference_data(self, dense, posterior_predictive, prior_predictive)

    def save(self, path: str | Path) -> None:
        """Write to one .npz file (arrays and JSON, versioned, no pickle), atomically; draws are kept.

        Raises:
            InputError: the path cannot be written; the model is no dataclass, or has a setting that is not a number, a
                word, or a tuple of them.
        """
        write_state(path, "fit", *self.state())

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray]]:
        """JSON-able values and arrays that `of_state` makes the fit of again, without what it was fitted on."""
        values = {
            "model": describe(self.model, exact=True),
            "declared": object_reference(type(self.model)),
            **{name: list(getattr(self, name)) for name in _NAMES},
            **{name: getattr(self, name) for name in _PLAIN},
        }
        arrays = {f"{part}/{name}": array for part in _DICTS for name, array in getattr(self, part).items()}
        return values, {**arrays, **{name: getattr(self, name) for name in _ARRAYS}}

    @classmethod
    def load(cls, path: str | Path, model: type[DynamicsLike] | None = None) -> Fit:
        """Read a fit.

        Args:
            path: what `save` wrote.
            model: class of the model that was fitted. Default: the one of its name in `MODELS`, where your own has a
                place once it is registered (`MODELS.register`). A file never says what code to run.

        Raises:
            InputError: no such file, damaged, of another model, or of one that is not registered.
        """
        values, arrays = read_state(path, "fit")
        with _whole(path):
            described: dict[str, Any] = values["model"]
            name, declared = str(described["name"]), str(values.get("declared", "FILE.py:NAME"))
        registry: Registry[Any, Any] = MODELS
        if model is not None:
            registry = Registry("model", fault=model_fault)
            if registry.register(model).name != name:
                raise InputError(f"{path}: a fit of model {name!r}, not of {model.name!r}")
        if name not in registry:
            raise InputError(
                f"{path}: a fit of model {name!r}, which is not registered: on the command line write "
                f"{declared}@{path}, in Python first MODELS.register({declared.rpartition(':')[2]})"
            )
        with _whole(path):
            return cls.of_state(values, arrays, registry[name])

    @classmethod
    def of_state(cls, values: Mapping[str, Any], arrays: Mapping[str, NDArray], model: type[DynamicsLike]) -> Fit:
        """A fit of what `state` gave and its model's class.

        Raises:
            InputError, KeyError, TypeError, AttributeError: something is missing, or not what it should be.
        """
        kept: dict[str, Any] = {name: values[name] for name in _PLAIN}
        kept |= {name: tuple(values[name]) for name in _NAMES}
        # Earlier versions did not keep what was seen.
        arrays = {**{name: np.zeros(0, kind) for name, kind in _SEEN.items()}, **arrays}
        parts: dict[str, Any] = {name: arrays[name] for name in _ARRAYS} | {name: {} for name in _DICTS}
        for key in arrays.keys() - set(_ARRAYS):
            part, _, name = key.partition("/")
            parts[part][name] = arrays[key]
        registry: Registry[Any, Any] = Registry("model")
        registry.register(model)
        made = cls(model=registry.from_description(values["model"]), **kept, **parts)
        _ = made.chain  # checks the parameters
        return made


@contextmanager
def _whole(path: str | Path) -> Iterator[None]:
    """Say of what a file lacks, or holds that is none, that the fit is not whole."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, InputError) as error:
        raise InputError(f"{path}: not a whole fit ({error}): fit again") from None


# How a fit's attributes are kept.
_PLAIN = ("log_marginal", "num_observed", "method", "converged", "verdict", "diagnostics", "seconds")
_NAMES = ("cluster_names", "prompt_ids")
_SEEN = {"steps": np.int32, "marks": np.uint64}
_ARRAYS = ("trace", "prompt_clusters", *_SEEN)
_DICTS = ("params", "draws", "sample_stats")


def fit(
    model: DynamicsLike,
    history: RewardHistory,
    method: str | Engine | None = None,
    *,
    backend: Backend = "numpyro",
    seed: int = 0,
    observed: Observed = "trained",
    progress: bool | Report = False,
    **options: object,
) -> Fit:
    """Fit a model to a reward history.

    Args:
        model: a model with parameters to learn: `DiscreteHMM`, or a program of your own. Models that learn online
            need no fit.
        history: what was logged.
        method: "em", "map" (the same mode, by gradient), "svi" (approximate posterior, in mini-batches) or "nuts"
            (posterior draws); one of a file, "FILE.py:NAME"; with settings, as in "svi:num_steps=5000"; or an engine,
            `SVI(num_steps=5000)`. Default: what the model names in `fitted_by`, else "em".
        backend: "numpyro" (default) or "pyro", what evaluates the program.
        seed: of what is random in SVI and NUTS; default 0.
        observed: the rows to fit on: "trained" (default), as live training would have observed them, or "all".
        progress: True shows a progress bar on stderr; or a function of (done, total, numbers to watch).
        **options: the engine's settings; see `EM`, `MAP`, `SVI`, `NUTS` in `promptdyn.inference`.

    Warns:
        ConvergenceWarning: the engine has not converged; the fit's `verdict` says what to do.

    Raises:
        InputError: a model that needs no fit, an unknown method, option or backend, a method that has no loop for the
            backend or returns what is no result, no observed rows, an unknown label column, a program that fails its
            contract, or a prompt whose observations the model holds impossible.
    """
    check_dynamics(model)
    engine = engine_for(model, method, options)
    visible = history.observed(observed)
    if len(visible) == 0:
        mend = "; observed='all' would use the others" if observed == "trained" and len(history) else ""
        raise InputError(f"the history has no rows to fit on (observed={observed!r}){mend}")
    begun = time.perf_counter()
    model = for_pool(model, visible.prompts)
    dense = visible.dense(cluster_of(model))
    density = load_density(backend)(model, dense)
    with _reported(progress, f"{engine.name}: {model.name}") as report:
        result = engine.run(density, seed, report)
    check_result(engine, result, density.program)
    log_marginal = float(density.log_marginals(result.params).sum())
    if not np.isfinite(log_marginal):
        raise InputError(
            f"{engine.name} of {model.name!r} came to parameters where the observations have log density "
            f"{log_marginal}: see that its program's chain holds probabilities wherever its priors allow"
        )
    if not result.converged:
        warnings.warn(f"{engine.name} of {model.name!r}: {result.verdict}", ConvergenceWarning, stacklevel=2)
    return replace(
        Fit.at(density.program, result.params, dense),
        log_marginal=log_marginal,
        num_observed=len(visible),
        steps=visible.steps,
        marks=visible.marks(),
        method={**describe(engine), "backend": backend, "seed": seed},
        trace=result.trace,
        converged=result.converged,
        verdict=result.verdict,
        diagnostics=result.diagnostics,
        seconds=time.perf_counter() - begun,
        draws=result.draws,
        sample_stats=result.sample_stats,
        dense=dense,
    )


def engine_for(model: DynamicsLike, method: str | Engine | None, options: Mapping[str, object]) -> Engine:
    """The engine that a method names, or else the one that a model does; raises as `Registry.resolve`."""
    return METHODS.resolve(method or as_dynamics(model).fitted_by, options)


@contextmanager
def _reported(progress: bool | Report, words: str) -> Iterator[Report]:
    """What an engine reports to. It is told last that what was done is all, since an engine may end early."""
    with bars() if progress is True else nullcontext() as tell:
        report: Report = partial(tell, words) if tell else progress or (lambda done, total, watch: None)  # type: ignore[assignment]
        last: tuple[int, int, Mapping[str, float]] = (0, 0, {})

        def passed_on(done: int, total: int, watch: Mapping[str, float]) -> None:
            nonlocal last
            last = done, total, watch
            report(done, total, watch)

        yield passed_on
        done, total, watch = last
        if done < total:
            report(done, done, watch)
