"""Fit a program again and again during a training run, on the run's own history, in another process."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError, PromptdynWarning
from promptdyn.inference.background import CLUSTER, BackgroundFit, Step
from promptdyn.inference.engines import Engine
from promptdyn.inference.fit import Fit
from promptdyn.inference.fitting import engine_for
from promptdyn.models import InformativeRate
from promptdyn.models.base import DynamicsLike, cluster_of, for_pool
from promptdyn.models.checks import check_dynamics
from promptdyn.online import OnlineFilter, OnlineModel
from promptdyn.online.state import fresh_state
from promptdyn.prompts import Columns, Ids, Prompts
from promptdyn.registry import describe, text_of
from promptdyn.storage import flatten, nest

__all__ = ["Refitted", "RefittedFilter"]


@dataclass(frozen=True)
class Refitted:
    """A model that is fitted again every so many steps of a run, on what the run has observed so far.

    Before the first fit, `start` makes the forecasts. A fit that begins after step s takes over after step s + lag; if
    it is late, the run waits for it. So the time of a change does not depend on the speed of the machine, and a run, or
    one that is resumed from any checkpoint, always makes the same choices.

    Attributes:
        model: the program to fit. Your own class must be in a file, not in a notebook's cell.
        every: number of steps from one fit to the next; default 50.
        lag: number of steps that a fit may take before the run waits for it, below `every`; default a fifth of it.
        start: model that forecasts before the first fit; default `InformativeRate` with the model's clusters.
        settings: arguments of `promptdyn.fit`: method, backend, seed, and options of the engine, such as
            {"method": "map", "tolerance": 1e-4}; default none. Your own engine must be in a file too.

    Raises:
        InputError: a setting is out of range, the model has no program, or the engine is unknown.
    """

    model: DynamicsLike
    every: int = 50
    lag: int | None = None
    start: OnlineModel | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    name = "refitted"

    def __post_init__(self) -> None:
        check_dynamics(self.model)
        for thing in (self.model, self.engine):
            describe(thing, exact=True)
            cls = type(thing)
            if cls.__module__ == "__main__" or "<locals>" in cls.__qualname__:
                raise InputError(
                    f"Refitted: {cls.__qualname__} is declared in a cell, a script or a function, where another "
                    "process cannot find it: put it in a file of its own and import it"
                )
        if self.start is not None and self.start.features is not None:
            raise InputError(f"Refitted: start={self.start!r} uses features, which a program cannot: give another")
        if self.every < 1 or not 0 <= self.steps_to_fit < self.every:
            raise InputError(f"Refitted: every={self.every}, lag={self.lag}: need every >= 1 and 0 <= lag < every")

    @property
    def engine(self) -> Engine:
        """The engine that fits."""
        options = {name: value for name, value in self.settings.items() if name not in ("method", "backend", "seed")}
        return engine_for(self.model, self.settings.get("method"), options)

    @property
    def steps_to_fit(self) -> int:
        """Number of steps between the beginning of a fit and its use."""
        return self.every // 5 if self.lag is None else self.lag

    @property
    def cluster(self) -> Columns | None:
        """Column(s) whose labels are the model's clusters."""
        return cluster_of(self.model)

    @property
    def features(self) -> None:
        """None, since a program uses no features."""

    def online(self, prompts: Prompts | Ids) -> RefittedFilter:
        """Start to filter a pool.

        Args:
            prompts: the pool, with the column(s) that the model's `cluster` names. If it names none, (prompt,) ids will
                do.

        Raises:
            InputError: an id appears twice, the pool is empty, or a column is missing.
        """
        return RefittedFilter(self, Prompts.of(prompts))


class RefittedFilter(OnlineFilter):
    """The filter of `Refitted`: an `OnlineFilter` whose model is replaced whenever a new fit is ready.

    `add` accepts prompts of clusters that the present fit knows. When the next fit takes over, they count as if they
    had been idle from the start.

    Attributes:
        fit: the present fit; None before the first.
    """

    def __init__(self, refitted: Refitted, prompts: Prompts) -> None:
        self.refitted = refitted
        model: Any = for_pool(refitted.model, prompts)
        start = None if refitted.start is None else refitted.start.for_pool(prompts)
        columns = cluster_of(model)
        self._fitted = model if columns is None else replace(model, cluster=CLUSTER)
        self._start = start or InformativeRate(cluster=None if columns is None else CLUSTER)
        self._columns = columns or self._start.cluster
        if start is not None and start.cluster not in (None, self._columns):
            raise InputError(
                f"Refitted: start={start.name!r} has cluster={start.cluster!r}, the model {columns!r}: make them the "
                "same"
            )
        super().__init__(self._start, prompts)
        self.fit: Fit | None = None
        self._log: list[Step] = []
        self._job: BackgroundFit | None = None

    def _clustered_by(self) -> tuple[str, Columns | None]:
        """Return the fitted model's name, and its columns or else those of the model that forecasts first."""
        return self.refitted.model.name, self._columns

    def describe(self) -> dict[str, Any]:
        """Return JSON-able settings."""
        return {
            "name": self.refitted.name,
            "model": describe(self._fitted, exact=True),
            "every": self.refitted.every,
            "lag": self.refitted.steps_to_fit,
            "start": self._start.describe(),
            "settings": {
                name: text_of(value) if isinstance(value, Engine) else value
                for name, value in self.refitted.settings.items()
            },
        }

    def reset(self) -> None:
        """Go back to the state before the first step and the first fit."""
        self.model, self.fit, self._log, self._job = self._start, None, [], None
        super().reset()

    def _absorb(self, *step: NDArray) -> None:
        self._log.append(Step(*step))
        super()._absorb(*step)
        if self.steps % self.refitted.every == 0:
            self._begin(self.steps)
        if self._job and self.steps >= self._job.num_steps + self.refitted.steps_to_fit:
            self._exchange(self._job)
            self._job = None

    def _begin(self, num_steps: int) -> None:
        """Begin a fit on the first `num_steps` steps."""
        if any(len(step.rows) for step in self._log[:num_steps]):
            settings = {name: value for name, value in self.refitted.settings.items() if name in ("backend", "seed")}
            self._job = BackgroundFit(
                self._fitted, self.refitted.engine, settings, self._log[:num_steps], self._clusters
            )

    def _exchange(self, job: BackgroundFit) -> None:
        """Let the new fit take over, from its beliefs after all steps so far."""
        try:
            new_fit, belief, rows = job.result()
            model = new_fit.frozen()
            state = fresh_state(model, self._ids, self._clusters, None)
        except InputError as error:
            warnings.warn(f"step {self.steps}: {error}; selection goes on without it", PromptdynWarning, stacklevel=2)
            return
        # Prompts that were rolled out have beliefs of their own. Then comes one belief per cluster, for all others.
        unseen = belief[:, len(rows) :]
        state.belief[:] = unseen[:, state.cluster if unseen.shape[1] > 1 else np.zeros_like(state.cluster)]
        state.belief[:, rows] = belief[:, : len(rows)]
        for step in self._log[job.num_steps : self.steps]:
            state = model.step(state, *step)
        self.model, self._state, self.fit = model, state, new_fit

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to continue: the filter's state, the steps so far, and the present fit."""
        state = super().state_dict()
        values, arrays = self.fit.state() if self.fit else ({}, {})
        log = [np.concatenate(part) if part else np.zeros(0, np.int64) for part in zip(*self._log, strict=True)]
        log = log or [np.zeros(0, np.int64)] * len(Step._fields)
        groups = np.array([len(step.rows) for step in self._log], np.int64)
        return {
            **state,
            "model": self.describe(),
            "fit": values,
            "fitting_since": self._job.num_steps if self._job else None,
            "arrays": flatten(
                {
                    "state": state["arrays"],
                    "fit": arrays,
                    "log": {**dict(zip(Step._fields, log, strict=True)), "groups": groups},
                }
            ),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state, and begin a fit again if one was under way.

        Raises:
            InputError: as in `OnlineFilter.load_state_dict`. The filter is left unchanged then.
        """
        if state.get("model") != self.describe():
            raise InputError(f"the state was saved by model {state.get('model')}, this filter's is {self.describe()}")
        before = self.model
        try:
            parts = nest(state["arrays"], ("state", "fit", "log"))
            saved_fit = Fit.from_state(state["fit"], parts["fit"], type(self._fitted)) if state["fit"] else None
            ends = np.cumsum(parts["log"].pop("groups"))[:-1]
            pieces = [np.split(parts["log"][name], ends) for name in Step._fields]
            log = [Step(*step) for step in zip(*pieces, strict=True)] if state["steps"] else []
            since = state["fitting_since"]
            self.model = saved_fit.frozen() if saved_fit else self._start
            super().load_state_dict({**state, "model": self.model.describe(), "arrays": parts["state"]})
        except (KeyError, TypeError, ValueError) as error:
            self.model = before
            if isinstance(error, InputError):
                raise
            raise InputError(f"the state is not whole ({error!r}): start without it") from None
        self.fit, self._log, self._job = saved_fit, log, None
        if since is not None:
            self._begin(int(since))
