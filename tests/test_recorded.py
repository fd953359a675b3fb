"""The same seed gives the same choices and the same fits as when they were recorded, and files of then can be read.

`python tests/test_recorded.py` records anew, for changes that are meant to change them.
"""

import json
import sys
import warnings
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import promptdyn
from promptdyn.errors import ConvergenceWarning
from promptdyn.history import RewardHistory
from promptdyn.models import MODELS
from promptdyn.models.checks import check_dynamics, check_forecaster
from promptdyn.prompts import Prompts
from promptdyn.selection import STRATEGIES, Selector

FILES = Path(__file__).with_name("data") / "recorded"
RECORD = FILES / "choices_and_fits.json"
IDS = [f"p{i}" for i in range(40)]
LABELS = [f"kind {i % 3}" for i in range(40)]
FEATURES = np.random.default_rng(5).normal(size=(40, 4)).astype(np.float32)
POOL = Prompts(IDS, {"kind": LABELS, "policy": FEATURES})
STEPS, GROUPS, ROLLOUTS = 12, 6, 4

BY_SCORE = [name for name in STRATEGIES if name not in ("greso", "history_resampling")]
ONLINE = [name for name, cls in MODELS.items() if not hasattr(cls, "program")]
POOLED = [f"{model}:cluster=kind" for model in ("dps", "mopps", "rate")]
MEANS = "proportional:drawn=false"
SELECTORS = [
    *[(model, strategy) for model in (*ONLINE, *POOLED) for strategy in ("proportional", MEANS)],
    *[(model, strategy) for model in ("mopps", "fit") for strategy in (*BY_SCORE, MEANS)],
    ("rate", "history_resampling"),
    ("rate", "greso"),
]
FITS = [("hmm:num_states=3,cluster=kind", "em"), ("hierarchical:num_states=3,cluster=kind", "em")]
FITS += [("beta:num_states=5,cluster=kind", "map:max_iterations=20"), ("hmm:num_states=2", "svi:num_steps=40")]


@cache
def history() -> RewardHistory:
    """Prompts that are solved more often from step to step, a third of them rolled out in each."""
    rng = np.random.default_rng(2)
    step, prompt = np.nonzero(rng.random((15, len(IDS))) < 0.3)
    level = rng.normal(-1.0, 2.0, len(IDS))[prompt] + 0.15 * step
    return RewardHistory.from_columns(
        step,
        [IDS[i] for i in prompt],
        num_successes=rng.binomial(ROLLOUTS, 1.0 / (1.0 + np.exp(-level))),
        num_rollouts=np.full(len(step), ROLLOUTS),
        trained=rng.random(len(step)) < 0.8,
        columns={"kind": [LABELS[i] for i in prompt]},
    )


@cache
def fitted() -> promptdyn.Fit:
    return promptdyn.fit(
        check_dynamics(MODELS.parse_one("hmm:num_states=3,cluster=kind")),
        history(),
        "em",
        observed="all",
        backend="pyro",
    )


def choices(model: str, strategy: str) -> list[str]:
    """Of each step the prompts that a selector chose, while they are learned from what was chosen."""
    dynamics = check_forecaster(fitted().frozen() if model == "fit" else MODELS.parse_one(model))
    selector = Selector(dynamics.online(POOL), strategy, num_generations=ROLLOUTS, success=1.0, seed=3)
    rng, chosen = np.random.default_rng(4), []
    level = rng.normal(0.0, 2.0, len(IDS))
    for t in range(STEPS):
        ids = selector.select(GROUPS)
        rows = np.array([IDS.index(prompt_id) for prompt_id in ids])
        level[rows] += 0.4
        rewards = rng.random((GROUPS, ROLLOUTS)) < 1.0 / (1.0 + np.exp(-level[rows]))[:, None]
        selector.observe(ids, rewards.astype(float), trained=list(rng.random(GROUPS) < 0.8))
        if t % 5 == 4:
            selector.observe([], [])
        chosen.append(" ".join(map(str, rows)))
    return chosen


def numbers(model: str, method: str) -> dict[str, float]:
    """What a fit comes to."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # some are cut short
        fit = promptdyn.fit(
            check_dynamics(MODELS.parse_one(model)), history(), method, observed="all", backend="pyro", seed=1
        )
    return {"log_marginal": fit.log_marginal, **{name: float(np.sum(np.square(v))) for name, v in fit.params.items()}}


@pytest.fixture(scope="module")
def recorded():
    return json.loads(RECORD.read_text())


@pytest.mark.parametrize(("model", "strategy"), SELECTORS)
def test_choices_are_those_recorded(recorded, model, strategy):
    assert choices(model, strategy) == recorded["choices"][f"{strategy} of {model}"]


@pytest.mark.parametrize(("model", "method"), FITS)
def test_fits_are_those_recorded(recorded, model, method):
    found, then = numbers(model, method), recorded["fits"][f"{method} of {model}"]
    assert found.pop("log_marginal") == pytest.approx(then.pop("log_marginal"), rel=1e-6)
    assert found == pytest.approx(then, rel=1e-3, abs=1e-6)


def half_way() -> tuple[Selector, list[str]]:
    """A selector over a fit, and what it chooses next."""
    fit = promptdyn.Fit.load(FILES / "fit.npz")
    selector = Selector(fit.online(POOL), MEANS, num_generations=ROLLOUTS, success=1.0, seed=3)
    for t in range(3):
        selector.observe(IDS[t::4], [[1.0, 0.0, 0.0, 1.0]] * len(IDS[t::4]))
    return selector, deepcopy(selector).select(GROUPS)


def test_files_of_then_can_be_read(recorded):
    selector, chosen = half_way()
    assert chosen == recorded["next"]
    selector.select(GROUPS)
    selector.load(FILES / "selector.npz")
    assert selector.select(GROUPS) == recorded["next"]


if __name__ == "__main__":
    made: dict[str, Any] = {
        "choices": {f"{strategy} of {model}": choices(model, strategy) for model, strategy in SELECTORS},
        "fits": {f"{method} of {model}": numbers(model, method) for model, method in FITS},
    }
    fitted().save(FILES / "fit.npz")
    stopped, made["next"] = half_way()
    stopped.save(FILES / "selector.npz")
    RECORD.write_text(json.dumps(made, indent=1) + "\n")
    print(f"{RECORD}: {len(made['choices'])} runs, {len(made['fits'])} fits", file=sys.stderr)
