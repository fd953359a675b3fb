"""What a type checker says to a stranger: mistakes are red, the code of the docs is not, and no `Any` is given."""

from __future__ import annotations

import ast
import re
from importlib import import_module
from pathlib import Path

import pytest

from pages import PAGES, code_of

api = pytest.importorskip("mypy.api")

# A stranger's file: each line with a comment is a mistake, of that kind.
MISTAKES = """\
import promptdyn
from promptdyn.inference import SVI
from promptdyn.models import DPS, MODELS, DiscreteHMM
from promptdyn.selection import Selector
from promptdyn.training.dynamic_sampling import DynamicSampling

history = promptdyn.read_history("runs/a")
fit = promptdyn.fit(DiscreteHMM(num_states=3), history, "svi:num_steps=50", backend="pyro", observed="trained")
promptdyn.slector  # attr-defined
promptdyn.fit(DiscreteHMM(), history, backend="stan")  # arg-type
promptdyn.fit(DPS(), history)  # arg-type
promptdyn.fit(DiscreteHMM(emission="gaussian"), history)  # arg-type
promptdyn.fit(DiscreteHMM(), history, SVI(guide="AutoMagic"))  # arg-type
promptdyn.compare({"a": DPS()}, history, 10, observed="everything")  # arg-type
promptdyn.compare({"a": 3}, history, 10)  # dict-item
promptdyn.simulate(DPS())  # arg-type
promptdyn.RewardHistory.from_parquet("a.parquet", repeated="first")  # arg-type
Selector(DPS())  # arg-type
DynamicSampling(at_cap="stop")  # arg-type
MODELS.create("dps").filter(["a"])  # union-attr
promptdyn.OnlineFilter(DPS(), ["a"]).step(["a"], [3], 8, True, 5)  # call-arg
selector = Selector(DPS().online(["a", "b"]))
selector.observe(["a", "b"], [[None, 1.0], [0.0, 1.0]])
selector.observe(["a", "b"], {"x": [[0, 1], [1, 1]]}, trained=[True, False])
selector.observe(["a", "b"], [["good"], [1.0]])  # list-item
"""

# What is handed out: an expression, and its type.
GIVEN = {
    "promptdyn.compare({'dps': DPS()}, history, 10).best": "promptdyn.online.forecaster.Forecaster",
    "promptdyn.compare({'dps': DPS()}, history, 10).best.online(['a'])": "promptdyn.online.filter.OnlineFilter",
    "fit.idata": "promptdyn.inference._arviz.InferenceData",
    "fit.idata.posterior": "xarray.core.dataset.Dataset",
    "fit.model": "promptdyn.models.base.DynamicsLike",
    "fit.online(history.prompts)": "promptdyn.online.filter.OnlineFilter",
    "MODELS['hmm'](num_states=3)": "promptdyn.online.model.OnlineModel[Any] | promptdyn.models.base.DynamicsLike",
    "MODELS.parse_one('dps')": "promptdyn.online.model.OnlineModel[Any] | promptdyn.models.base.DynamicsLike",
    "STRATEGIES.create('top')": "promptdyn.selection.strategies.base.Strategy[Any]",
    "METHODS.create('em')": "promptdyn.inference.engines.base.Engine",
    "READERS['groups'](skip_bad=True)": "promptdyn.readers.base.Reader",
    "selector.observe(['a'], [[0, 1]])": "tuple",
    "session.take(2)": "list[str]",
}
OBJECTS = """\
import promptdyn
from promptdyn.inference import METHODS
from promptdyn.models import DPS, MODELS, DiscreteHMM
from promptdyn.readers import READERS
from promptdyn.selection import STRATEGIES

history = promptdyn.read_history("runs/a")
fit = promptdyn.fit(DiscreteHMM(), history)
selector = promptdyn.Selector(DPS().online(["a"]))
session = promptdyn.Session(selector)
"""

# Rooms whose exported names are what people use.
ROOMS = (
    *("", "clusters", "errors", "evaluation", "features", "history", "inference", "models", "online", "ppl", "prompts"),
    *("readers", "registry", "report", "selection", "success", "testing", "training.loading", "training.policy"),
    *(
        "training.dynamic_sampling",
        "training.dataset",
        "training.race",
        "training.recipes",
        "training.run",
        "training.trl",
    ),
)
# Looked into by the long test alone, which takes a minute more.
LARGE = ("accelerate", "jax", "jaxlib", "matplotlib", "numpyro", "peft", "pyro", "torch", "transformers", "trl")


@pytest.fixture(
    scope="module",
    params=["by itself", pytest.param("with all that it stands on", marks=pytest.mark.long)],
)
def told(request, tmp_path_factory):
    """File -> line -> what mypy says of it, of the files here and of the code in the docs, all in one go."""
    folder = tmp_path_factory.mktemp("strangers")
    skipped = ",".join(f"{package}.*" for package in LARGE if "all" not in request.param)
    ini = "[mypy]\nignore_missing_imports = True\ncheck_untyped_defs = True\n"
    (folder / "mypy.ini").write_text(ini + (f"[mypy-{skipped}]\nfollow_imports = skip\n" if skipped else ""))
    files = {
        "mistakes": MISTAKES,
        "given": OBJECTS + "".join(f"reveal_type({expression})\n" for expression in GIVEN),
        **{f"page_{page.stem.replace('-', '_')}": code_of(page) for page in PAGES},
    }
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    options = ["--config-file", str(folder / "mypy.ini"), "--cache-dir", str(folder / "cache")]
    said, errors, _ = api.run([*options, *(str(folder / f"{name}.py") for name in files)])
    assert not errors, errors
    found: dict[str, dict[int, list[str]]] = {name: {} for name in files}
    for line in said.splitlines():
        if parts := re.match(r"(?:.*/)?(\w+)\.py:(\d+): (?:error|note): (.*)", line):
            assert parts[1] in found, line
            found[parts[1]].setdefault(int(parts[2]), []).append(parts[3])
    return found


def test_mistakes_are_errors_and_nothing_else_is(told):
    expected = {
        number: kind for number, line in enumerate(MISTAKES.splitlines(), 1) if (kind := line.partition("  # ")[2])
    }
    kinds = {number: re.findall(r"\[([\w-]+)\]$", said[0]) for number, said in told["mistakes"].items()}
    assert kinds == {number: [kind] for number, kind in expected.items()}


@pytest.mark.parametrize("expression", GIVEN)
def test_what_is_handed_out_has_a_type(told, expression):
    line = len(OBJECTS.splitlines()) + 1 + list(GIVEN).index(expression)
    (said,) = told["given"][line]
    assert said.startswith(f'Revealed type is "{GIVEN[expression]}')


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_code_of_the_docs_has_no_errors(told, page):
    assert told[f"page_{page.stem.replace('-', '_')}"] == {}


def test_what_people_call_neither_takes_nor_gives_any():
    loose = [f"{room}: {what}" for room in ROOMS for what in _loose(room)]
    assert loose == []


def _loose(room: str) -> list[str]:
    """Of a room's exported functions and classes, the parameters, results and attributes that are `Any`."""
    module = import_module(f"promptdyn.{room}".rstrip("."))
    found = []
    for name in module.__all__:
        thing = getattr(module, name)
        home = getattr(thing, "__module__", "")
        if not home.startswith("promptdyn") or not hasattr(thing, "__qualname__"):
            continue  # a constant or an alias
        source = Path(str(import_module(home).__file__)).read_text(encoding="utf-8")
        (node,) = (node for node in ast.parse(source).body if getattr(node, "name", None) == name)
        parts = node.body if isinstance(node, ast.ClassDef) else [node]
        for part in parts:
            if isinstance(part, ast.FunctionDef) and (not part.name.startswith("_") or part.name == "__init__"):
                arguments = [*part.args.posonlyargs, *part.args.args, *part.args.kwonlyargs]
                annotated = {argument.arg: argument.annotation for argument in arguments} | {"result": part.returns}
                found += [f"{name}.{part.name} {what}" for what, kind in annotated.items() if _is_any(kind)]
            elif isinstance(part, ast.AnnAssign) and _is_any(part.annotation):
                found.append(f"{name}: {ast.unparse(part.target)}")
    return found


def _is_any(annotation: ast.expr | None) -> bool:
    return annotation is not None and "Any" in ast.unparse(annotation).split(" | ")
