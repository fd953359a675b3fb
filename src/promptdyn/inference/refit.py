"""A program fitted anew while a training run goes on, on the run's own history: dynamics learned on the fly.

The fit is made by a process of its own, in the background, on the CPU. It begins from a file and not from a copy of the
training process, so it has no part in the accelerator that the training holds, and needs no guard in a user's script.
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

# What the column of a fit is called that has the pool's labels, crossed where they are of several columns.
CLUSTER = "cluster"
CHILD = "import sys; from promptdyn.inference.refit import work; work(sys.argv[1])"


@dataclass(frozen=True)
class Refitted:
    """Dynamics that a run learns of itself: a model fitted again every so many steps on what the run has shown.

    Until the first fit is there `start` forecasts. A fit begun after step s takes over after step s + lag, and is
    waited for where it is late: when it comes does not depend on how fast the machine is, so a run, and a run resumed
    from any checkpoint, chooses the same every time.

    Attributes:
        model: what is fitted, a program; a class of your own must stand in a file, not in a notebook's cell.
        every: steps from one fit to the next; default 50.
        lag: steps that a fit may take before it is waited for, below `every`; default a fifth of it.
        start: forecasts before the first fit; default `InformativeRate` with the clusters of the model.
        settings: of `promptdyn.fit`: method, backend, seed, and options of the engine, such as {"method": "map",
            "tolerance": 1e-4}; default none. An engine of your own must stand in a file too.

    Raises:
        InputError: a setting is out of range, the model is none that can be fitted, or the engine is none.
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
                    f"Refitted: {cls.__qualname__} is declared in a cell, a script or a function, where the process "
                    "that fits cannot find it: put it in a file of its own and import it"
                )
        if self.start is not None and self.start.features is not None:
            raise InputError(f"Refitted: start={self.start!r} reads features, which a program cannot: take another")
        if self.every < 1 or not 0 <= self.steps_to_fit < self.every:
            raise InputError(f"Refitted: every={self.every}, lag={self.lag}: need every >= 1 and 0 <= lag < every")

    @property
    def engine(self) -> Engine:
        """What fits."""
        options = {name: value for name, value in self.settings.items() if name not in ("method", "backend", "seed")}
        return engine_for(self.model, self.settings.get("method"), options)

    @property
    def steps_to_fit(self) -> int:
        """Steps between the beginning of a fit and its use."""
        return self.every // 5 if self.lag is None else self.lag

    @property
    def cluster(self) -> Columns | None:
        """Column(s) whose labels the model wants."""
        return cluster_of(self.model)

    @property
    def features(self) -> None:
        """A program reads no features."""

    def online(self, prompts: Prompts | Ids) -> RefittedFilter:
        """Start filtering a pool.

        Args:
            prompts: the pool, with the column(s) that the model's `cluster` names; where it names none, (prompt,) ids
                will do.

        Raises:
            InputError: an id appears twice, the pool is empty, or a column is missing.
        """
        return RefittedFilter(self, Prompts.of(prompts))


class RefittedFilter(OnlineFilter):
    """What `Refitted.online` returns: an `OnlineFilter` whose model is now and then exchanged for a better one.

    `add` lets in prompts of clusters that the fit of the moment knows, and treats them as if they had idled all along
    once the next takes over.

    Attributes:
        fit: the fit in use; None before the first.
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
        """What is fitted, and its columns, or else those of what comes before it."""
        return self.refitted.model.name, self._columns

    def describe(self) -> dict[str, Any]:
        """Settings, JSON-able."""
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
        """Go back to before the first step, and before the first fit."""
        self.model, self.fit, self._log, self._job = self._start, None, [], None
        super().reset()

    def _absorb(self, *step: NDArray) -> None:
        self._log.append(_Step(*step))
        super()._absorb(*step)
        if self.steps % self.refitted.every == 0:
            self._begin(self.steps)
        if self._job and self.steps >= self._job.at + self.refitted.steps_to_fit:
            self._exchange(self._job)
            self._job = None

    def _begin(self, at: int) -> None:
        """Begin to fit the steps before `at`."""
        if any(len(step.rows) for step in self._log[:at]):
            self._job = _Job(self, at)

    def _exchange(self, job: _Job) -> None:
        """Let what was fitted take over, from the beliefs that it has after the steps since it was begun."""
        try:
            found, belief, rows = job.result()
            model = found.frozen()
            state = fresh_state(model, self._ids, self._clusters, None)
        except InputError as error:
            warnings.warn(f"step {self.steps}: {error}; selection goes on without it", PromptdynWarning, stacklevel=2)
            return
        # Those rolled out each have their own belief; then there is one for all others of a cluster.
        unseen = belief[:, len(rows) :]
        state.belief[:] = unseen[:, state.cluster if unseen.shape[1] > 1 else np.zeros_like(state.cluster)]
        state.belief[:, rows] = belief[:, : len(rows)]
        for step in self._log[job.at : self.steps]:
            state = model.step(state, *step)
        self.model, self._state, self.fit = model, state, found

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue: what `OnlineFilter.state_dict` has, the history so far, and the fit in use."""
        state = super().state_dict()
        values, arrays = self.fit.state() if self.fit else ({}, {})
        log = [np.concatenate(part) if part else np.zeros(0, np.int64) for part in zip(*self._log, strict=True)]
        log = log or [np.zeros(0, np.int64)] * len(_Step._fields)
        groups = np.array([len(step.rows) for step in self._log], np.int64)
        return {
            **state,
            "model": self.describe(),
            "fit": values,
            "fitting_since": self._job.at if self._job else None,
            "arrays": {
                **{f"state/{name}": array for name, array in state["arrays"].items()},
                **{f"fit/{name}": array for name, array in arrays.items()},
                **{f"log/{name}": array for name, array in zip(_Step._fields, log, strict=True)},
                "log/groups": groups,
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state, and begin again a fit that was under way.

        Raises:
            InputError: as `OnlineFilter.load_state_dict`; the filter is as it was then.
        """
        if state.get("model") != self.describe():
            raise InputError(f"the state was saved by model {state.get('model')}, this filter's is {self.describe()}")
        before = self.model
        try:
            parts: dict[str, dict[str, NDArray]] = {"state": {}, "fit": {}, "log": {}}
            for key, array in state["arrays"].items():
                part, _, name = key.partition("/")
                parts[part][name] = array
            found = Fit.of_state(state["fit"], parts["fit"], type(self._fitted)) if state["fit"] else None
            ends = np.cumsum(parts["log"].pop("groups"))[:-1]
            pieces = [np.split(parts["log"][name], ends) for name in _Step._fields]
            log = [_Step(*step) for step in zip(*pieces, strict=True)] if state["steps"] else []
            since = state["fitting_since"]
            self.model = found.frozen() if found else self._start
            super().load_state_dict({**state, "model": self.model.describe(), "arrays": parts["state"]})
        except (KeyError, TypeError, ValueError) as error:
            self.model = before
            if isinstance(error, InputError):
                raise
            raise InputError(f"the state is not whole ({error!r}): start without it") from None
        self.fit, self._log, self._job = found, log, None
        if since is not None:
            self._begin(int(since))


class _Step(NamedTuple):
    """Groups absorbed in one step."""

    rows: NDArray[np.intp]
    num_successes: NDArray[np.int64]
    num_rollouts: NDArray[np.int64]
    trained: NDArray[np.bool_]


class _Job:
    """A fit that another process makes, of the first `at` steps of a filter's log."""

    def __init__(self, online: RefittedFilter, at: int) -> None:
        self.at = at
        log = online._log[:at]
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
            "at": at,
            "labels": labels,
        }
        arrays = {
            **columns._asdict(),
            "rows": prompt,
            "step": np.repeat(np.arange(at), [len(step.rows) for step in log]),
            "cluster": np.array([code[online._clusters[row]] for row in self.rows]),
        }
        self._folder = Path(tempfile.mkdtemp(prefix="promptdyn-refit-"))
        write_state(self._folder / "job.npz", "refit", values, arrays)
        alone = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        with open(self._folder / "log", "wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-c", CHILD, str(self._folder)],
                env={**os.environ, **alone, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._process = process
        # Also where the run ends first, or the filter is collected.
        self._finish = weakref.finalize(self, _finish, process, self._folder)

    def result(self) -> tuple[Fit, NDArray[np.float64], NDArray[np.intp]]:
        """The fit, (state prompt) beliefs after its steps of those rolled out and then of each cluster's others, and
        the rows of those rolled out; waits for them.

        Raises:
            InputError: the process failed.
        """
        code = self._process.wait()
        try:
            if code:
                said = (self._folder / "log").read_text(errors="replace").strip().splitlines() or [f"exit code {code}"]
                raise InputError(f"the fit begun at step {self.at} failed: {said[-1]}")
            values, arrays = read_state(self._folder / "fitted.npz", "refitted")
            belief = arrays.pop("belief")
            return Fit.of_state(values, arrays, load_object(values["declared"], "model")), belief, self.rows
        finally:
            self._finish()


def _finish(process: subprocess.Popen, folder: Path) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()
    shutil.rmtree(folder, ignore_errors=True)


def _made(kind: str, described: Mapping[str, Any], declared: str) -> Any:
    """A model or engine, of what `describe` gave and where its class was declared."""
    registry: Registry[Any, Any] = Registry(kind)
    registry.register(load_object(declared, kind))
    return registry.from_description(described)


def work(folder: str) -> None:
    """What the process does: fit, and filter what it fitted on."""
    if hasattr(os, "nice"):
        os.nice(10)  # the training comes first
    values, arrays = read_state(Path(folder, "job.npz"), "refit")
    model = _made("model", values["model"], values["declared"])
    engine = _made("method", values["engine"], values["engine_declared"])
    at, labels = values["at"], values["labels"]
    labelled = cluster_of(model) is not None
    # A prompt of each cluster that was never rolled out: the history knows of it from a row that is then left out.
    ids = [f"prompt {i}" for i in range(len(arrays["cluster"]))] + [f"cluster {i}" for i in range(len(labels))]
    rows, num = np.append(arrays["rows"], np.arange(len(arrays["cluster"]), len(ids))), len(labels)
    cluster = np.append(arrays["cluster"], np.arange(num))
    history = RewardHistory.from_columns(
        np.append(arrays["step"], np.full(num, at)),
        np.array(ids)[rows],
        num_successes=np.append(arrays["num_successes"], np.zeros(num, np.int64)),
        num_rollouts=np.append(arrays["num_rollouts"], np.ones(num, np.int64)),
        trained=np.append(arrays["trained"], np.zeros(num, bool)),
        columns={CLUSTER: np.array(labels, object)[cluster[rows]]} if labelled else None,
    ).before(at)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the next one goes further
        found = fit(model, history, engine, observed="all", **values["settings"])
    others = list(found.cluster_names) if labelled else ["all"]
    known = [*(labels[i] for i in arrays["cluster"]), *others]
    online = found.online(Prompts(ids[: len(known)], {CLUSTER: known} if labelled else {}))
    for t in range(at):
        now = arrays["step"] == t
        chosen = [ids[i] for i in arrays["rows"][now]]
        online.step(chosen, *(arrays[name][now] for name in ("num_successes", "num_rollouts", "trained")))
    kept, fitted = found.state()
    write_state(Path(folder, "fitted.npz"), "refitted", kept, {**fitted, "belief": online.belief.T})
