"""Forecast by weighing the forecasts of other models and what a prompt itself has shown. It needs no fit.

Two logistic regressions (`promptdyn.online.regression`) tell the outcome of a group:

    logit P(some succeed)          = w_1 . x_1
    logit P(all succeed, not some) = w_2 . x_2

An input is the log odds of the same event as another model, an *expert*, forecasts it; or the constant 1; or one of
fourteen numbers of the prompt's own recent past (`OWN`); or a random function of the prompt's features. The weights of
the m experts are 1/m at first, all others are 0: what is known before any group is the mean of the experts' log odds.
Weighing forecasts by a regression on them is stacking (Wolpert 1992).
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from promptdyn.clusters import cross, uncross
from promptdyn.errors import InputError
from promptdyn.features import random_functions
from promptdyn.history import outcome_of
from promptdyn.models.beta_bernoulli import BetaBernoulli
from promptdyn.models.checks import check_decay, check_whole, model_fault
from promptdyn.models.dps import DPS
from promptdyn.models.informative_rate import InformativeRate
from promptdyn.models.last_outcome import LastOutcome
from promptdyn.models.logit_kalman import LogitKalman
from promptdyn.online import OnlineModel, Pool
from promptdyn.online.regression import absorb, draw_weights, drift, probit
from promptdyn.prompts import AUTO, column_names
from promptdyn.registry import Registry

__all__ = ["OWN", "Stacked"]

Floats = NDArray[np.float64]
# Decays a step of a prompt's own counts, and how many rollouts make them worth half of what they could be.
DECAYS, HALF_WORTH = np.array([0.9, 0.97, 0.995], np.float32), np.float32(8.0)
OWN = (
    *("never", "age", "some", "some, by age", "spread", "high", "rate", "high, by age"),
    *(f"spread of decay {decay:g}" for decay in DECAYS),
    *(f"rate of decay {decay:g}" for decay in DECAYS),
)
"""A prompt's own recent past: whether it was never rolled out; the logarithm of the steps since its last group; that
group's outcome, rate q, q > 1/2 and spread 4 q (1 - q); rates and spreads of its decayed counts, by their worth."""
OLDEST = 60  # steps after which age counts no more
# Prior variances: of an expert's weight, and of the others.
EXPERT_VARIANCE, OTHER_VARIANCE = 0.25, 1.0
LEAST = 1e-3  # experts' chances are kept as far from 0 and 1
POWERS = (DECAYS[:, None] ** np.arange(2048)).astype(np.float32)  # (decay steps)
BLOCK = 8192  # prompts at a time, which stay in the CPU's cache
BELIEF_ROLLOUTS = 8

EXPERTS: Registry[Callable[..., OnlineModel], OnlineModel] = Registry(
    "expert", InformativeRate, LastOutcome, BetaBernoulli, DPS, LogitKalman, fault=model_fault
)


@dataclass(frozen=True)
class Stacked(OnlineModel[Any]):
    """Weighs the forecasts of other online models and a prompt's own recent past, by regressions that learn online.

    Attributes:
        cluster: label column(s), by which experts may pool; default "auto" (`Prompts.auto_columns`).
        features: column(s) with features, such as "policy"; default None: none.
        experts: models that learn online, by name or as objects, and frozen fits. One may pool over some of the columns
            of `cluster`. Default None: the rate of the pool, MoPPS, `LastOutcome` and DPS pooled over the crossed
            columns, and the rate by each column and by all crossed.
        kept: share of the weights' variance that is kept from one step to the next, in (0, 1]; default
            0.9995. With 1, weights do not drift.
        num_functions, scale, seed: of the random functions of the features, as in `FeatureRate`.

    Raises:
        InputError: a setting is out of range, or an expert pools over a column that is not among those of `cluster`.
    """

    cluster: str | tuple[str, ...] | None = AUTO
    features: str | tuple[str, ...] | None = None
    experts: str | Sequence[OnlineModel | str | Mapping[str, object]] | None = None
    kept: float = 0.9995
    num_functions: int = 200
    scale: float = 0.8
    seed: int = 0

    name = "stacked"

    def __post_init__(self) -> None:
        check_decay(self.kept, "Stacked", "kept")
        if self.experts is not None:
            given = [self.experts] if isinstance(self.experts, str) else self.experts
            object.__setattr__(self, "experts", tuple(map(_expert, given)))
        check_whole(self, "num_functions", 1)
        check_whole(self, "seed", 0)
        if not 0 < self.scale < np.inf:
            raise InputError(f"Stacked: scale={self.scale} must be finite and above 0")
        for expert in self._experts:
            if expert.features is not None:
                raise InputError(
                    f"Stacked: expert {expert.name!r} uses features={expert.features!r}: leave it out, and give "
                    "Stacked these features"
                )

    @cached_property
    def _experts(self) -> tuple[OnlineModel, ...]:
        if self.experts is not None:
            return cast(tuple[OnlineModel, ...], self.experts)
        crossed = self.cluster
        by_column = column_names(crossed) if isinstance(crossed, tuple) and len(crossed) > 1 else ()
        return (
            InformativeRate(),
            BetaBernoulli(decay=0.9),
            LastOutcome(cluster=crossed),
            DPS(decay=1.0, cluster=crossed),
            *([InformativeRate(cluster=crossed)] if crossed else []),
            *(InformativeRate(cluster=column) for column in by_column),
        )

    @cached_property
    def shared(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the state's fields whose last axis is not `prompt`."""
        own = [f"expert{i}_{name}" for i, expert in enumerate(self._experts) for name in expert.shared]
        return ("mean", "covariance", *own)

    @property
    def derived(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the state's fields that follow from its features."""
        return () if self.features is None else ("basis",)

    def describe(self) -> dict[str, Any]:
        """Return name and settings, with those of the experts."""
        return {**super().describe(), "experts": [expert.describe() for expert in self._experts]}

    @property
    def inputs(self) -> list[str]:
        """Names of the regressions' inputs, but for the random functions of the features, which come last."""
        experts = [
            expert.name + (f" by {'+'.join(column_names(expert.cluster))}" if expert.cluster else "")
            for expert in self._experts
        ]
        return [*experts, "constant", *OWN]

    @property
    def _prior(self) -> tuple[Floats, Floats]:
        """Prior means and variances of the weights."""
        size, others = len(self._experts), 1 + len(OWN) + (self.num_functions if self.features is not None else 0)
        mean = np.concatenate([np.full(size, 1.0 / max(size, 1)), np.zeros(others)])
        return mean, np.concatenate([np.full(size, EXPERT_VARIANCE), np.full(others, OTHER_VARIANCE)])

    def init(self, pool: Pool) -> Any:
        """Return the prior of the weights, and the experts' initial states."""
        mean, variance = self._prior
        size = pool.num_prompts
        fields: dict[str, NDArray] = {
            "mean": np.stack([mean] * 2),
            "covariance": np.stack([np.diag(variance)] * 2),
            "age": np.zeros(size, np.int32),
            "rate": np.zeros(size, np.float32),
            "successes": np.zeros((len(DECAYS), size), np.float32),
            "rollouts": np.zeros((len(DECAYS), size), np.float32),
        }
        if self.features is not None:
            features = pool.features
            assert features is not None
            fields["features"] = np.ascontiguousarray(features.T)
            fields["basis"] = random_functions(features, self.num_functions, self.scale, self.seed)
        kinds = []
        for i, expert in enumerate(self._experts):
            state = expert.init(self._pool_of(expert, pool))
            kinds.append(type(state))
            fields |= {f"expert{i}_{name}": value for name, value in state._asdict().items()}
        return _state_type(tuple(fields), tuple(kinds))(**fields)

    def _pool_of(self, expert: OnlineModel, pool: Pool) -> Pool:
        """Return the pool with the clusters by which an expert pools."""
        columns, wanted = column_names(self.cluster), column_names(expert.cluster)
        if not wanted:
            return Pool.of_one_cluster(pool.num_prompts, pool.features)
        if wanted == columns:
            return pool
        if missing := [column for column in wanted if column not in columns]:
            raise InputError(
                f"Stacked: expert {expert.name!r} pools by column {missing[0]!r}, which is none of cluster="
                f"{self.cluster!r}: name it there too"
            )
        by_column = dict(zip(columns, zip(*map(uncross, pool.cluster_names), strict=True), strict=True))
        coarser = Pool.from_labels([str(label) for label in cross([by_column[column] for column in wanted])])
        return Pool(coarser.cluster[pool.cluster], coarser.cluster_names, pool.features)

    def _parts(self, state: Any) -> Iterator[tuple[OnlineModel, Any]]:
        """Return each expert with its own state, whose arrays are those of the whole."""
        for i, (expert, kind) in enumerate(zip(self._experts, type(state).kinds, strict=True)):
            yield expert, kind(*(getattr(state, f"expert{i}_{name}") for name in kind._fields))

    def _some(self, state: Any, rows: NDArray[np.intp] | slice) -> Any:
        """Return the state of some prompts."""
        fields = {name: value if name in self.shared else value[..., rows] for name, value in state._asdict().items()}
        return type(state)(**fields)

    def step(
        self,
        state: Any,
        rows: NDArray[np.intp],
        num_successes: NDArray,
        num_rollouts: NDArray,
        trained: NDArray[np.bool_],
    ) -> Any:
        """Absorb a step's groups, in place: the weights by what was forecast, then the experts and the own past."""
        prior_mean, prior_variance = self._prior
        drift(state.mean, state.covariance, prior_mean, prior_variance, self.kept)
        if len(rows):
            inputs = self._inputs(self._some(state, rows), num_rollouts)
            outcome = outcome_of(num_successes, num_rollouts)
            # The first regression learns from all groups, the second from those with no or all successes.
            for i, (used, event) in enumerate(((outcome >= 0, outcome == 1), (outcome != 1, outcome == 2))):
                absorb(state.mean[i], state.covariance[i], inputs[i][:, used].astype(float), event[used].astype(float))
        fields: dict[str, NDArray] = {}
        for i, (expert, part) in enumerate(self._parts(state)):
            moved = expert.step(part, rows, num_successes, num_rollouts, trained)
            fields |= {f"expert{i}_{name}": value for name, value in moved._asdict().items()}

        left = _left(state.age[rows])
        state.successes[:, rows] = left * state.successes[:, rows] + num_successes
        state.rollouts[:, rows] = left * state.rollouts[:, rows] + num_rollouts
        state.rate[rows] = num_successes / num_rollouts
        state.age[state.age > 0] += 1
        state.age[rows] = 1
        return state._replace(**fields)

    def _inputs(self, state: Any, num_rollouts: int | NDArray, only_some: bool = False) -> NDArray[np.float32]:
        """Return the (regression input prompt) inputs; with `only_some`, of the first regression alone."""
        size, first = len(self._experts), 1 + len(self._experts)
        inputs = np.empty((2 - only_some, state.mean.shape[1], len(state.age)), np.float32)
        for i, (expert, part) in enumerate(self._parts(state)):
            if only_some:
                inputs[0, i] = expert.informative(part, num_rollouts)
            else:
                none, inputs[0, i], every = expert.outcome(part, num_rollouts)
                inputs[1, i] = every / np.maximum(none + every, 1e-12)
        chances = inputs[:, :size]
        np.clip(chances, LEAST, 1.0 - LEAST, out=chances)
        chances /= 1.0 - chances
        np.log(chances, out=chances)
        inputs[:, size] = 1.0
        _write_own(state, inputs[0, first : first + len(OWN)])
        if self.features is not None:
            inputs[0, first + len(OWN) :] = state.basis
        inputs[1:, first:] = inputs[0, first:]
        return inputs

    def _chances(
        self, state: Any, num_rollouts: int | NDArray, rng: np.random.Generator | None, only_some: bool = False
    ) -> Floats:
        """Return (regression prompt) chances of the events; with `rng`, at one draw of the weights for all prompts."""
        regressions = slice(1 if only_some else 2)
        weights, roots = state.mean[regressions], None
        if rng is None:
            roots = np.linalg.cholesky(state.covariance[regressions]).astype(np.float32)
        else:
            weights = draw_weights(weights, state.covariance[regressions], rng)
        weights = weights.astype(np.float32)
        chances = np.empty((len(weights), len(state.age)))
        for start in range(0, len(state.age), BLOCK):
            block = slice(start, start + BLOCK)
            n = num_rollouts[block] if isinstance(num_rollouts, np.ndarray) else num_rollouts
            inputs = self._inputs(self._some(state, block), n, only_some)
            for i, weight in enumerate(weights):
                logit = weight @ inputs[i]
                chances[i, block] = (
                    expit(logit) if roots is None else probit(logit, np.square(roots[i].T @ inputs[i]).sum(axis=0))
                )
        return chances

    def weights(self, state: Any) -> dict[str, float]:
        """Return the mean weight of each input in the log odds that a group is informative, by its name (`inputs`)."""
        return dict(zip(self.inputs, state.mean[0].tolist(), strict=False))

    def belief(self, state: Any) -> Floats:
        """Return (outcome prompt) chances that none, some and all of eight rollouts succeed."""
        return self.outcome(state, BELIEF_ROLLOUTS)

    def outcome(self, state: Any, num_rollouts: int | NDArray) -> Floats:
        """Return (outcome prompt) chances that none, some and all rollouts succeed."""
        some, every = self._chances(state, num_rollouts, None)
        return np.stack([(1.0 - some) * (1.0 - every), some, (1.0 - some) * every])

    def informative(self, state: Any, num_rollouts: int | NDArray, rng: np.random.Generator | None = None) -> Floats:
        """Return (prompt,) chances of an informative group; with `rng`, at one draw of the weights for all prompts."""
        return self._chances(state, num_rollouts, rng, only_some=True)[0]

    def success_rate(self, state: Any, rng: np.random.Generator | None = None) -> Floats:
        """Return (prompt,) P(all) + P(some) / 2, as if half the rollouts of an informative group succeeded."""
        some, every = self._chances(state, BELIEF_ROLLOUTS, rng)
        return (1.0 - some) * every + 0.5 * some


def _expert(given: OnlineModel | str | Mapping[str, object]) -> OnlineModel:
    """Return the model that a name, or what `describe` returned, stands for."""
    if isinstance(given, OnlineModel):
        return given
    return EXPERTS.from_description(given) if isinstance(given, Mapping) else EXPERTS.resolve(given)


@cache
def _state_type(fields: tuple[str, ...], kinds: tuple[type, ...]) -> Any:
    """Return a NamedTuple of the fields, which knows the types of the experts' states."""
    fixed = cast(Any, namedtuple)("StackedState", fields)
    return type("StackedState", (fixed,), {"__slots__": (), "kinds": kinds})


def _left(age: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return the (decay prompt) share of a prompt's own counts that is left, so many steps after its last group."""
    return POWERS[:, np.clip(age, 1, POWERS.shape[1]) - 1]


def _write_own(state: Any, out: NDArray[np.float32]) -> None:
    """Write the numbers of `OWN` into an (own prompt) array."""
    rate, left = state.rate, _left(state.age)
    never, log_age, some, some_by_age, spread, high, plain_rate, high_by_age = out[:8]
    spreads, rates = out[8 : 8 + len(DECAYS)], out[8 + len(DECAYS) :]
    np.equal(state.age, 0, out=never, casting="unsafe")
    np.minimum(state.age, OLDEST, out=log_age, casting="unsafe")
    np.log1p(log_age, out=log_age)
    log_age *= 0.5
    plain_rate[:] = rate
    np.multiply(rate > 0.0, rate < 1.0, out=some, casting="unsafe")
    np.greater(rate, 0.5, out=high, casting="unsafe")
    np.multiply(some, log_age, out=some_by_age)
    np.multiply(high, log_age, out=high_by_age)
    np.multiply(rate, 4.0 * (1.0 - rate), out=spread)
    rollouts = left * state.rollouts
    left *= state.successes
    left += 0.5
    left /= rollouts + 1.0  # the mean rate
    np.divide(rollouts, rollouts + HALF_WORTH, out=rates)
    rates *= left
    np.multiply(4.0 * (1.0 - left), rates, out=spreads)
