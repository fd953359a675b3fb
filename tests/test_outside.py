"""What a stranger adds from one file of their own, in code and by FILE.py:NAME: readers, emissions, engines, scores and
strategies.

The files are in tests/outside. Models are in test_plugins.py, loops of trainers in selection/test_session.py.
"""

import json
import sys
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import beta

import promptdyn
from command_line import promptdyn_here
from configs import HISTORY, OneRate, TwoState
from promptdyn.errors import ConvergenceWarning, InputError
from promptdyn.history import Counts
from promptdyn.inference import METHODS, SVI, Engine, Fit, Result
from promptdyn.models import DPS, MODELS
from promptdyn.plugins import load_object
from promptdyn.ppl import BACKENDS
from promptdyn.readers import READERS, Reader
from promptdyn.selection import SCORES, STRATEGIES, Selector
from promptdyn.testing import check_model
from promptdyn.training.recipes import Recipe

OUTSIDE = Path(__file__).parent / "outside"
IDS = [f"p{i}" for i in range(8)]
LINES = ["0 a 1", "0 a 0", "0 b 0.5", "0 b 0.5", "1 a 1", "1 a 1", "1 b 0", "1 b 1"]


@pytest.fixture(autouse=True)
def _fresh(registries, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "log.pairs"
    path.write_text("\n".join(LINES) + "\n")
    return path


def counts(history):
    ids = np.asarray(history.prompt_ids)[history.prompt]
    return list(zip(history.step.tolist(), ids.tolist(), history.num_successes.tolist(), strict=True))


# Readers


def test_a_reader_of_ones_own_is_named_registered_or_given(log):
    named = f"{OUTSIDE}/pairs.py:Pairs"
    strict, lenient = [(0, "a", 1), (0, "b", 0), (1, "a", 2), (1, "b", 1)], [(0, "a", 1), (0, "b", 2), (1, "a", 2)]
    with pytest.raises(InputError, match=r"log.pairs: no known format: .* or name your own reader \(FILE.py:NAME\)"):
        promptdyn.read_history(log)
    assert counts(promptdyn.read_history(log, named)) == strict
    assert counts(promptdyn.read_history(log, f"{named}:least=0.5"))[:3] == lenient
    assert counts(promptdyn.read_history(log, named, least=0.5))[:3] == lenient
    assert counts(promptdyn.read_history(log)) == strict  # what was named is registered
    pairs = READERS["pairs"](least=0.5)
    assert counts(promptdyn.read_history([log], pairs))[:3] == lenient
    assert counts(promptdyn.read_history(log, pairs, least=1.0)) == strict
    with pytest.raises(InputError, match=r"log.pairs: option 'last' does not fit format 'pairs': it takes least"):
        promptdyn.read_history(log, last=3)
    with pytest.raises(InputError, match="reader 'pairs': least='much' is not a finite number"):
        promptdyn.read_history(log, least="much")
    log.write_text("0 a 1\n0 a one\n")
    with pytest.raises(InputError, match=r"log.pairs line 2: '0 a one' is not STEP PROMPT REWARD"):
        promptdyn.read_history(log)


def test_ones_own_reader_comes_before_the_packages(tmp_path):
    @READERS.register
    @dataclass(frozen=True)
    class Commas(load_object(f"{OUTSIDE}/pairs.py:Pairs", "reader")):  # type: ignore[misc]
        name = "commas"

        def recognizes(self, path):
            return path.suffix == ".csv"

    (tmp_path / "a.csv").write_text("\n".join(LINES))
    assert len(promptdyn.read_history(tmp_path / "a.csv")) == 4
    (tmp_path / "b.csv").write_text("step,prompt_id,num_rollouts,num_successes\n0,a,8,1\n")
    assert len(promptdyn.read_history(tmp_path / "b.csv", "groups")) == 1


def test_the_command_line_takes_a_reader_of_ones_own(log, tmp_path):
    named = f"{OUTSIDE}/pairs.py:Pairs:least=0.5"
    done = promptdyn_here("import", log, tmp_path / "history.parquet", "--reader", named, "--json", "-")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == 4
    assert counts(promptdyn.read_history(tmp_path / "history.parquet"))[1] == (0, "b", 2)
    done = promptdyn_here("import", log, tmp_path / "other.parquet", "--reader", "pears")
    assert done.returncode == 2
    assert done.stderr.startswith("promptdyn: reader 'pears' is none of groups, rollouts, verl, prime-rl, ")
    done = promptdyn_here("import", log, tmp_path / "other.parquet", "--reader", named, "--reward", "r")
    assert done.returncode == 2
    assert "reader 'pairs' has no setting 'reward'; it has least" in done.stderr


def test_what_is_no_reader_is_told(log):
    @dataclass(frozen=True)
    class Half(Reader):
        name = "half"

        def recognizes(self, path):
            return True

    @dataclass(frozen=True)
    class Needy(Half):
        separator: str
        name = "needy"

        def read(self, paths, source):
            return [paths]

    with pytest.raises(InputError, match=r"reader .*Half is no reader yet: of the methods of Reader it lacks read"):
        READERS.register(Half)
    # A format with an option that must be given is looked for where it is.
    READERS.register(Needy)
    with pytest.raises(InputError, match=r"log.pairs: no known format"):
        promptdyn.read_history(log)
    with pytest.raises(InputError, match=r"log.pairs: reader 'needy' returned a list, not a RewardHistory"):
        promptdyn.read_history(log, separator=",")
    with pytest.raises(
        InputError, match=r"is no reader: let it inherit from promptdyn\.readers\.Reader, or give a name"
    ):
        promptdyn.read_history(log, object())  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"log.pairs: reader 'needy' returned a list, not a RewardHistory"):
        promptdyn.read_history(log, Needy(" "))


# Emissions


def test_an_emission_of_ones_own_is_fitted_filtered_and_drawn(tmp_path):
    model = f"{OUTSIDE}/broken.py:Fragile"
    check_model(MODELS.parse_one(model))
    drawn, fitted = tmp_path / "drawn.parquet", tmp_path / "fit.npz"
    sizes = ("--num-prompts", "100", "--num-steps", "30", "--truth", tmp_path / "truth.npz")
    done = promptdyn_here("simulate", model, drawn, *sizes)
    assert done.returncode == 0, done.stderr
    done = promptdyn_here("fit", drawn, "--model", model, "--backend", "pyro", "--out", fitted)
    assert done.returncode == 0, done.stderr
    truth, fit = Fit.load(tmp_path / "truth.npz"), Fit.load(fitted)
    assert fit.params["broken"] == pytest.approx(float(truth.params["broken"]), abs=0.03)
    # A group of 8 in the easy state fails whole about as often as it is broken.
    none, some, every = np.exp(fit.chain.log_emission(Counts(np.array([0, 4, 8]), np.full(3, 8))))[1]
    assert none == pytest.approx(fit.params["broken"], abs=1e-6)
    assert every > some > 0


# Engines


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_engine_on_the_log_joint_comes_to_the_mode_in_either_backend(backend):
    history = HISTORY.before(8)
    named = f"{OUTSIDE}/adam.py:Adam:num_steps=150"
    fit = promptdyn.fit(TwoState(), history, named, backend=backend)
    exact = promptdyn.fit(TwoState(), history, "map", backend=backend, tolerance=1e-9)
    assert fit.method == {"name": "adam", "num_steps": 150, "learning_rate": 0.1, "backend": backend, "seed": 0}
    assert fit.trace[-1] == pytest.approx(exact.trace[-1], abs=0.01)
    for site, value in exact.params.items():
        np.testing.assert_allclose(fit.params[site], value, atol=0.01)


def test_the_command_line_takes_an_engine_with_a_loop_for_one_backend_and_says_so_elsewhere(tmp_path):
    history = HISTORY.before(4)
    history.to_parquet(tmp_path / "h.parquet")
    model = f"{Path(__file__).parent}/configs.py:OneRate"
    arguments = ["fit", tmp_path / "h.parquet", "--model", model, "--out", tmp_path / "fit.npz", "--json", "-"]
    done = promptdyn_here(*arguments, "--method", f"{OUTSIDE}/hmc.py:FixedHMC:num_samples=4000")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["method"], report["converged"]) == ("hmc", True), report["verdict"]
    fit = Fit.load(tmp_path / "fit.npz", load_object(model, "model"))
    draws, successes = fit.draws["rate"].ravel(), history.num_successes.sum()
    exact = beta(2 + successes, 3 + history.num_rollouts.sum() - successes)
    assert draws.mean() == pytest.approx(exact.mean(), abs=0.3 * exact.std())
    assert draws.std() == pytest.approx(exact.std(), rel=0.25)
    assert fit.online(history.prompts).informative(8).shape == (history.num_prompts,)
    done = promptdyn_here(*arguments, "--method", f"{OUTSIDE}/hmc.py:FixedHMC", "--backend", "pyro")
    assert done.returncode == 2
    assert "method 'hmc' has no loop for backend 'pyro', but for numpyro: fit with another" in done.stderr
    done = promptdyn_here(*arguments, "--method", f"{OUTSIDE}/adam.py:Adam,num_steps=60", "--backend", "pyro")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["method"] == "adam"


@dataclass(frozen=True)
class Returns(Engine):
    """Returns what it is told to."""

    what: object = None

    name = "returns"

    def run(self, density, seed, report):
        return self.what


RESULT: tuple[Any, ...] = ({"rate": np.array(0.4)}, np.zeros(0), True, "fine", {})


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (None, r"method 'returns' returned a NoneType: let `run` return a promptdyn\.inference\.Result"),
        (Result({}, *RESULT[1:]), "returned params of sites none: the program has rate"),
        (Result({"rates": np.array(0.4)}, *RESULT[1:]), "returned params of sites rates: the program has rate"),
        (Result({"rate": np.full(3, 0.4)}, *RESULT[1:]), r"params of site 'rate' of shape \(3,\): it must be \(\)"),
        (
            replace(Result(*RESULT), draws={"rate": np.full(3, 0.4)}),
            r"draws of site 'rate' of shape \(3,\): it must be \(chain, draw\)",
        ),
    ],
)
def test_a_result_that_is_none_is_told(what, message):
    with pytest.raises(InputError, match=message):
        promptdyn.fit(OneRate(), HISTORY, Returns(what), backend="pyro")


def test_what_is_no_engine_is_told():
    with pytest.raises(
        InputError, match=r"method 3 is no engine: let it inherit from promptdyn\.inference\.Engine, or"
    ):
        promptdyn.fit(OneRate(), HISTORY, 3)  # type: ignore[arg-type]
    with pytest.raises(
        InputError, match=r"method SVI is a class: give an object, SVI\(\), or a name \(em, map, svi, nuts"
    ):
        promptdyn.fit(OneRate(), HISTORY, SVI)  # type: ignore[arg-type]

    class Nameless(Engine):
        def run(self, density, seed, report): ...

    with pytest.raises(InputError, match=r"method <.*Nameless.*> has no name: give the class one, name = 'mine'"):
        promptdyn.fit(OneRate(), HISTORY, Nameless())

    @dataclass(frozen=True)
    class Lost(Returns):
        name = "lost"
        loops = {"pyro": "promptdyn.inference.loops.pyro:langevin"}  # noqa: RUF012

        def run(self, density, seed, report):
            return self.loop(density)(density)

    with pytest.raises(
        InputError, match=r"loop of method 'lost' .*there is no langevin in promptdyn.inference.loops.pyro"
    ):
        promptdyn.fit(OneRate(), HISTORY, Lost(), backend="pyro")


def test_settings_go_with_an_engine_that_is_given():
    adam = load_object(f"{OUTSIDE}/adam.py:Adam", "method")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit = promptdyn.fit(OneRate(), HISTORY, adam(learning_rate=0.2), backend="pyro", num_steps=5)
    assert (fit.method["num_steps"], fit.method["learning_rate"], len(fit.trace)) == (5, 0.2, 5)
    with pytest.raises(InputError, match="method 'adam' has no setting 'steps'; it has num_steps, learning_rate"):
        promptdyn.fit(OneRate(), HISTORY, adam(), steps=5)
    assert "adam" not in METHODS  # an object need not be registered


# Scores and strategies


def test_scores_of_ones_own_are_functions_or_have_settings(tmp_path):
    file = f"{OUTSIDE}/band.py"
    online = DPS().online(IDS)
    by_function = Selector(online, score=f"{file}:uncertain")
    assert by_function.score is SCORES["uncertain"] is load_object(f"{file}:uncertain", "score")
    with_settings = Selector(online, "top", f"{file}:Band:low=0.4,high=0.41")
    assert with_settings.score == SCORES["band"](low=0.4, high=0.41)
    with_settings.observe(["p1", "p2"], [[0, 0], [1, 1]])
    expected = with_settings.score(with_settings.online, 8, None)
    chosen = with_settings.online.rows(with_settings.select(3))
    assert sorted(expected[chosen]) == sorted(expected)[-3:]
    assert len(set(expected)) > 2
    with_settings.save(tmp_path / "selector.npz")
    Selector(DPS().online(IDS), "top", SCORES["band"](low=0.4, high=0.41)).load(tmp_path / "selector.npz")
    with pytest.raises(
        InputError,
        match=r"choice top\(\) on score band\(low=0\.4, high=0\.41\), this one has top\(\) on score band\(low=0\.2",
    ):
        Selector(DPS().online(IDS), "top", "band").load(tmp_path / "selector.npz")
    with pytest.raises(InputError, match=r"score 'uncertain' has no setting 'low'; it has none"):
        Selector(online, score="uncertain:low=3")


def wrong_shape(online, num_rollouts, rng=None):
    return np.zeros(2)


def unknown(online, num_rollouts, rng=None):
    return np.full(online.num_prompts, np.nan)


@pytest.mark.parametrize(
    ("score", "message"),
    [
        ("best", "score 'best' is none of informative, reward_variance, half_solved, nor FILE.py:NAME"),
        (3, r"score 3 is no score: give it __call__\(self, online, num_rollouts, rng\), or give a name \(informative"),
        (lambda online: 0, r"is no score: it is called with \(online, num_rollouts, rng\), and too many positional"),
        (wrong_shape, r"score wrong_shape is of shape \(2,\) for 8 prompts"),
        (unknown, "score unknown of prompt 'p0' is NaN"),
    ],
)
def test_what_is_no_score_is_told(score, message):
    with pytest.raises(InputError, match=message):
        Selector(DPS().online(IDS), score=score, success=1.0).select(3)


def test_a_recipe_tells_a_strategy_or_score_that_is_none_before_anything_is_loaded():
    with pytest.raises(InputError, match="score 'best' is none of informative"):
        Recipe(score="best")
    with pytest.raises(InputError, match="strategy 'best' is none of proportional"):
        Recipe(strategy="best")


def test_training_on_the_command_line_takes_a_score_and_a_strategy_of_ones_own(tmp_path):
    done = promptdyn_here(
        *["train", "--output-dir", tmp_path / "run", "--selector", "dps", "--num-prompts", 40, "--max-steps", 3],
        *["--prompts-per-step", 4, "--num-generations", 2, "--score", f"{OUTSIDE}/band.py:Band:low=0.1"],
        *["--strategy", f"{OUTSIDE}/patient.py:Patient:rest=5"],
    )
    assert done.returncode == 0, done.stderr
    history = promptdyn.read_history(tmp_path / "run")
    assert (len(history), history.num_prompts) == (12, 12)  # what was taken rests
    assert STRATEGIES["patient"].__module__.startswith("promptdyn_file_patient")
