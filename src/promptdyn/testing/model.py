"""Check a model of either kind."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError, PromptdynWarning
from promptdyn.evaluation.simulation import simulate
from promptdyn.history import RewardHistory
from promptdyn.inference import EM, Fit
from promptdyn.inference.climb import climb
from promptdyn.inference.densities import Density, Values, load_density
from promptdyn.models import Model
from promptdyn.models.base import DynamicsLike, Params, Statistics, as_dynamics, cluster_of, for_pool
from promptdyn.models.checks import model_fault
from promptdyn.online import OnlineModel
from promptdyn.ppl import BACKENDS, Backend, chain_at
from promptdyn.prompts import column_names
from promptdyn.registry import Registry, describe
from promptdyn.testing.expect import Expect, expectation
from promptdyn.testing.online import check_online

__all__ = ["check_model"]


def check_model(
    model: Model, history: RewardHistory | None = None, *, backends: Sequence[Backend] | None = None, seed: int = 0
) -> None:
    """Check a model of either kind.

    The checks of a program (`Dynamics`): it can be made again from its settings; log density, expected counts and log
    prior are the same in NumPy and in every backend; gradients equal finite differences; draws from its prior are
    chains; `m_step` finds the point to which EM would climb; a fit can be saved, loaded, run forward and filtered
    online; and odd histories have finite log densities. They take seconds, mostly for JAX's compilation. The checks of
    a model that learns online are those of its settings and `check_online`.

    Args:
        model: the model to check, at its settings.
        history: the history on which densities are evaluated; default a small random one with the model's label
            columns.
        backends: backends to check; default all that are installed.
        seed: seed of the points at which the model is checked; default 0.

    Raises:
        AssertionError: a check failed.
        InputError: the package refuses the model, or no backend is installed.
    """
    expect = expectation(model)
    _check_settings(model, expect)
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
    # Checks that need only one backend use Pyro if it is installed, since it compiles nothing.
    plain = densities[backends[-1]]
    _check_prior(plain, expect)
    start = plain.unconstrain(plain.program.start)
    rng = np.random.default_rng(seed)
    first_point, second_point = (
        {name: value + 0.5 * rng.standard_normal(value.shape) for name, value in start.items()} for _ in range(2)
    )
    for point, values in {
        "its start": start,
        "a point near its start": first_point,
        "another such point": second_point,
    }.items():
        params = plain.constrain(values)
        _check_density(densities, params, history, point, expect)
        _check_m_step(plain, params, point, expect)
    _check_gradients(densities, first_point, rng, expect)
    _check_odd_histories(model, history, backends[-1], expect)
    result = EM(max_iterations=3).run(plain, seed, lambda done, total, watch: None)
    fit = replace(
        Fit.from_parameters(plain.program, result.params, dense), method={"name": "em", "backend": backends[-1]}
    )
    _check_life(fit, history, expect)


def _history(columns: Sequence[str], seed: int) -> RewardHistory:
    """Return a random history: 16 prompts, 7 steps, two thirds of the groups, of 1, 4 and 8 rollouts, two levels."""
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
        columns={name: [f"c{i >> bit & 1}" for i in prompt] for bit, name in enumerate(names)},
    )


def _check_settings(model: Any, expect: Expect) -> None:
    """Check that a model can be registered, and made again from its description."""
    registry: Registry[Any, Any] = Registry("model", fault=model_fault)
    registry.register(type(model))
    again = registry.from_description(json.loads(json.dumps(describe(model, exact=True))))
    expect(
        again == model, f"made again from its settings it is {again!r}, not {model!r}: declare every setting as a field"
    )


def _evidence(fit: Fit, history: RewardHistory) -> NDArray[np.float64]:
    """Return (prompt,) log p(counts), summed over the steps of a live filter in NumPy."""
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
    densities: Mapping[Backend, Density], params: Params, history: RewardHistory, point: str, expect: Expect
) -> None:
    """Check that log densities equal the live filter's, and that backends agree on log priors and expected counts."""
    log_priors: dict[str, float] = {}
    expected: dict[str, Statistics] = {}
    for name, density in densities.items():
        evidence = _evidence(Fit.from_parameters(density.program, params, density.dense), history)
        log_density = density.log_marginals(params)
        i = int(np.abs(log_density - evidence).argmax())
        expect(
            np.allclose(log_density, evidence, rtol=1e-5, atol=1e-6),
            f"at {point} prompt {history.prompt_ids[i]!r} has log density {log_density[i]:.6g} in {name}, "
            f"{evidence[i]:.6g} in NumPy: compute with ppl.xp alone, and from pool and sites alone",
        )
        expected[name], _, log_priors[name] = density.expected(params)
        expect(np.isfinite(log_priors[name]), f"at {point} the log prior is {log_priors[name]} in {name}")
    values = list(log_priors.values())
    expect(np.allclose(values, values[0], rtol=1e-5, atol=1e-6), f"at {point} log priors differ: {log_priors}")
    one, *others = expected.values()
    for part in ("initial", "transition", "emission"):
        close = all(np.allclose(getattr(one, part), getattr(other, part), rtol=1e-5, atol=1e-6) for other in others)
        expect(close, f"at {point} expected counts of {part} differ between {' and '.join(expected)}")


def _check_gradients(
    densities: Mapping[Backend, Density], values: Values, rng: np.random.Generator, expect: Expect
) -> None:
    """Check that the log joint's gradient equals finite differences, and EM's gradient (Fisher's identity)."""
    for name, density in densities.items():
        slopes = density.joint(values)[1]
        statistics = density.expected(density.constrain(values))[0]
        slopes_of_em = density.expected_joint(values, {}, statistics)[1]
        for site, value in values.items():
            direction = rng.standard_normal(value.shape)
            ahead, behind = (density.joint({**values, site: value + step * direction})[0] for step in (1e-5, -1e-5))
            expected, slope = (ahead - behind) / 2e-5, float(np.sum(slopes[site] * direction))
            expect(
                np.isclose(slope, expected, rtol=1e-3, atol=1e-3),
                f"the slope of the log joint along site {site!r} is {slope:.6g} in {name}, finite differences give "
                f"{expected:.6g}: is everything that depends on the site differentiable, without branches and maxima?",
            )
            close = np.allclose(slopes_of_em[site], slopes[site], rtol=1e-5, atol=1e-6)
            expect(
                close,
                f"the slope of EM's expected log joint along site {site!r} is not that of the log joint in {name}",
            )


def _check_prior(density: Density, expect: Expect) -> None:
    """Check that the chain is valid at draws from the prior."""
    program = density.program
    drawn = program.prior(20, seed=0)
    for i in range(20):
        try:
            chain_at(program.model, {name: value[i] for name, value in drawn.items()}, program.pool)
        except InputError as error:
            expect(False, f"at a draw of its prior: {error}")


def _check_m_step(density: Density, params: Params, point: str, expect: Expect) -> None:
    """Check that the M-step returns the program's sites and shapes, at the maximum of the expected log joint."""
    model = as_dynamics(density.program.model)
    statistics = density.expected(params)[0]
    closed = model.m_step(statistics, params)
    for site, value in closed.items():
        expect(site in params, f"m_step gives {site!r}, the program samples {', '.join(params)}")
        shapes = np.shape(value), np.shape(params[site])
        expect(shapes[0] == shapes[1], f"m_step gives {site!r} the shape {shapes[0]}, the program {shapes[1]}")
        back = density.constrain(density.unconstrain({site: value}))[site]
        expect(np.allclose(back, value, atol=1e-6), f"m_step gives {site!r} outside its support: {value}")
    fixed = {name: value for name, value in params.items() if name not in closed}
    if model.empirical_bayes or not closed:
        return
    joint = partial(density.expected_joint, fixed=fixed, statistics=statistics)
    values = density.unconstrain({name: np.asarray(value) for name, value in closed.items()})
    trace = climb(joint, values, max_iterations=50).trace
    expect(
        trace[-1] - trace[0] < 1e-3,
        f"at {point} m_step takes the expected log joint to {trace[0]:.6g}, a climb from there to {trace[-1]:.6g}: "
        "it is no maximum (if m_step integrates other sites out, declare empirical_bayes = True)",
    )


def _check_life(fit: Fit, history: RewardHistory, expect: Expect) -> None:
    """Check that a fit can be saved, loaded, run forward and filtered online."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "fit.npz"
        fit.save(path)
        again = Fit.load(path, type(fit.model))
    for part in ("initial", "transition"):
        same = np.array_equal(getattr(again.chain, part), getattr(fit.chain, part))
        expect(
            same, f"a fit that was saved and loaded has another {part}: let the program depend on its settings alone"
        )
    drawn = simulate(fit, like=history).history
    expect(
        np.all((drawn.num_successes >= 0) & (drawn.num_successes <= drawn.num_rollouts)), "run forward, k is above n"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptdynWarning)  # one point is no posterior
        fit.inference_data(history)
    check_online(fit.frozen(), history.prompts)


def _check_odd_histories(model: DynamicsLike, history: RewardHistory, backend: Backend, expect: Expect) -> None:
    """Check that log densities are finite for one prompt, one step, single rollouts, large groups, an unseen prompt."""
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
    edge_cases = {
        "of one prompt": alone,
        "of one step": history.select(history.step == history.steps[0]),
        "of single rollouts": replace(history, num_rollouts=ones, num_successes=np.minimum(history.num_successes, 1)),
        "of groups of 64, all failed": replace(history, num_rollouts=many, num_successes=0 * many),
        "with a prompt that was never seen": history.select(~first),
    }
    for description, part in edge_cases.items():
        density = load_density(backend)(model, part.dense(cluster_of(model)))
        values = density.log_marginals(density.program.start)
        expect(
            np.all(np.isfinite(values)), f"a history {description} has log density {values[~np.isfinite(values)][:1]}"
        )
        unseen = ~np.isin(np.arange(part.num_prompts), part.prompt)
        expect(
            np.allclose(values[unseen], 0.0), f"a prompt that was never seen has log density {values[unseen]}, not 0"
        )
