"""Check a model that filters a pool live."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError
from promptdyn.online import OnlineFilter, OnlineModel
from promptdyn.prompts import POLICY, Prompts, column_names
from promptdyn.testing.expect import Expect, expectation

__all__ = ["check_online"]

# Filters are checked on at most so many prompts.
MOST = 6


def check_online(model: OnlineModel, prompts: Prompts | None = None) -> None:
    """Check a model that filters a pool live: one that learns online, or the result of `Fit.frozen`.

    Forecasts must be probabilities that agree with one another, also for mixed group sizes and for some prompts only;
    draws must average to them; results must not be views of the state; a filter must go on equally from a saved state;
    prompts may join later, come in any order, and age without a group.

    Args:
        model: the model to check.
        prompts: two or more prompts, with the columns that the model's `cluster` names; the first six are used.
            Default: six prompts of two clusters, for models that accept any labels.

    Raises:
        AssertionError: a check failed.
        InputError: fewer than two prompts, or a column is missing.
    """
    expect = expectation(model)
    if prompts is None:
        columns = {name: list("ababab") for name in column_names(model.cluster)}
        prompts = Prompts([f"p{i}" for i in range(MOST)], columns)
    if len(prompts) < 2:
        raise InputError(f"check_online: give two prompts or more, not {len(prompts)}")
    size = min(len(prompts), MOST)
    pool = prompts.select(range(size))
    if model.features is not None:
        model = replace(cast(Any, model), features=POLICY)
        pool = pool.with_column(POLICY, np.random.default_rng(0).normal(size=(size, 3)))

    def filters(rows: range) -> OnlineFilter:
        return model.online(pool.select(rows))

    json.dumps(model.describe())
    online = filters(range(size))
    for seed in range(4):
        _check_forecasts(online, expect)
        before = _forecasts(online)
        copies = {name: value.copy() for name, value in before.items()}
        _step_randomly(online, seed)
        for name, value in copies.items():
            expect(np.array_equal(before[name], value), f"{name} is a view of the state and changed with it: copy it")

    by_size: dict[str, Callable[..., NDArray]] = {"informative": online.informative, "outcome": online.outcome}
    n = np.array([2, 8, 2, 16, 8, 4])[:size]
    for i, size_alone in enumerate(n.tolist()):
        for name, forecast in by_size.items():
            mixed, alone = forecast(n)[i], forecast(size_alone)[i]
            expect(
                np.allclose(mixed, alone),
                f"{name} of {size_alone} rollouts is {alone}, among groups of other sizes {mixed}",
            )
    rows = np.array([size - 1, 0])
    for name, forecast in by_size.items():
        expect(
            np.allclose(forecast(8, rows=rows), forecast(8)[rows]),
            f"{name} of some prompts only differs from that of all",
        )

    rng = np.random.default_rng(0)
    by_draw: dict[str, Callable[[], NDArray]] = {
        "informative": lambda: online.informative(8, rng),
        "success_rate": lambda: online.success_rate(rng),
    }
    for name, draw in by_draw.items() if not model.at_mean else ():
        draws, mean = np.array([draw() for _ in range(1000)]), _forecasts(online)[name]
        excess = np.abs(draws.mean(axis=0) - mean) - 5.0 * draws.std(axis=0) / np.sqrt(len(draws))
        i = int(excess.argmax())
        expect(excess[i] < 0.02, f"{name} is {mean[i]:.3g}, its draws (given rng) average {draws.mean(axis=0)[i]:.3g}")

    saved = online.state_dict()
    json.dumps({key: value for key, value in saved.items() if key != "arrays"})
    again = filters(range(size))
    again.load_state_dict(saved)
    _step_randomly(online, 9)
    _step_randomly(again, 9)
    _check_same(again, online, "after a saved state is loaded", expect)

    together, joined, reversed_ = map(filters, (range(size), range(size * 2 // 3), range(size)[::-1]))
    joined.add(pool.select(range(size * 2 // 3, size)))
    for filter_ in (together, joined, reversed_):
        _step_randomly(filter_, 3)
    _check_same(joined, together, "where prompts joined later", expect)
    _check_same(reversed_, together, "with the pool in another order", expect)
    together.step([], [], 8)
    _check_forecasts(together, expect)


def _forecasts(online: OnlineFilter) -> dict[str, NDArray[np.float64]]:
    """Return the filter's beliefs and forecasts by name."""
    return {
        "belief": online.belief,
        "outcome": online.outcome(8),
        "informative": online.informative(8),
        "success_rate": online.success_rate(),
    }


def _check_forecasts(online: OnlineFilter, expect: Expect) -> None:
    """Check that forecasts are probabilities, have the right shapes, and agree."""
    forecasts = _forecasts(online)
    axes: dict[str, tuple[int, ...]] = {
        "belief": forecasts["belief"].shape[1:2],
        "outcome": (3,),
        "informative": (),
        "success_rate": (),
    }
    for name, value in forecasts.items():
        expected = (*axes[name], online.num_prompts)
        expect(value.T.shape == expected, f"{name} has shape {value.T.shape}, not {expected}")
        bad = value[~((value >= -1e-9) & (value <= 1 + 1e-9))]
        expect(bad.size == 0, f"{name} holds {bad[:1]}, which is no probability")
    for name in ("belief", "outcome"):
        total = forecasts[name].sum(axis=1)
        expect(np.allclose(total, 1.0), f"{name} adds up to {total[np.abs(total - 1).argmax()]:.6g}, not to 1")
    gap = np.abs(forecasts["informative"] - forecasts["outcome"][:, 1]).max()
    expect(gap < 1e-6, f"informative differs by up to {gap:.2g} from the chance of the outcome 'some'")


def _check_same(one: OnlineFilter, other: OnlineFilter, when: str, expect: Expect) -> None:
    """Check that two filters of the same prompts make the same forecasts."""
    rows = one.rows(other.prompt_ids)
    for (name, value), expected in zip(_forecasts(one).items(), _forecasts(other).values(), strict=True):
        expect(np.allclose(value[rows], expected, atol=1e-6), f"{name} differs {when}")


def _step_randomly(online: OnlineFilter, seed: int) -> None:
    """Take three steps with random groups."""
    rng = np.random.default_rng(seed)
    ids = sorted(online.prompt_ids)
    groups = min(3, len(ids))
    for _ in range(3):
        n = rng.integers(1, 9, groups)
        chosen = list(rng.choice(ids, groups, replace=False))
        online.step(chosen, rng.integers(0, n + 1), n, trained=rng.random(groups) < 0.7)
