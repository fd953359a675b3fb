"""Fitting a model to a reward history, and the result as something to save, inspect and run online."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError
from promptdyn.history import RewardHistory
from promptdyn.models import MODELS
from promptdyn.models.base import Chain, Dynamics, Params, Pool, cluster_of
from promptdyn.online import FrozenChain, OnlineFilter
from promptdyn.ppl import chain_at
from promptdyn.registry import describe
from promptdyn.storage import read_state, write_state

__all__ = ["METHODS", "Fit", "fit"]

METHODS = ("em",)
EM_OPTIONS = ("max_iterations", "tolerance")


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted model.

    Attributes:
        model: what was fitted.
        params: site -> array; see the model for shapes.
        cluster_names: (cluster,) labels in the order of the parameters' cluster axis.
        log_marginal: log p(observations | params), in nats, summed over prompts.
        num_observed: rollout groups fitted on.
        trace: (iteration,) log joint (log marginal + log prior).
        converged: whether the fit met its tolerance.
        seconds: wall-clock time of the fit, compilation included.
    """

    model: Dynamics
    params: Params
    cluster_names: tuple[str, ...]
    log_marginal: float
    num_observed: int
    trace: NDArray[np.float64]
    converged: bool
    seconds: float

    def online(self, prompt_ids: Sequence[str], clusters: Sequence[str | None] | None = None) -> OnlineFilter:
        """Exact online filter with the fitted parameters.

        Args:
            prompt_ids: (prompt,) unique ids.
            clusters: (prompt,) labels of the model's cluster column(s) (several columns: joined by "|");
                needed only by a model with clusters.

        Raises:
            InputError: empty pool, repeated id, or a cluster the fit has not seen.
        """
        return OnlineFilter(self.frozen(), prompt_ids, clusters)

    @cached_property
    def chain(self) -> Chain:
        """The chain of the fitted parameters: NumPy arrays and an emission."""
        return chain_at(self.model, self.params, Pool(np.zeros(0, np.int32), self.cluster_names))

    @property
    def success_rates(self) -> NDArray[np.float64]:
        """(state,) chance that a rollout succeeds."""
        return np.exp(self.chain.emission.log_prob(np.array([[1, 1]])))[:, 0]

    def frozen(self) -> FrozenChain:
        """The fitted chain as what filters a pool; `online` makes one."""
        digest = hashlib.sha256()
        for name in sorted(self.params):
            digest.update(name.encode() + np.ascontiguousarray(self.params[name]).tobytes())
        return FrozenChain(
            self.model.name,
            self.chain.initial,
            self.chain.transition,
            self.chain.emission.log_prob,
            None if cluster_of(self.model) is None else self.cluster_names,
            {**describe(self.model), "clusters": list(self.cluster_names), "params_sha256": digest.hexdigest()},
        )

    def save(self, path: str | Path) -> None:
        """Write to one .npz file (arrays and JSON, versioned, no pickle), atomically.

        Raises:
            InputError: the path cannot be written, or the model is not in `MODELS`, so that `load` could not make it.
        """
        if type(self.model) not in MODELS.values():
            raise InputError(
                f"a fit of {type(self.model).__name__} cannot be saved: only models in promptdyn.models.MODELS can be "
                "loaded again; use its .online() directly, or register it under a name of its own"
            )
        values = {
            "model": describe(self.model),
            "cluster_names": list(self.cluster_names),
            "log_marginal": self.log_marginal,
            "num_observed": self.num_observed,
            "converged": self.converged,
            "seconds": self.seconds,
        }
        arrays = {f"params/{name}": array for name, array in self.params.items()}
        write_state(path, "fit", values, {**arrays, "trace": self.trace})

    @classmethod
    def load(cls, path: str | Path) -> Fit:
        """Read a fit of one of the registered models; InputError says what is wrong with the file."""
        values, arrays = read_state(path, "fit")
        try:
            settings: dict[str, Any] = values.pop("model")
            settings = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
            model = MODELS.create(settings.pop("name"), settings)
            values["cluster_names"] = tuple(values["cluster_names"])
            trace = arrays.pop("trace")
            params = {name.removeprefix("params/"): array for name, array in arrays.items()}
            made = cls(model=model, params=params, trace=trace, **values)
            _ = made.chain  # checks the parameters
            return made
        except (KeyError, TypeError, InputError) as error:
            raise InputError(f"{path}: not a whole fit ({error}): fit again") from None


def fit(
    model: Dynamics,
    history: RewardHistory,
    method: str = "em",
    *,
    observed: str = "all",
    progress: Callable[[int, float], None] | None = None,
    **options: Any,
) -> Fit:
    """Fit a model to a reward history.

    Args:
        model: a model with parameters to learn (`DiscreteHMM`). Conjugate models need no fit.
        history: what was logged.
        method: "em".
        observed: "all" rows, or only the "trained" ones, as live training would have seen.
        progress: called with (iteration, log joint).
        **options: for EM `max_iterations` (200) and `tolerance` (1e-5 nats per group).

    Raises:
        InputError: a model that needs no fit, an unknown method or option, no observed rows, an unknown cluster
            column, or a prompt whose observations the model holds impossible.
    """
    if not isinstance(model, Dynamics):
        raise InputError(f"{type(model).__name__} has nothing to fit: use its .online(prompt_ids) directly")
    if method not in METHODS:
        raise InputError(f"method={method!r} is none of {', '.join(METHODS)}")
    unknown = [option for option in options if option not in EM_OPTIONS]
    if unknown:
        raise InputError(f"option {unknown[0]!r} is none of those of method 'em': {', '.join(EM_OPTIONS)}")
    visible = history.observed(observed)
    if len(visible) == 0:
        mend = "; observed='all' would use the others" if observed == "trained" and len(history) else ""
        raise InputError(f"the history has no rows to fit on (observed={observed!r}){mend}")
    # JAX is loaded here and not with the module: a saved fit runs online without it.
    from promptdyn.inference.em import em

    dense = visible.dense(cluster_of(model))
    start = time.perf_counter()
    result = em(model, dense, progress=progress, **options)
    return Fit(
        model=model,
        params=result.params,
        cluster_names=dense.cluster_names,
        log_marginal=result.log_marginal,
        num_observed=len(visible),
        trace=result.trace,
        converged=result.converged,
        seconds=time.perf_counter() - start,
    )
