"""Fit in another process while training goes on.

The process runs on the CPU. It starts from a file and not as a copy of the training process, so it does not touch the
accelerator that the training holds, and a user's script needs no main guard.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import warnings
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import ConvergenceWarning, InputError
from promptdyn.history import RewardHistory
from promptdyn.inference.engines import Engine
from promptdyn.inference.fit import Fit
from promptdyn.inference.fitting import fit
from promptdyn.models.base import DynamicsLike, cluster_of
from promptdyn.plugins import load_object, object_reference
from promptdyn.prompts import Prompts
from promptdyn.registry import Registry, describe
from promptdyn.storage import read_state, write_state

__all__ = ["CLUSTER", "BackgroundFit", "Step"]

# Name of the column that holds the pool's labels, crossed if they come from several columns, in the fitted history.
CLUSTER = "cluster"
CHILD = "import sys; from promptdyn.inference.background import work; work(sys.argv[1])"


class Step(NamedTuple):
    """The groups of one step, each field (group,)."""

    rows: NDArray[np.intp]
    num_successes: NDArray[np.int64]
    num_rollouts: NDArray[np.int64]
    trained: NDArray[np.bool_]


class BackgroundFit:
    """A fit on the first steps of a run, made by another process.

    Args:
        model: the program to fit; its `cluster` is `CLUSTER` or None.
        engine: the engine that fits.
        settings: further arguments of `fit`: backend and seed.
        log: the steps to fit on.
        clusters: (prompt,) cluster labels of the pool; None for each where the model uses none.

    Attributes:
        num_steps: number of these steps.
        rows: rows of the prompts that were rolled out in them.
    """

    def __init__(
        self,
        model: DynamicsLike,
        engine: Engine,
        settings: Mapping[str, Any],
        log: Sequence[Step],
        clusters: Sequence[str | None],
    ) -> None:
        self.num_steps = len(log)
        columns = Step(*(np.concatenate(part) for part in zip(*log, strict=True)))
        self.rows, prompt = np.unique(columns.rows, return_inverse=True)
        labels = list(dict.fromkeys(clusters))
        code = {label: i for i, label in enumerate(labels)}
        values = {
            "model": describe(model, exact=True),
            "declared": object_reference(type(model)),
            "engine": describe(engine, exact=True),
            "engine_declared": object_reference(type(engine)),
            "settings": dict(settings),
            "num_steps": self.num_steps,
            "labels": labels,
        }
        arrays = {
            **columns._asdict(),
            "rows": prompt,
            "step": np.repeat(np.arange(self.num_steps), [len(step.rows) for step in log]),
            "cluster": np.array([code[clusters[row]] for row in self.rows]),
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
