"""The online filter: beliefs about a pool of prompts, updated one training step at a time. NumPy only.

`OnlineFilter` knows prompts by their ids, checks its input and keeps the state; the model, a `Recursion`, does the
mathematics. It runs inside other people's training processes and imports neither JAX nor torch.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from promptdyn.errors import InputError, PromptdynWarning
from promptdyn.online.recursion import Recursion
from promptdyn.online.saved import load_state
from promptdyn.online.state import extended, fresh_state
from promptdyn.prompts import POLICY, Columns, Ids, Prompts

__all__ = ["OnlineFilter"]


class OnlineFilter:
    """Beliefs about every prompt of a pool, one training step ahead.

    Args:
        model: the model that filters. Usually one calls `online` of the model, or of a fit, instead.
        prompts: the pool, with the columns that the model uses; if it uses none, (prompt,) ids will do. Their order is
            the order of every (prompt, ...) result.

    Raises:
        InputError: an empty pool, an id that appears twice, a column that is missing or cannot be used, or a label that
            the model does not know.
    """

    def __init__(self, model: Recursion, prompts: Prompts | Ids) -> None:
        for setting, columns in (("cluster", model.cluster), ("features", model.features)):
            names = columns if isinstance(columns, tuple | list) else (columns,)
            if columns is not None and not all(isinstance(name, str) for name in names):
                raise InputError(f"model {model.name!r}: {setting}={columns!r} must name columns, or be None")
        prompts = Prompts.of(prompts)
        if len(prompts) == 0:
            raise InputError("the pool is empty: give at least one prompt id")
        self.model = model.for_pool(prompts)
        self.steps = 0
        """Number of training steps absorbed so far."""
        self._row: dict[str, int] = {}
        self._ids: list[str] = []
        self._clusters: list[str | None] = []
        labels = self._labels(prompts)
        self._enter(self._new_rows(prompts), labels)
        self._state = fresh_state(self.model, self._ids, self._clusters, self._features(prompts))

    def _clustered_by(self) -> tuple[str, Columns | None]:
        """Return the name of the model that uses clusters, and the column(s) whose labels they are."""
        return self.model.name, self.model.cluster

    def _labels(self, prompts: Prompts) -> list[str | None]:
        """Return (prompt,) labels of the columns that the model uses; None for each if it uses none."""
        name, columns = self._clustered_by()
        if columns is None:
            return [None] * len(prompts)
        with _named_setting(name, f"cluster={columns!r}"):
            return list(prompts.labels(columns))

    def _features(self, prompts: Prompts) -> NDArray[np.float32] | None:
        """Return (prompt feature) features of the columns that the model uses; None if it uses none."""
        columns = self.model.features
        if columns is None:
            return None
        with _named_setting(self.model.name, f"features={columns!r}"):
            return prompts.features(columns)

    def _new_rows(self, prompts: Prompts) -> dict[str, int]:
        """Return the rows of prompts that join the pool; raises InputError if one is in it already."""
        rows = dict(zip(prompts.ids, itertools.count(len(self._row)), strict=False))
        if not rows.keys().isdisjoint(self._row):
            twice = next(prompt_id for prompt_id in rows if prompt_id in self._row)
            raise InputError(f"prompt id {twice!r} is in the pool twice: ids must be unique")
        return rows

    def _enter(self, rows: dict[str, int], labels: list[str | None]) -> None:
        """Add new prompts to the pool's ids and labels."""
        self._row.update(rows)
        self._ids += rows
        self._clusters += labels

    @property
    def num_prompts(self) -> int:
        """Number of prompts."""
        return len(self._row)

    @property
    def prompt_ids(self) -> list[str]:
        """(prompt,) ids in row order."""
        return list(self._ids)

    def ids(self, rows: NDArray[np.intp]) -> list[str]:
        """Return the ids of prompts by their rows."""
        return [self._ids[row] for row in rows]

    def rows(self, prompt_ids: Ids, distinct: bool = False) -> NDArray[np.intp]:
        """Return the row of each id.

        Raises:
            InputError: an id is not in the pool or, if `distinct`, appears twice.
        """
        try:
            rows = np.fromiter((self._row[str(prompt_id)] for prompt_id in prompt_ids), np.intp, len(prompt_ids))
        except KeyError as error:
            raise InputError(
                f"prompt {error.args[0]!r} is not among the pool's {self.num_prompts} prompts: add it first"
            ) from None
        if distinct and len(np.unique(rows)) < len(rows):
            ordered = np.sort(rows)
            twice = self._ids[ordered[np.flatnonzero(ordered[1:] == ordered[:-1])[0]]]
            raise InputError(f"step {self.steps}: prompt {twice!r} appears twice: merge its groups into one")
        return rows

    def add(self, prompts: Prompts | Ids) -> None:
        """Add new prompts to the pool, at their initial beliefs.

        Raises:
            InputError: as in the constructor; or the model uses features of columns, which need the whole pool.
        """
        prompts = Prompts.of(prompts)
        self._check_features(whole=False)
        rows, labels, features = self._new_rows(prompts), self._labels(prompts), self._features(prompts)
        self._state = self._extended(self._state, [*self._ids, *rows], [*self._clusters, *labels], features)
        self._enter(rows, labels)

    def _check_features(self, whole: bool) -> None:
        """Raise InputError if the model's features cannot be computed for a part of the pool."""
        if not whole and self.model.features not in (None, POLICY, (POLICY,)):
            raise InputError(
                f"model {self.model.name!r}: features={self.model.features!r} have mean 0 and variance 1 over a whole "
                "pool, and cannot be computed for a part of it: make a new filter of all prompts"
            )

    def _extended(
        self, state: Any, ids: list[str], labels: list[str | None], new_features: NDArray[np.float32] | None
    ) -> Any:
        """Return a state of more prompts, the new ones at their initial beliefs.

        Args:
            state: state of the first prompts.
            ids, labels: ids and labels of all prompts.
            new_features: features of the new prompts; None if the model uses none.
        """
        features = None if new_features is None else np.concatenate([state.features.T, self._same_number(new_features)])
        fresh = fresh_state(self.model, ids, labels, features)
        return extended(state, fresh)  # earlier prompts, and their clusters, come first

    def refresh(self, prompts: Prompts) -> None:
        """Replace the features of prompts. What the model has learned about features stays.

        Args:
            prompts: some or all prompts of the pool, with the columns that the model uses. The others keep their
                features.

        Raises:
            InputError: a model that uses no features, an id that is not in the pool, another number of features than
                before, or as in `add`.
        """
        if self.model.features is None:
            raise InputError(f"model {self.model.name!r} reads no features: there are none to refresh")
        rows = self.rows(prompts.ids)
        self._check_features(whole=len(rows) == self.num_prompts)
        new_features = self._features(prompts)
        assert new_features is not None
        features = self._state.features.T.copy()
        features[rows] = self._same_number(new_features)
        fresh = fresh_state(self.model, self._ids, self._clusters, features)
        for name in fresh._asdict().keys() - {"features", *self.model.derived}:
            getattr(fresh, name)[:] = getattr(self._state, name)
        self._state = fresh

    def _same_number(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return features, or raise InputError if there are not as many as the pool has."""
        needed = len(self._state.features)
        if features.shape[1] != needed:
            raise InputError(f"{features.shape[1]} features per prompt, where the pool has {needed}: give as many")
        return features

    def reset(self) -> None:
        """Go back to the state before the first step, with all prompts that the pool has now."""
        features = None if self.model.features is None else self._state.features.T
        self._state = fresh_state(self.model, self._ids, self._clusters, features)
        self.steps = 0

    def step(
        self,
        prompt_ids: Ids,
        num_successes: ArrayLike,
        num_rollouts: ArrayLike,
        trained: ArrayLike = True,
    ) -> None:
        """Absorb one training step and move to the next.

        Args:
            prompt_ids: (group,) ids of the prompts rolled out in this step, each once; an empty list if none was.
            num_successes: (group,) k.
            num_rollouts: (group,) n >= 1, or one number for all.
            trained: (group,) whether the group fed the gradient, or one value for all. Default True.

        Raises:
            InputError: an unknown or repeated id, k outside [0, n], or n < 1. Nothing is absorbed then.
        """
        rows = self.rows(prompt_ids, distinct=True)
        successes, rollouts, flags = self._checked(rows, num_successes, num_rollouts, trained)
        self._absorb(rows, successes, rollouts, flags)

    def _absorb(self, *step: NDArray) -> None:
        """Absorb a step's checked rows, successes, rollouts and flags."""
        self._state = self.model.step(self._state, *step)
        self.steps += 1

    def _checked(
        self,
        rows: NDArray[np.intp],
        num_successes: ArrayLike,
        num_rollouts: ArrayLike,
        trained: ArrayLike,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """Return (group,) successes, rollouts and flags, or raise InputError."""

        def column(name: str, values: ArrayLike, kinds: str, content: str) -> NDArray:
            array = np.asarray(values)
            if array.ndim > 1 or (array.ndim == 1 and len(array) != len(rows)):
                raise InputError(f"step {self.steps}: {name} has shape {array.shape} for {len(rows)} prompts")
            if array.dtype.kind not in kinds and array.size:
                raise InputError(f"step {self.steps}: {name} of type {array.dtype} are not {content}")
            return np.broadcast_to(array, rows.shape)

        def whole_numbers(name: str, values: ArrayLike) -> NDArray[np.int64]:
            array = column(name, values, "iuf", "whole numbers")
            for i in np.flatnonzero(~(np.isfinite(array) & (array == np.round(array))))[:1]:
                raise InputError(
                    f"step {self.steps}: {name}={array[i]} of prompt {self._ids[rows[i]]!r} is not a whole number"
                )
            return array.astype(np.int64)

        successes, rollouts = whole_numbers("num_successes", num_successes), whole_numbers("num_rollouts", num_rollouts)
        for i in np.flatnonzero((rollouts < 1) | (successes < 0) | (successes > rollouts))[:1]:
            raise InputError(
                f"step {self.steps}: prompt {self._ids[rows[i]]!r} has num_successes={successes[i]} of "
                f"num_rollouts={rollouts[i]}: need 0 <= k <= n and n >= 1"
            )
        return successes, rollouts, column("trained", trained, "b", "booleans").astype(bool)

    @property
    def belief(self) -> NDArray[np.float64]:
        """(prompt state) beliefs P(z_{t+1} | y_{0:t})."""
        return self.model.belief(self._state).T

    def _select(self, rows: NDArray[np.intp] | slice) -> Any:
        """Return the state of some prompts."""
        fields = self._state._asdict()
        for name in fields.keys() - set(self.model.shared):
            fields[name] = fields[name][..., rows]
        return type(self._state)(**fields)

    def outcome(self, num_rollouts: int | NDArray, rows: NDArray[np.intp] | slice = slice(None)) -> NDArray[np.float64]:
        """Return (prompt outcome) forecast chances that none, some and all rollouts succeed at the next step.

        Args:
            num_rollouts: n, one number or one per prompt.
            rows: rows of the prompts to forecast; default all.
        """
        return self.model.outcome(self._select(rows), num_rollouts).T

    def informative(
        self,
        num_rollouts: int | NDArray = 8,
        rng: np.random.Generator | None = None,
        rows: NDArray[np.intp] | slice = slice(None),
    ) -> NDArray[np.float64]:
        """Return (prompt,) forecasts P(0 < k < n) at the next step.

        Args:
            num_rollouts: n, one number or one per prompt; default 8.
            rng: if given, forecasts are made at one posterior draw per prompt.
            rows: rows of the prompts to forecast; default all.
        """
        return self.model.informative(self._select(rows), num_rollouts, rng)

    def success_rate(self, rng: np.random.Generator | None = None) -> NDArray[np.float64]:
        """Return (prompt,) forecast success rates at the next step; with `rng`, one posterior draw per prompt."""
        return self.model.success_rate(self._state, rng)

    @property
    def weights(self) -> dict[str, float]:
        """What the forecasts go by now, name -> weight, as of `Stacked`; empty for a model that weighs nothing."""
        return self.model.weights(self._state)

    @property
    def nbytes(self) -> int:
        """Size of the state's arrays in bytes."""
        return sum(field.nbytes for field in self._state)

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to continue: JSON-able values, and the arrays under "arrays"."""
        return {
            "model": self.model.describe(),
            "steps": self.steps,
            "prompt_ids": self.prompt_ids,
            "clusters": list(self._clusters),
            "arrays": {
                name: array.copy() for name, array in self._state._asdict().items() if name not in self.model.derived
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state.

        Prompts are matched by id. The state's prompts come first, in its order, so that choices are those of a run that
        never stopped; prompts that the filter lacks join it. Prompts that the state lacks come last, at their initial
        beliefs. If cluster labels differ, a warning tells so, and the state's labels stay.

        Raises:
            InputError: the state is of another model, has none of the filter's prompts, or is damaged. The filter is
                left unchanged.
        """
        num_features = None if self.model.features is None else len(self._state.features)
        saved = load_state(state, self.model, self._ids, num_features)
        there = {prompt_id: row for row, prompt_id in enumerate(saved.ids)}
        joining = [row for prompt_id, row in self._row.items() if prompt_id not in there]
        ids = saved.ids + [self._ids[row] for row in joining]
        labels = saved.clusters + [self._clusters[row] for row in joining]
        loaded = saved.state
        if joining:
            features = None if num_features is None else self._state.features[:, joining].T
            loaded = self._extended(loaded, ids, labels, features)
        self._warn_of_labels(there, saved.clusters)
        self._ids, self._clusters = ids, labels
        self._row = {prompt_id: row for row, prompt_id in enumerate(self._ids)}
        self._state = loaded
        self.steps = saved.steps

    def _warn_of_labels(self, row_there: Mapping[str, int], clusters: Sequence[str | None]) -> None:
        """Warn if prompts have other labels here than in a state, whose rows are `row_there`."""
        own_labels = {
            prompt_id: label for prompt_id, label in zip(self._ids, self._clusters, strict=True) if label is not None
        }
        differ = [i for i in own_labels if i in row_there and own_labels[i] != clusters[row_there[i]]]
        if differ:
            warnings.warn(
                f"{len(differ)} prompts had another cluster label when the state was saved, such as {differ[0]!r}: "
                f"{clusters[row_there[differ[0]]]!r}, now {own_labels[differ[0]]!r}; the saved labels stay",
                PromptdynWarning,
                stacklevel=4,
            )


@contextmanager
def _named_setting(name: str, setting: str) -> Iterator[None]:
    """Put the model's name and setting in front of an InputError that its columns raise."""
    try:
        yield
    except InputError as error:
        raise InputError(f"model {name!r}, {setting}: {error}") from None
