"""The online filter: a pool of prompts, absorbed one training step at a time. NumPy only.

`OnlineFilter` knows prompts by their ids, checks what it is given and keeps state; the mathematics is the
`OnlineModel`'s. It sits inside other people's training processes and imports neither JAX nor torch.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from promptdyn.errors import InputError, PromptdynWarning
from promptdyn.features import as_features
from promptdyn.online.pool import Pool
from promptdyn.online.state import check_axes, extended, restored
from promptdyn.prompts import POLICY, Columns, Ids, Prompts

if TYPE_CHECKING:
    from promptdyn.online.model import OnlineModel

__all__ = ["OnlineFilter", "fresh_state"]

# Rollouts that the forecasts of a loaded state are tried at, and how far they may be from probabilities.
TRIED, TOLERANCE = 8, 1e-4


class OnlineFilter:
    """Belief about every prompt of a pool, one training step ahead.

    Args:
        model: what filters. Most people call its `online`, or that of a fit.
        prompts: the pool, with the columns that the model goes by; where it goes by none, (prompt,) ids will do. Their
            order is the order of every (prompt, ...) result.

    Raises:
        InputError: an empty pool, an id twice, a column that is missing or cannot be used, or a label that the model
            does not know.
    """

    def __init__(self, model: OnlineModel, prompts: Prompts | Ids) -> None:
        for setting, columns in (("cluster", model.cluster), ("features", model.features)):
            names = columns if isinstance(columns, tuple | list) else (columns,)
            if columns is not None and not all(isinstance(name, str) for name in names):
                raise InputError(f"model {model.name!r}: {setting}={columns!r} must name columns, or be None")
        prompts = Prompts.of(prompts)
        if len(prompts) == 0:
            raise InputError("the pool is empty: give at least one prompt id")
        self.model = model.for_pool(prompts)
        self.steps = 0
        """Training steps absorbed so far."""
        self._row: dict[str, int] = {}
        self._ids: list[str] = []
        self._clusters: list[str | None] = []
        labels = self._labels(prompts)
        self._enter(self._new(prompts), labels)
        self._state = fresh_state(self.model, self._ids, self._clusters, self._features(prompts))

    def _clustered_by(self) -> tuple[str, Columns | None]:
        """The model that asks for clusters, and the column(s) whose labels they are."""
        return self.model.name, self.model.cluster

    def _labels(self, prompts: Prompts) -> list[str | None]:
        """(prompt,) labels of the columns that the model goes by, None where it goes by none."""
        name, columns = self._clustered_by()
        if columns is None:
            return [None] * len(prompts)
        with _told(name, f"cluster={columns!r}"):
            return list(prompts.labels(columns))

    def _features(self, prompts: Prompts) -> NDArray[np.float32] | None:
        """(prompt feature) of the columns that the model reads, None where it reads none."""
        columns = self.model.features
        if columns is None:
            return None
        with _told(self.model.name, f"features={columns!r}"):
            return prompts.features(columns)

    def _new(self, prompts: Prompts) -> dict[str, int]:
        """Rows of prompts that join the pool; InputError names one that is in it."""
        rows = dict(zip(prompts.ids, itertools.count(len(self._row)), strict=False))
        if not rows.keys().isdisjoint(self._row):
            twice = next(prompt_id for prompt_id in rows if prompt_id in self._row)
            raise InputError(f"prompt id {twice!r} is in the pool twice: ids must be unique")
        return rows

    def _enter(self, rows: dict[str, int], labels: list[str | None]) -> None:
        """Let new prompts join."""
        self._row.update(rows)
        self._ids += rows
        self._clusters += labels

    @property
    def num_prompts(self) -> int:
        return len(self._row)

    @property
    def prompt_ids(self) -> list[str]:
        """(prompt,) ids in row order."""
        return list(self._ids)

    def ids(self, rows: NDArray[np.intp]) -> list[str]:
        """Ids of the given rows."""
        return [self._ids[row] for row in rows]

    def rows(self, prompt_ids: Ids, distinct: bool = False) -> NDArray[np.intp]:
        """Row of each id; InputError names the first id that is not in the pool or, if `distinct`, given twice."""
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
        """Let new prompts join the pool, at their initial belief.

        Raises:
            InputError: as the constructor; or features of columns are asked for, which are measured over a whole pool.
        """
        prompts = Prompts.of(prompts)
        self._check_measured(whole=False)
        rows, labels, features = self._new(prompts), self._labels(prompts), self._features(prompts)
        self._state = self._grown(self._state, [*self._ids, *rows], [*self._clusters, *labels], features)
        self._enter(rows, labels)

    def _check_measured(self, whole: bool) -> None:
        """Raise InputError where features cannot be told of a part of the pool."""
        if not whole and self.model.features not in (None, POLICY, (POLICY,)):
            raise InputError(
                f"model {self.model.name!r}: features={self.model.features!r} have mean 0 and variance 1 over a whole "
                "pool, which a part of it cannot tell: make a new filter of all prompts"
            )

    def _grown(self, state: Any, ids: list[str], labels: list[str | None], joining: NDArray[np.float32] | None) -> Any:
        """A state with room for more prompts, the last of `ids`, at their initial belief.

        Args:
            state: of the first of the prompts.
            ids, labels: of all.
            joining: features of those that come anew.
        """
        features = None if joining is None else np.concatenate([state.features.T, self._as_many(joining)])
        fresh = fresh_state(self.model, ids, labels, features)
        return extended(state, fresh)  # those here already, and their clusters, come first

    def refresh(self, prompts: Prompts) -> None:
        """Read the features of prompts anew; what was learned of features stays.

        Args:
            prompts: of the pool, some or all, with the columns that the model reads; others keep their features.

        Raises:
            InputError: a model that reads no features, an id that is not in the pool, another number of features than
                before; or as `add`.
        """
        if self.model.features is None:
            raise InputError(f"model {self.model.name!r} reads no features: there are none to refresh")
        rows = self.rows(prompts.ids)
        self._check_measured(whole=len(rows) == self.num_prompts)
        given = self._features(prompts)
        assert given is not None
        features = self._state.features.T.copy()
        features[rows] = self._as_many(given)
        fresh = fresh_state(self.model, self._ids, self._clusters, features)
        for name in self.model.shared:
            getattr(fresh, name)[:] = getattr(self._state, name)
        self._state = fresh

    def _as_many(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        there = len(self._state.features)
        if features.shape[1] != there:
            raise InputError(f"{features.shape[1]} features a prompt, where the pool has {there}: give as many")
        return features

    def reset(self) -> None:
        """Go back to before the first step, with all prompts of the pool as it is now."""
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
            prompt_ids: (group,) ids rolled out in this step, each once; the empty list where none was.
            num_successes: (group,) k, successes.
            num_rollouts: (group,) or one number; n >= 1 rollouts.
            trained: (group,) or one flag: whether the group fed the gradient. Default True.

        Raises:
            InputError: unknown or repeated id, k outside [0, n], n < 1; nothing is absorbed then.
        """
        rows = self.rows(prompt_ids, distinct=True)
        successes, rollouts, flags = self._checked(rows, num_successes, num_rollouts, trained)
        self._absorb(rows, successes, rollouts, flags)

    def _absorb(self, *step: NDArray) -> None:
        """A step's rows, successes, rollouts and flags, which are checked."""
        self._state = self.model.step(self._state, *step)
        self.steps += 1

    def _checked(
        self,
        rows: NDArray[np.intp],
        num_successes: ArrayLike,
        num_rollouts: ArrayLike,
        trained: ArrayLike,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        def column(name: str, values: ArrayLike, kinds: str, words: str) -> NDArray:
            given = np.asarray(values)
            if given.ndim > 1 or (given.ndim == 1 and len(given) != len(rows)):
                raise InputError(f"step {self.steps}: {name} has shape {given.shape} for {len(rows)} prompts")
            if given.dtype.kind not in kinds and given.size:
                raise InputError(f"step {self.steps}: {name} of type {given.dtype} are not {words}")
            return np.broadcast_to(given, rows.shape)

        def whole(name: str, values: ArrayLike) -> NDArray[np.int64]:
            given = column(name, values, "iuf", "whole numbers")
            for i in np.flatnonzero(~(np.isfinite(given) & (given == np.round(given))))[:1]:
                raise InputError(
                    f"step {self.steps}: {name}={given[i]} of prompt {self._ids[rows[i]]!r} is not a whole number"
                )
            return given.astype(np.int64)

        successes, rollouts = whole("num_successes", num_successes), whole("num_rollouts", num_rollouts)
        for i in np.flatnonzero((rollouts < 1) | (successes < 0) | (successes > rollouts))[:1]:
            raise InputError(
                f"step {self.steps}: prompt {self._ids[rows[i]]!r} has num_successes={successes[i]} of "
                f"num_rollouts={rollouts[i]}: need 0 <= k <= n and n >= 1"
            )
        return successes, rollouts, column("trained", trained, "b", "booleans").astype(bool)

    @property
    def belief(self) -> NDArray[np.float64]:
        """(prompt state) P(z_{t+1} | y_{0:t})."""
        return self.model.belief(self._state).T

    def _at(self, rows: NDArray[np.intp] | slice) -> Any:
        fields = self._state._asdict()
        for name in fields.keys() - set(self.model.shared):
            fields[name] = fields[name][..., rows]
        return type(self._state)(**fields)

    def outcome(self, num_rollouts: int | NDArray, rows: NDArray[np.intp] | slice = slice(None)) -> NDArray[np.float64]:
        """(prompt outcome) forecast chances that none, some, all of `num_rollouts` rollouts succeed next step.

        `num_rollouts` is one number or one per prompt; `rows` asks for some prompts only.
        """
        return self.model.outcome(self._at(rows), num_rollouts).T

    def informative(
        self,
        num_rollouts: int | NDArray = 8,
        rng: np.random.Generator | None = None,
        rows: NDArray[np.intp] | slice = slice(None),
    ) -> NDArray[np.float64]:
        """(prompt,) forecast P(0 < k < n) at the next step; given `rng`, at one posterior draw per prompt.

        `num_rollouts` is one number or one per prompt; `rows` asks for some prompts only.
        """
        return self.model.informative(self._at(rows), num_rollouts, rng)

    def success_rate(self, rng: np.random.Generator | None = None) -> NDArray[np.float64]:
        """(prompt,) forecast success rate at the next step; given `rng`, one posterior draw per prompt."""
        return self.model.success_rate(self._state, rng)

    @property
    def nbytes(self) -> int:
        """Bytes held by the state's arrays."""
        return sum(field.nbytes for field in self._state)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue: JSON-able values, and arrays under "arrays"."""
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

        Prompts go by their ids. They come in the state's order, so that choices are those of a run that never stopped;
        prompts that only the state has are taken from it, and those that it has not come last, at their initial belief.
        A warning says where the state has other cluster labels than this filter: those of the state stay.

        Raises:
            InputError: the state is of another model, has none of this filter's prompts, or is not whole; the filter
                is as it was then.
        """
        missing = [part for part in ("model", "steps", "prompt_ids", "clusters", "arrays") if part not in state]
        if missing:
            raise InputError(f"the state has no {missing[0]!r}: it is not whole, start without it")
        if state["model"] != self.model.describe():
            raise InputError(f"the state was saved by model {state['model']}, this filter's is {self.model.describe()}")
        if not all(isinstance(state[part], list | tuple) for part in ("prompt_ids", "clusters")):
            raise InputError("the state's prompt_ids or clusters are no lists: it is not whole, start without it")
        if not all(isinstance(prompt_id, str) for prompt_id in state["prompt_ids"]):
            raise InputError("the state's prompt_ids are not all texts: it is not whole, start without it")
        saved = list(state["prompt_ids"])
        place = {prompt_id: row for row, prompt_id in enumerate(saved)}
        if len(place) < len(saved):
            twice = next(prompt_id for row, prompt_id in enumerate(saved) if place[prompt_id] != row)
            raise InputError(f"the state has prompt {twice!r} twice: it is not whole, start without it")
        if place.keys().isdisjoint(self._row):
            raise InputError(
                f"the state was saved for another pool: none of its {len(saved)} prompts, such as {saved[0]!r}, is "
                f"among this one's {self.num_prompts}, such as {self._ids[0]!r}"
                if saved
                else "the state has no prompts: it is not whole, start without it"
            )
        clusters = list(state["clusters"])
        if len(clusters) != len(saved):
            raise InputError(f"the state has {len(clusters)} clusters for {len(saved)} prompts: start without it")
        given = None
        if self.model.features is not None:
            features = state["arrays"].get("features")
            if features is None or features.shape != (len(self._state.features), len(saved)):
                raise InputError("the state's 'features' are not one column per prompt: start without it")
            given = as_features(features.T, saved)
        fresh = fresh_state(self.model, saved, clusters, given)
        loaded = restored(fresh, state["arrays"], self.model.derived)
        for name, array in loaded._asdict().items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise InputError(f"the state's {name!r} holds numbers that are not finite: start without it")
        if "cluster" in fresh._fields and not np.array_equal(loaded.cluster, fresh.cluster):
            raise InputError("the state's clusters and its labels differ: start without it")
        chances = self.model.outcome(loaded, TRIED)
        if not (np.abs(chances.sum(axis=0) - 1.0) < TOLERANCE).all() or not (chances > -TOLERANCE).all():
            raise InputError("the state's numbers give forecasts that are no probabilities: start without it")
        steps = state["steps"]
        if not isinstance(steps, int) or isinstance(steps, bool) or steps < 0:
            raise InputError(f"the state has steps={steps!r}, which is no whole number: start without it")
        joining = [row for prompt_id, row in self._row.items() if prompt_id not in place]
        ids = saved + [self._ids[row] for row in joining]
        labels = clusters + [self._clusters[row] for row in joining]
        if joining:
            given = None if given is None else self._state.features[:, joining].T
            loaded = self._grown(loaded, ids, labels, given)
        self._warn_of_labels(place, clusters)
        self._ids, self._clusters = ids, labels
        self._row = {prompt_id: row for row, prompt_id in enumerate(self._ids)}
        self._state = loaded
        self.steps = steps

    def _warn_of_labels(self, place: Mapping[str, int], clusters: Sequence[str | None]) -> None:
        """Say where prompts have other labels here than in a state that has them at `place`."""
        mine = {
            prompt_id: label for prompt_id, label in zip(self._ids, self._clusters, strict=True) if label is not None
        }
        differ = [i for i in mine if i in place and mine[i] != clusters[place[i]]]
        if differ:
            warnings.warn(
                f"{len(differ)} prompts had another cluster label when the state was saved, such as {differ[0]!r}: "
                f"{clusters[place[differ[0]]]!r}, now {mine[differ[0]]!r}; the labels of then stay",
                PromptdynWarning,
                stacklevel=4,
            )


@contextmanager
def _told(name: str, setting: str) -> Iterator[None]:
    """Say of what prompts cannot tell which setting of which model wants to know."""
    try:
        yield
    except InputError as error:
        raise InputError(f"model {name!r}, {setting}: {error}") from None


def fresh_state(
    model: OnlineModel, ids: Sequence[str], labels: Sequence[str | None], features: NDArray[np.float32] | None
) -> Any:
    """A model's state of a pool at its start.

    Args:
        model: whose clusters the labels are; a model without clusters asks for none.
        ids: (prompt,) for messages.
        labels: (prompt,) of the clusters, None where a prompt has none.
        features: (prompt feature); None where the model reads none.

    Raises:
        InputError: the model has clusters and a prompt has no label, or one that the model does not know; or the state
            is not what the model declares.
    """
    if model.cluster is None:
        pool = Pool.of_one_cluster(len(ids), features)
    elif None in labels:
        raise InputError(
            f"model {model.name!r} goes by cluster={model.cluster!r}, and prompt {ids[labels.index(None)]!r} has no "
            "label: give each prompt one"
        )
    else:
        pool = Pool.from_labels([str(label) for label in labels], features)
    state = model.init(pool)
    check_axes(f"model {model.name!r}", state, len(ids), model.shared)
    return state
