"""A test kit for models from outside the package: is a model what all of promptdyn takes it for?

    from promptdyn.testing import check_model

    def test_mine():
        check_model(Mine(cluster="task"))

What fails raises AssertionError (or InputError, where the package itself refuses it) with one line that says which
model, what was found, and what was expected.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError, PromptdynWarning
from promptdyn.evaluation.simulation import simulate
from promptdyn.history import RewardHistory
from promptdyn.inference import EM, Fit
from promptdyn.inference.climb import climb
from promptdyn.inference.densities import Density, Values, load_density
from promptdyn.models import Model
from promptdyn.models.base import DynamicsLike, Params, Statistics, as_dynamics, cluster_of, for_pool, model_fault
from promptdyn.online import OnlineFilter, OnlineModel
from promptdyn.ppl import BACKENDS, Backend, chain_at
from promptdyn.prompts import POLICY, Prompts, column_names
from promptdyn.registry import Registry, describe

__all__ = ["check_model", "check_online"]

Say = Callable[[Any, str], None]
# Prompts that filters are checked on, at most.
MOST = 6


def check_model(
    model: Model, history: RewardHistory | None = None, *, backends: Sequence[Backend] | None = None, seed: int = 0
) -> None:
    """Check a model of either kind.

    A program (`Dynamics`): it can be made again of its settings; it gives the same log density, expected counts and log
    prior in NumPy and in every backend, with gradients that are finite differences; what its prior draws are chains;
    `m_step` finds what EM would climb to; a fit of it is saved, loaded, run forward and filtered online; and odd
    histories give numbers. It takes seconds, most of them JAX's compiling. A model that learns online: its settings,
    and `check_online`.

    Args:
        model: what is checked, at the settings that it has.
        history: what its densities are evaluated on; default a small random one that has the model's label columns.
        backends: those to run; default all that are installed.
        seed: of the points at which it is checked.

    Raises:
        AssertionError: a check failed.
        InputError: the model breaks a contract that the package tells of itself, or no backend is installed.
    """
    say = _teller(model)
    _check_settings(model, say)
    if isinstance(model, OnlineModel):
        check_online(model)
        return
    if backends is None:
        backends = [name for name, package in zip(BACKENDS, ("numpyro", "pyro"), strict=True) if find_spec(package)]
    if not backends:
        raise InputError("no backend is installed: pip install 'promptdyn[fit]' or 'promptdyn[pyro]'")
    if history is None:
        history = _history(column_names(cluster_of(model)), seed)
    model = for_pool(model, history.prompts)
    dense = history.dense(cluster_of(model))
    densities = {name: load_density(name)(model, dense) for name in backends}
    # Pyro, where it is there, compiles nothing: what needs one backend only is done in it.
    plain = densities[backends[-1]]
    _check_prior(plain, say)
    start = plain.unconstrain(plain.program.start)
    rng = np.random.default_rng(seed)
    near, apart = (
        {name: value + 0.5 * rng.standard_normal(value.shape) for name, value in start.items()} for _ in range(2)
    )
    for at, values in {"its start": start, "a point near its start": near, "another such point": apart}.items():
        params = plain.constrain(values)
        _check_density(densities, params, history, at, say)
        _check_m_step(plain, params, at, say)
    _check_gradients(densities, near, rng, say)
    _check_odd_histories(model, history, backends[-1], say)
    result = EM(max_iterations=3).run(plain, seed, lambda done, total, watch: None)
    fit = replace(
        Fit.from_parameters(plain.program, result.params, dense), method={"name": "em", "backend": backends[-1]}
    )
    _check_life(fit, history, say)


def check_online(model: OnlineModel, prompts: Prompts | None = None) -> None:
    """Check what filters a pool live: a model that learns online, or what `Fit.frozen` returns.

    Forecasts are probabilities that agree with one another, for mixed group sizes and for some prompts only; draws
    average to them; results are no views of the state; a saved state continues alike; prompts may join, stand in any
    order, and age where no group was rolled out.

    Args:
        model: what is checked.
        prompts: two or more, with the columns that the model's `cluster` names; the first six are taken. Default: six
            of two clusters, for models that take any.

    Raises:
        AssertionError: a check failed.
        InputError: fewer than two prompts, or a column is missing.
    """
    say = _teller(model)
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
        _check_forecasts(online, say)
        before = _forecasts(online)
        kept = {name: value.copy() for name, value in before.items()}
        _drive(online, seed)
        for name, value in kept.items():
            say(np.array_equal(before[name], value), f"{name} is a view of the state and changed with it: copy it")

    by_size: dict[str, Callable[..., NDArray]] = {"informative": online.informative, "outcome": online.outcome}
    n = np.array([2, 8, 2, 16, 8, 4])[:size]
    for i, each in enumerate(n.tolist()):
        for name, ask in by_size.items():
            mixed, alone = ask(n)[i], ask(each)[i]
            say(np.allclose(mixed, alone), f"{name} of {each} rollouts is {alone}, among groups of other sizes {mixed}")
    rows = np.array([size - 1, 0])
    for name, ask in by_size.items():
        say(np.allclose(ask(8, rows=rows), ask(8)[rows]), f"{name} of some prompts only differs from that of all")

    rng = np.random.default_rng(0)
    asks: dict[str, Callable[[], NDArray]] = {
        "informative": lambda: online.informative(8, rng),
        "success_rate": lambda: online.success_rate(rng),
    }
    for name, draw in asks.items() if not model.at_mean else ():
        draws, mean = np.array([draw() for _ in range(1000)]), _forecasts(online)[name]
        off = np.abs(draws.mean(axis=0) - mean) - 5.0 * draws.std(axis=0) / np.sqrt(len(draws))
        i = int(off.argmax())
        say(off[i] < 0.02, f"{name} is {mean[i]:.3g}, its draws (given rng) average {draws.mean(axis=0)[i]:.3g}")

    saved = online.state_dict()
    json.dumps({key: value for key, value in saved.items() if key != "arrays"})
    again = filters(range(size))
    again.load_state_dict(saved)
    _drive(online, 9)
    _drive(again, 9)
    _check_same(again, online, "after a saved state is loaded", say)

    together, joined, turned = map(filters, (range(size), range(size * 2 // 3), range(size)[::-1]))
    joined.add(pool.select(range(size * 2 // 3, size)))
    for each in (together, joined, turned):
        _drive(each, 3)
    _check_same(joined, together, "where prompts joined later", say)
    _check_same(turned, together, "with the pool in another order", say)
    together.step([], [], 8)
    _check_forecasts(together, say)


def _forecasts(online: OnlineFilter) -> dict[str, NDArray[np.float64]]:
    return {
        "belief": online.belief,
        "outcome": online.outcome(8),
        "informative": online.informative(8),
        "success_rate": online.success_rate(),
    }


def _check_forecasts(online: OnlineFilter, say: Say) -> None:
    """They are probabilities, of the right shapes, that agree."""
    found = _forecasts(online)
    axes: dict[str, tuple[int, ...]] = {
        "belief": found["belief"].shape[1:2],
        "outcome": (3,),
        "informative": (),
        "success_rate": (),
    }
    for name, value in found.items():
        expected = (*axes[name], online.num_prompts)
        say(value.T.shape == expected, f"{name} has shape {value.T.shape}, not {expected}")
        bad = value[~((value >= -1e-9) & (value <= 1 + 1e-9))]
        say(bad.size == 0, f"{name} holds {bad[:1]}, which is no probability")
    for name in ("belief", "outcome"):
        total = found[name].sum(axis=1)
        say(np.allclose(total, 1.0), f"{name} adds up to {total[np.abs(total - 1).argmax()]:.6g}, not to 1")
    gap = np.abs(found["informative"] - found["outcome"][:, 1]).max()
    say(gap < 1e-6, f"informative is up to {gap:.2g} off the chance of the outcome 'some'")


def _check_same(one: OnlineFilter, other: OnlineFilter, when: str, say: Say) -> None:
    """Two filters of the same prompts forecast the same."""
    rows = one.rows(other.prompt_ids)
    for (name, found), expected in zip(_forecasts(one).items(), _forecasts(other).values(), strict=True):
        say(np.allclose(found[rows], expected, atol=1e-6), f"{name} differs {when}")


def _drive(online: OnlineFilter, seed: int) -> None:
    """Three steps of random groups."""
    rng = np.random.default_rng(seed)
    ids = sorted(online.prompt_ids)
    groups = min(3, len(ids))
    for _ in range(3):
        n = rng.integers(1, 9, groups)
        chosen = list(rng.choice(ids, groups, replace=False))
        online.step(chosen, rng.integers(0, n + 1), n, trained=rng.random(groups) < 0.7)


def _teller(model: Any) -> Say:
    def say(holds: Any, what: str) -> None:
        if not holds:
            raise AssertionError(f"model {getattr(model, 'name', model)!r}: {' '.join(what.split())}")

    return say


def _history(columns: Sequence[str], seed: int) -> RewardHistory:
    """Sixteen prompts over seven steps, two thirds of the groups, of 1, 4 and 8 rollouts; two levels a column."""
    rng = np.random.default_rng(seed)
    num_prompts, num_steps = 16, 6
    step, prompt = np.nonzero(rng.random((num_steps, num_prompts)) < 0.65)
    step, prompt = np.append(step, np.full(num_prompts, num_steps)), np.append(prompt, np.arange(num_prompts))
    n = rng.choice([1, 4, 8], len(step))
    names = ["cluster" if column == "auto" else column for column in columns]
    return RewardHistory.from_columns(
        step,
        [f"p{i}" for i in prompt],
        num_successes=rng.binomial(n, rng.beta(0.5, 0.5, len(n))),
        num_rollouts=n,
        trained=rng.random(len(step)) < 0.7,
        columns={name: [f"c{i >> place & 1}" for i in prompt] for place, name in enumerate(names)},
    )


def _check_settings(model: Any, say: Say) -> None:
    """It can be registered, and made again of its description."""
    registry: Registry[Any, Any] = Registry("model", fault=model_fault)
    registry.register(type(model))
    again = registry.from_description(json.loads(json.dumps(describe(model, exact=True))))
    say(again == model, f"made again of its settings it is {again!r}, not {model!r}: declare every setting as a field")


def _evidence(fit: Fit, history: RewardHistory) -> NDArray[np.float64]:
    """(prompt,) log p(counts) as the live filter sees them come, in NumPy alone."""
    chain: Any = fit.frozen()
    online = fit.online(history.prompts)
    state = online._state
    total = np.zeros(history.num_prompts)
    for step in history.steps:
        rows = history.step == step
        prompts, n, k = history.prompt[rows], history.num_rollouts[rows], history.num_successes[rows]
        total[prompts] += chain.absorb(state, prompts, k, n, history.trained[rows])
    return total


def _check_density(
    densities: Mapping[Backend, Density], params: Params, history: RewardHistory, at: str, say: Say
) -> None:
    """A history's log density is the live filter's in every backend; log priors and expected counts are the same."""
    log_priors: dict[str, float] = {}
    expected: dict[str, Statistics] = {}
    for name, density in densities.items():
        evidence = _evidence(Fit.from_parameters(density.program, params, density.dense), history)
        found = density.log_marginals(params)
        i = int(np.abs(found - evidence).argmax())
        say(
            np.allclose(found, evidence, rtol=1e-5, atol=1e-6),
            f"at {at} prompt {history.prompt_ids[i]!r} has log density {found[i]:.6g} in {name}, {evidence[i]:.6g} in "
            "NumPy: compute with ppl.xp alone, and from pool and sites alone",
        )
        expected[name], _, log_priors[name] = density.expected(params)
        say(np.isfinite(log_priors[name]), f"at {at} the log prior is {log_priors[name]} in {name}")
    values = list(log_priors.values())
    say(np.allclose(values, values[0], rtol=1e-5, atol=1e-6), f"at {at} log priors differ: {log_priors}")
    one, *others = expected.values()
    for part in ("initial", "transition", "emission"):
        close = all(np.allclose(getattr(one, part), getattr(other, part), rtol=1e-5, atol=1e-6) for other in others)
        say(close, f"at {at} expected counts of {part} differ between {' and '.join(expected)}")


def _check_gradients(densities: Mapping[Backend, Density], values: Values, rng: np.random.Generator, say: Say) -> None:
    """The gradient of the log joint, along a direction of each site, is a finite difference, and EM's (Fisher)."""
    for name, density in densities.items():
        slopes = density.joint(values)[1]
        statistics = density.expected(density.constrain(values))[0]
        slopes_of_em = density.expected_joint(values, {}, statistics)[1]
        for site, value in values.items():
            direction = rng.standard_normal(value.shape)
            ahead, behind = (density.joint({**values, site: value + step * direction})[0] for step in (1e-5, -1e-5))
            expected, found = (ahead - behind) / 2e-5, float(np.sum(slopes[site] * direction))
            say(
                np.isclose(found, expected, rtol=1e-3, atol=1e-3),
                f"the slope of the log joint along site {site!r} is {found:.6g} in {name}, finite differences give "
                f"{expected:.6g}: is all that depends on the site differentiable, without a branch or a maximum?",
            )
            close = np.allclose(slopes_of_em[site], slopes[site], rtol=1e-5, atol=1e-6)
            say(
                close,
                f"the slope of EM's expected log joint along site {site!r} is not that of the log joint in {name}",
            )


def _check_prior(density: Density, say: Say) -> None:
    """What the prior draws are chains."""
    program = density.program
    drawn = program.prior(20, seed=0)
    for i in range(20):
        try:
            chain_at(program.model, {name: value[i] for name, value in drawn.items()}, program.pool)
        except InputError as error:
            say(False, f"at a draw of its prior: {error}")


def _check_m_step(density: Density, params: Params, at: str, say: Say) -> None:
    """The model's M-step gives sites of the program, of its shapes, where the expected log joint is highest."""
    model = as_dynamics(density.program.model)
    statistics = density.expected(params)[0]
    found = model.m_step(statistics, params)
    for site, value in found.items():
        say(site in params, f"m_step gives {site!r}, the program samples {', '.join(params)}")
        shapes = np.shape(value), np.shape(params[site])
        say(shapes[0] == shapes[1], f"m_step gives {site!r} the shape {shapes[0]}, the program {shapes[1]}")
        back = density.constrain(density.unconstrain({site: value}))[site]
        say(np.allclose(back, value, atol=1e-6), f"m_step gives {site!r} outside its support: {value}")
    fixed = {name: value for name, value in params.items() if name not in found}
    if model.empirical_bayes or not found:
        return
    joint = partial(density.expected_joint, fixed=fixed, statistics=statistics)
    at_found = density.unconstrain({name: np.asarray(value) for name, value in found.items()})
    trace = climb(joint, at_found, max_iterations=50).trace
    say(
        trace[-1] - trace[0] < 1e-3,
        f"at {at} m_step takes the expected log joint to {trace[0]:.6g}, a climb from there to {trace[-1]:.6g}: "
        "it is no maximum (a model whose m_step integrates other sites out says empirical_bayes = True)",
    )


def _check_life(fit: Fit, history: RewardHistory, say: Say) -> None:
    """A fit is saved, loaded, run forward and filtered online."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "fit.npz"
        fit.save(path)
        again = Fit.load(path, type(fit.model))
    for part in ("initial", "transition"):
        kept = np.array_equal(getattr(again.chain, part), getattr(fit.chain, part))
        say(kept, f"a fit that was saved and loaded has another {part}: let the program depend on its settings alone")
    drawn = simulate(fit, like=history).history
    say(np.all((drawn.num_successes >= 0) & (drawn.num_successes <= drawn.num_rollouts)), "run forward, k is above n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptdynWarning)  # one point is no posterior
        fit.inference_data(history)
    check_online(fit.frozen(), history.prompts)


def _check_odd_histories(model: DynamicsLike, history: RewardHistory, backend: Backend, say: Say) -> None:
    """Log densities are numbers for one prompt, one step, single rollouts, large groups and a prompt never seen."""
    columns = {name: labels[history.prompt] for name, labels in history.columns.items()}
    first = history.prompt == 0
    alone = RewardHistory.from_columns(
        history.step[first],
        history.prompt[first],
        num_successes=history.num_successes[first],
        num_rollouts=history.num_rollouts[first],
        columns={name: labels[first] for name, labels in columns.items()},
    )
    ones, many = np.ones_like(history.num_rollouts), np.full_like(history.num_rollouts, 64)
    odd = {
        "of one prompt": alone,
        "of one step": history.select(history.step == history.steps[0]),
        "of single rollouts": replace(history, num_rollouts=ones, num_successes=np.minimum(history.num_successes, 1)),
        "of groups of 64, all failed": replace(history, num_rollouts=many, num_successes=0 * many),
        "with a prompt that was never seen": history.select(~first),
    }
    for what, part in odd.items():
        density = load_density(backend)(model, part.dense(cluster_of(model)))
        found = density.log_marginals(density.program.start)
        say(np.all(np.isfinite(found)), f"a history {what} has log density {found[~np.isfinite(found)][:1]}")
        unseen = ~np.isin(np.arange(part.num_prompts), part.prompt)
        say(np.allclose(found[unseen], 0.0), f"a prompt that was never seen has log density {found[unseen]}, not 0")
