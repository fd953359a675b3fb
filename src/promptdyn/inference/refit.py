"""Fit a program again and again during a training run, on the run's own history.

Another process makes the fit in the background, on the CPU. It starts from a file and not as a copy of the training
process, so it does not touch the accelerator that the training holds, and a user's script needs no main guard.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import warnings
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import ConvergenceWarning, InputError, PromptdynWarning
from promptdyn.history import RewardHistory
from promptdyn.inference.engines import Engine
from promptdyn.inference.fit import Fit, engine_for, fit
from promptdyn.models import InformativeRate
from promptdyn.models.base import DynamicsLike, check_dynamics, cluster_of, for_pool
from promptdyn.online import OnlineFilter, OnlineModel
from promptdyn.online.filter import fresh_state
from promptdyn.plugins import load_object, object_reference
from promptdyn.prompts import Columns, Ids, Prompts
from promptdyn.registry import Registry, describe, text_of
from promptdyn.storage import read_state, write_state

__all__ = ["Refitted", "RefittedFilter"]

# Name of the column that holds the pool's labels, crossed if they come from several columns, in the fitted history.
CLUSTER = "cluster"
CHILD = "import sys; from promptdyn.inference.refit import work; work(sys.argv[1])"


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
        self._log: list[_Step] = []
        self._job: _Job | None = None

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
        self._log.append(_Step(*step))
        super()._absorb(*step)
        if self.steps % self.refitted.every == 0:
            self._begin(self.steps)
        if self._job and self.steps >= self._job.num_steps + self.refitted.steps_to_fit:
            self._exchange(self._job)
            self._job = None

    def _begin(self, num_steps: int) -> None:
        """Begin a fit on the first `num_steps` steps."""
        if any(len(step.rows) for step in self._log[:num_steps]):
            self._job = _Job(self, num_steps)

    def _exchange(self, job: _Job) -> None:
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
        log = log or [np.zeros(0, np.int64)] * len(_Step._fields)
        groups = np.array([len(step.rows) for step in self._log], np.int64)
        return {
            **state,
            "model": self.describe(),
            "fit": values,
            "fitting_since": self._job.num_steps if self._job else None,
            "arrays": {
                **{f"state/{name}": array for name, array in state["arrays"].items()},
                **{f"fit/{name}": array for name, array in arrays.items()},
                **{f"log/{name}": array for name, array in zip(_Step._fields, log, strict=True)},
                "log/groups": groups,
            },
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
            parts: dict[str, dict[str, NDArray]] = {"state": {}, "fit": {}, "log": {}}
            for key, array in state["arrays"].items():
                part, _, name = key.partition("/")
                parts[part][name] = array
            saved_fit = Fit.from_state(state["fit"], parts["fit"], type(self._fitted)) if state["fit"] else None
            ends = np.cumsum(parts["log"].pop("groups"))[:-1]
            pieces = [np.split(parts["log"][name], ends) for name in _Step._fields]
            log = [_Step(*step) for step in zip(*pieces, strict=True)] if state["steps"] else []
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


class _Step(NamedTuple):
    """The groups of one step, each field (group,)."""

    rows: NDArray[np.intp]
    num_successes: NDArray[np.int64]
    num_rollouts: NDArray[np.int64]
    trained: NDArray[np.bool_]


class _Job:
    """A fit on the first `num_steps` steps of a filter's log, made by another process."""

    def __init__(self, online: RefittedFilter, num_steps: int) -> None:
        self.num_steps = num_steps
        log = online._log[:num_steps]
        columns = _Step(*(np.concatenate(part) for part in zip(*log, strict=True)))
        self.rows, prompt = np.unique(columns.rows, return_inverse=True)
        labels = list(dict.fromkeys(online._clusters))
        code = {label: i for i, label in enumerate(labels)}
        values = {
            "model": describe(online._fitted, exact=True),
            "declared": object_reference(type(online._fitted)),
            "engine": describe(online.refitted.engine, exact=True),
            "engine_declared": object_reference(type(online.refitted.engine)),
            "settings": {
                name: value for name, value in online.refitted.settings.items() if name in ("backend", "seed")
            },
            "num_steps": num_steps,
            "labels": labels,
        }
        arrays = {
            **columns._asdict(),
            "rows": prompt,
            "step": np.repeat(np.arange(num_steps), [len(step.rows) for step in log]),
            "cluster": np.array([code[online._clusters[row]] for row in self.rows]),
        }
        self._folder = Path(tempfile.mkdtemp(prefix="promptdyn-refit-"))
        write_state(self._folder / "job.npz", "refit", values, arrays)
        environment = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        with open(self._folder / "log", "wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-c", CHILD, str(self._folder)],
                env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._process = process
        # The process also ends if the run ends first, or the filter is garbage collected.
        self._finish = weakref.finalize(self, _finish, process, self._folder)

    def result(self) -> tuple[Fit, NDArray[np.float64], NDArray[np.intp]]:
        """Wait for the fit.

        Returns:
            The fit; its (state prompt) beliefs after its steps, of the prompts that were rolled out and then of one
            other prompt per cluster; and the rows of the prompts that were rolled out.

        Raises:
            InputError: the process failed.
        """
        code = self._process.wait()
        try:
            if code:
                output = (self._folder / "log").read_text(errors="replace").strip().splitlines() or [
                    f"exit code {code}"
                ]
                raise InputError(f"the fit begun at step {self.num_steps} failed: {output[-1]}")
            values, arrays = read_state(self._folder / "fitted.npz", "refitted")
            belief = arrays.pop("belief")
            return Fit.from_state(values, arrays, load_object(values["declared"], "model")), belief, self.rows
        finally:
            self._finish()


def _finish(process: subprocess.Popen, folder: Path) -> None:
    """End the process, and remove its folder."""
    if process.poll() is None:
        process.kill()
        process.wait()
    shutil.rmtree(folder, ignore_errors=True)


def _from_description(kind: str, described: Mapping[str, Any], declared: str) -> Any:
    """Make a model or engine from what `describe` returned and the reference of its class."""
    registry: Registry[Any, Any] = Registry(kind)
    registry.register(load_object(declared, kind))
    return registry.from_description(described)


def work(folder: str) -> None:
    """Do the work of the other process: fit, and filter the history that was fitted on."""
    if hasattr(os, "nice"):
        os.nice(10)  # the training has priority
    values, arrays = read_state(Path(folder, "job.npz"), "refit")
    model = _from_description("model", values["model"], values["declared"])
    engine = _from_description("method", values["engine"], values["engine_declared"])
    num_steps, labels = values["num_steps"], values["labels"]
    labelled = cluster_of(model) is not None
    # Add one prompt per cluster that was never rolled out. Its only row is then left out, but the history knows it.
    ids = [f"prompt {i}" for i in range(len(arrays["cluster"]))] + [f"cluster {i}" for i in range(len(labels))]
    rows, num_labels = np.append(arrays["rows"], np.arange(len(arrays["cluster"]), len(ids))), len(labels)
    cluster = np.append(arrays["cluster"], np.arange(num_labels))
    history = RewardHistory.from_columns(
        np.append(arrays["step"], np.full(num_labels, num_steps)),
        np.array(ids)[rows],
        num_successes=np.append(arrays["num_successes"], np.zeros(num_labels, np.int64)),
        num_rollouts=np.append(arrays["num_rollouts"], np.ones(num_labels, np.int64)),
        trained=np.append(arrays["trained"], np.zeros(num_labels, bool)),
        columns={CLUSTER: np.array(labels, object)[cluster[rows]]} if labelled else None,
    ).before(num_steps)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the next fit goes on from more data
        fitted = fit(model, history, engine, observed="all", **values["settings"])
    others = list(fitted.cluster_names) if labelled else ["all"]
    prompt_labels = [*(labels[i] for i in arrays["cluster"]), *others]
    online = fitted.online(Prompts(ids[: len(prompt_labels)], {CLUSTER: prompt_labels} if labelled else {}))
    for step in range(num_steps):
        groups = arrays["step"] == step
        prompt_ids = [ids[i] for i in arrays["rows"][groups]]
        online.step(prompt_ids, *(arrays[name][groups] for name in ("num_successes", "num_rollouts", "trained")))
    fit_values, fit_arrays = fitted.state()
    write_state(Path(folder, "fitted.npz"), "refitted", fit_values, {**fit_arrays, "belief": online.belief.T})
