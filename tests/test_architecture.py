"""The rooms of the package: every import points down, what sits inside a training process loads little, and the tests
have the same rooms.
"""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import promptdyn

ROOT = Path(promptdyn.__file__).parent
# From the ground up. A room may import those before it, and itself.
ROOMS = [
    *[
        "errors",
        "progress",
        "storage",
        "plugins",
        "settings",
        "registry",
        "success",
        "_columns",
        "clusters",
        "features",
        "prompts",
        "history",
        "readers",
        "online",
        "selection",
        "models",
    ],
    *["kernels", "ppl", "inference", "evaluation", "testing", "plots", "report", "training", "cli"],
]
# Tests of the whole package, which belong to no room.
WHOLE = {
    *["architecture", "contracts", "docs", "extras", "fuzz_logs", "fuzz_selection"],
    *["hostile", "outside", "recorded", "types"],
}
TESTS = Path(__file__).parent
FILES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")
MOST_LINES = 400


def module(path: Path) -> str:
    """A file's name in import statements, without the package's: "history.dense"; "history" for its `__init__`."""
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def room(name: str) -> str:
    return name.partition(".")[0]


MODULES = {module(path) for path in FILES}


def imported_modules(path: Path) -> set[str]:
    """Modules that a file imports anywhere: at its top, inside functions, for type checkers."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            # The last word is a module (`from promptdyn import models`), or a name in one.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            package, _, rest = name.partition(".")
            if package == "promptdyn" and rest:
                modules.add(rest if rest in MODULES else rest.rpartition(".")[0] or rest)
    return modules


def test_the_listing_is_the_architecture():
    assert set(map(room, MODULES)) == set(ROOMS)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_point_down(path):
    mine = ROOMS.index(room(module(path)))
    above = [other for other in map(room, imported_modules(ROOT / path)) if ROOMS.index(other) > mine]
    assert not above, f"{path} imports {above}, which stand above it"


def test_no_import_goes_in_a_circle():
    """Not even one that is for type checkers alone, or that waits inside a function."""
    imports = {module(path): imported_modules(ROOT / path) - {module(path)} for path in FILES}
    order = list(graphlib.TopologicalSorter(imports).static_order())  # raises CycleError, which shows the circle
    assert set(order) == MODULES


def test_the_walk_sees_every_kind_of_import(tmp_path):
    (tmp_path / "file.py").write_text(
        "import promptdyn.cli\nfrom promptdyn import plots\ndef f():\n    from promptdyn.models.base import Params\n"
        "if TYPE_CHECKING:\n    from promptdyn.history import dense, Counts\n"
    )
    assert imported_modules(tmp_path / "file.py") == {"cli", "plots", "models.base", "history.dense", "history"}


@pytest.mark.parametrize(
    "path", [*(ROOT / path for path in FILES), *TESTS.rglob("*.py")], ids=lambda path: "/".join(path.parts[-3:])
)
def test_a_file_can_be_read_at_a_sitting(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MOST_LINES, f"{path} has {lines} lines: give what has a job of its own a file of its own"


def test_tests_mirror_the_package():
    """A file of tests is named after the module or the room that it tests, and stands where that one does."""
    for path in TESTS.rglob("test_*.py"):
        folder = path.parent.relative_to(TESTS)
        tested = {folder.name, *(file.stem for file in (ROOT / folder).iterdir())} | (set() if folder.name else WHOLE)
        assert path.stem.removeprefix("test_") in tested, f"{path} tests nothing of {ROOT / folder}"
    rooms = {room for room in ROOMS if (ROOT / room).is_dir()}
    assert {room for room in rooms if any((TESTS / room).rglob("test_*.py"))} == rooms


LIVE = """
import sys
import numpy as np
import promptdyn
import promptdyn.selection
from promptdyn.models import DPS

for online in (DPS().online(["a", "b", "c"]), promptdyn.Fit.load(sys.argv[1]).online(["a", "b", "c"])):
    selector = promptdyn.Selector(online, strategy="thompson")
    for _ in range(3):
        chosen = selector.select(2)
        selector.observe(chosen, [[0, 1, 1, 0]] * 2)
    selector.metrics()
    selector.save(sys.argv[2])
    selector.load(sys.argv[2])


def play(session):
    for prompt_id in session.take(2):
        session.end(prompt_id, [0, 1, 1, 0])
    session.step()
    session.close()


def check(*heavy):
    loaded = {name.split(".")[0] for name in sys.modules}
    assert not loaded & set(heavy), loaded & set(heavy)


HEAVY = ("jax", "torch", "numpyro", "pyro", "arviz", "transformers", "matplotlib")
play(promptdyn.Session(selector))
check(*HEAVY, "pandas", "pyarrow")
play(promptdyn.Session(selector, promptdyn.selection.HistoryRecorder(sys.argv[3])))  # pyarrow loads pandas, where it is
check(*HEAVY)
assert len(promptdyn.read_history(sys.argv[3])) == 2
"""


def test_live_path_loads_neither_jax_nor_torch(tmp_path):
    history = promptdyn.RewardHistory.from_columns(
        [0, 0, 1, 1], ["a", "b", "a", "b"], num_successes=[0, 8, 1, 8], num_rollouts=[8] * 4
    )
    promptdyn.fit(promptdyn.models.DiscreteHMM(num_states=3), history, max_iterations=2).save(tmp_path / "fit.npz")
    files = [str(tmp_path / name) for name in ("fit.npz", "selector.npz", "history.parquet")]
    subprocess.run([sys.executable, "-c", LIVE, *files], check=True)


ONE_BACKEND = """
import sys
backend, *absent = sys.argv[1:]


class Absent:
    # Importing some packages fails, as where they are not installed.

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Absent)
import promptdyn

history = promptdyn.RewardHistory.from_columns(
    [0, 0, 1, 1], ["a", "b", "a", "b"], num_successes=[0, 8, 1, 8], num_rollouts=[8] * 4
)
program = promptdyn.program(promptdyn.models.DiscreteHMM(num_states=3), history, backend=backend)
if backend == "numpyro":
    from jax import jit
    from numpyro.handlers import seed
    jit(lambda: seed(program, 0)() and None)()  # compiled whole, not operation by operation
else:
    program()
model = promptdyn.models.DiscreteHMM(num_states=3)
fit = promptdyn.fit(model, history, backend=backend)
fit.idata, fit.online(["a"])
"""


@pytest.mark.parametrize(("backend", "absent"), [("numpyro", ["torch", "pyro"]), ("pyro", ["jax", "numpyro"])])
def test_a_backend_needs_nothing_of_the_other(backend, absent):
    subprocess.run([sys.executable, "-c", ONE_BACKEND, backend, *absent], check=True)
