"""Models, strategies and rewards of one's own, by file and class: on the command line, in code, saved and loaded."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import promptdyn
from command_line import promptdyn_command, promptdyn_here
from configs import OneRate, TwoState, small_history
from promptdyn.errors import InputError
from promptdyn.inference import Fit
from promptdyn.models import MODELS, BetaBernoulli, DiscreteHMM
from promptdyn.plugins import load_object, object_reference
from promptdyn.registry import Registry
from promptdyn.selection import STRATEGIES

HISTORY = small_history(1, num_prompts=12, num_steps=10)
MINE = '''
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from chance import START
from promptdyn.models import Chain, emissions
from promptdyn.selection import Strategy


@dataclass(frozen=True)
class OneRate:
    """No state, one success rate."""

    strength: float = 2.0
    cluster: str | None = None

    name = "mine"

    def program(self, ppl, pool):
        rate = ppl.sample("rate", ppl.dist.Beta(self.strength, 3.0), init=START)
        one = ppl.xp.asarray(np.ones((1, 1)))
        return Chain(one, one[None, None], emissions.Binomial(rate[None]))


@dataclass(frozen=True)
class Last(Strategy):
    name = "last"

    def priorities(self, state, outlook, rng):
        return np.arange(float(outlook.num_prompts))


def chars(prompts, completions, **_):
    return [float(len(text) > 1) for text in completions]


number = 3
'''


@pytest.fixture
def folder(tmp_path, monkeypatch, registries):
    """A folder with a file of one's own and what it imports; what a test enters is taken out again."""
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "chance.py").write_text("START = 0.4\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("chance", "mine"):
        sys.modules.pop(name, None)


def test_a_file_of_ones_own_can_be_named(folder, monkeypatch):
    models: dict[str, Any] = MODELS.parse("dps,mine.py:OneRate,mine.py:OneRate:strength=4,cluster=task,mopps")
    assert list(models) == ["dps", "mine.py:OneRate", "mine.py:OneRate:strength=4,cluster=task", "mopps"]
    default, changed = models["mine.py:OneRate"], models["mine.py:OneRate:strength=4,cluster=task"]
    assert (default.strength, changed.strength, changed.cluster) == (2.0, 4, "task")
    assert type(default) is type(changed) is MODELS["mine"]
    assert MODELS.parse_one(f"{folder}/mine.py:OneRate,strength=3.5") == MODELS.parse_one("mine:strength=3.5")
    with pytest.raises(InputError, match="strength='much' is not a finite number"):
        MODELS.parse("mine.py:OneRate:strength=much")
    assert STRATEGIES.parse_one("mine.py:Last").name == "last"
    assert load_object("mine.py:chars", "reward")(None, ["a", "ab"]) == [0.0, 1.0]
    assert load_object("chance:START", "setting") == 0.4
    assert object_reference(MODELS["mine"]) == f"{folder}/mine.py:OneRate"
    # The current folder is looked through for what is not installed, and for nothing else.
    monkeypatch.setattr(sys, "path", [part for part in sys.path if part not in ("", str(folder))])
    with monkeypatch.context() as changed:
        changed.setattr(sys, "path", list(sys.path))
        load_object("promptdyn.registry:Registry", "thing")
        assert str(folder) not in sys.path
    # The same file under its module's name is the same model, not one that would take its place.
    imported = MODELS.register(load_object("mine:OneRate", "model"))
    assert object_reference(MODELS["mine"]) == "mine:OneRate"
    assert MODELS["mine"] is imported


FAULTS = {
    "syntax.py": ("x = 1\nif x\n", r"syntax.py line 2: SyntaxError"),
    "raises.py": ("x = 1\n\nx / 0\n", r"raises.py line 3: ZeroDivisionError: division by zero"),
    "leaves.py": ("import sys\nsys.exit(3)\n", r"leaves.py line 2: SystemExit: 3"),
    "wants.py": ("import not_there\n", r"wants.py line 1: ModuleNotFoundError: No module named 'not_there'"),
    "other.py": ("x = 1\nclass Other: pass\n", r"there is no Mine in other.py; it defines Other"),
    "plain.py": ("class Mine: pass\n", r"model Mine is no dataclass"),
    "value.py": ("Mine = 3\n", r"model 3 is a int: register the class"),
}
DECLARED = "from dataclasses import dataclass\n@dataclass\nclass Mine:\n    "
FAULTS |= {
    "nameless.py": (DECLARED + "x: int = 0\n", r"model Mine has name None: give it one"),
    "odd_name.py": (DECLARED + "name = 'a:b'\n", r"has name 'a:b'"),
    "lacking.py": (DECLARED + "name = 'mine'\n", r"model Mine is no model: give it program\(self, ppl, pool\), or let"),
    "taken.py": (
        DECLARED + "name = 'hmm'\n    def program(self, ppl, pool): ...\n",
        r"has the name of promptdyn.models.discrete_hmm:DiscreteHMM, 'hmm'",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_files_that_cannot_be_used_are_told_with_their_line(folder, name):
    text, message = FAULTS[name]
    (folder / name).write_text(text)
    with pytest.raises(InputError, match=message) as told:
        MODELS.parse(f"{name}:Mine")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nowhere.py:Mine", "nowhere.py: no such file"),
        ("no_module:Mine", "no module 'no_module' is installed or in the current folder"),
        ("mine.py", "'mine.py' is none of .*, nor FILE.py:NAME"),
        ("mine.py:OneRate@fit", "model 'mine.py' is none of"),
        ("mine.py:chars", "model chars is a function: register a class"),
    ],
)
def test_texts_that_name_nothing_are_told(folder, text, message):
    with pytest.raises(InputError, match=message):
        MODELS.parse(text)


def test_registries_are_mappings_that_take_ones_own():
    registry: Registry[type, object] = Registry("model", DiscreteHMM)
    assert "x" not in registry
    assert registry.get("x") is None
    assert "hmm" in registry
    with pytest.raises(KeyError):
        _ = registry["x"]
    assert registry.register(TwoState) is TwoState
    assert registry.create("two_state", {"cluster": "family"}) == TwoState("family")

    def declare():
        @registry.register
        @dataclass(frozen=True)
        class Mine(BetaBernoulli):
            name = "mine"

        return Mine

    assert declare() is not declare()  # as a cell of a notebook that is run again
    assert list(registry) == ["hmm", "two_state", "mine"]

    @dataclass
    class Impostor:
        name = "mine"

    with pytest.raises(InputError, match=r"model .*Impostor has the name of .*Mine, 'mine': give it another"):
        registry.register(Impostor)


def test_a_fit_of_ones_own_is_saved_and_loaded(folder, monkeypatch):
    fit = promptdyn.fit(TwoState(cluster="family"), HISTORY, backend="pyro", max_iterations=2)
    fit.save("fit.npz")
    with pytest.raises(
        InputError, match=r"'two_state', which is not registered: on the command line .*MODELS.register"
    ):
        Fit.load("fit.npz")
    with pytest.raises(InputError, match="a fit of model 'two_state', not of 'one_rate'"):
        Fit.load("fit.npz", OneRate)
    with pytest.raises(InputError, match="register the class, not what it makes"):
        Fit.load("fit.npz", TwoState())  # type: ignore[arg-type]
    given = Fit.load("fit.npz", TwoState)
    MODELS.register(TwoState)
    for again in (given, Fit.load("fit.npz")):
        assert again.model == fit.model
        np.testing.assert_array_equal(again.chain.transition, fit.chain.transition)
    filters = (each.online(HISTORY.prompts) for each in (again, fit))
    one, other = (online.informative(8) for online in filters)
    np.testing.assert_array_equal(one, other)


@dataclass(frozen=True, eq=False)
class Odd(OneRate):
    start: object = None


def test_settings_that_a_file_cannot_hold_are_told(tmp_path):
    kept = Fit(Odd((1, (2.5, "a"))), {"rate": np.array(0.3)}, ("all",))
    kept.save(tmp_path / "kept.npz")
    loaded = Fit.load(tmp_path / "kept.npz", Odd).model
    assert isinstance(loaded, Odd)
    assert loaded.start == (1, (2.5, "a"))
    fit = Fit(Odd(np.ones(2)), {"rate": np.array(0.3)}, ("all",))
    assert fit.online(["a"]).informative(8).shape == (1,)
    with pytest.raises(InputError, match="Odd: setting start holds a ndarray, which cannot be kept"):
        fit.save(tmp_path / "fit.npz")
    assert not (tmp_path / "fit.npz").exists()


def test_the_command_line_takes_a_model_of_ones_own_all_the_way(folder):
    HISTORY.to_parquet("h.parquet")
    done = promptdyn_command(
        "fit", "h.parquet", "--model", "mine.py:OneRate:strength=3", "--fit-steps", "5", "--out", "fit.npz"
    )
    assert done.returncode == 0, done.stderr
    done = promptdyn_here("compare", "h.parquet", "--models", "dps,fit.npz")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    named = line.partition("write ")[2].partition(",")[0]
    assert Path(named.partition("@")[0].partition(":")[0]).samefile("mine.py")
    done = promptdyn_here("compare", "h.parquet", "--models", f"dps,mine.py:OneRate,{named}", "--json", "-")
    assert done.returncode == 0, done.stderr
    assert {record["model"] for record in json.loads(done.stdout)} == {"dps", "mine.py:OneRate", named}


def test_a_model_declared_in_a_script_is_found_by_its_file(folder):
    (folder / "script.py").write_text(
        MINE + "\nimport promptdyn\nfrom promptdyn.inference import Fit\n"
        "Fit(OneRate(), {'rate': np.array(0.3)}, ('all',)).save('script.npz')\n"
    )
    subprocess.run([sys.executable, "script.py"], check=True)
    with pytest.raises(InputError, match=r"script\.py:OneRate@script\.npz"):
        Fit.load("script.npz")
