"""Each extra alone, in an environment of its own: what it is for works, and all else is refused before any work, in one
line that names the extra to install.

`make test-extras` runs these: they make environments, for which they need a package index.
"""

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from pages import ROOT
from promptdyn.errors import EXTRA_OF

pytestmark = pytest.mark.extras
# What one may ask of the command, and the extra that it needs; "core" is the package without any.
ASKED = {
    "import log.csv imported.parquet": "core",
    "compare history.parquet --models dps,mopps,rate --json -": "core",
    "compare history.parquet --models dps,hmm:num_states=2 --json -": "fit",
    "compare history.parquet --models dps --plot scores.png": "plot",
    "fit history.parquet --model hmm:num_states=2 --out fit.npz --json -": "fit",
    "fit history.parquet --model hmm:num_states=2 --backend pyro --out fit.npz --json -": "pyro",
    "simulate hmm:num_states=2 drawn.parquet --num-prompts 20 --num-steps 5": "fit",
    "report history.parquet --models dps,rate": "plot",
    "train --output-dir run --max-steps 2 --num-prompts 40 --prompts-per-step 4 --json -": "train",
}
# A fit with draws, by backend, and the extra that it needs.
DRAW = (
    "fit history.parquet --model hmm:num_states=2 --method nuts:num_warmup=5,num_samples=8,num_chains=1 --out draws.npz"
)
DRAWN_BY = {"numpyro": "fit", "pyro": "pyro"}
# Prints room -> the packages that its modules miss.
IMPORTS = """
import importlib, json, pkgutil
import promptdyn

missing = {}
for module in pkgutil.walk_packages(promptdyn.__path__, "promptdyn.", onerror=lambda name: None):
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        missing.setdefault(module.name.split(".")[1], []).append(error.name.split(".")[0])
print(json.dumps({room: sorted(set(packages)) for room, packages in missing.items()}))
"""
# Trainers that bring their own environment, and are in no registry or want CUDA.
NO_EXTRA = {"slime", "skyrl", "ray", "prime_rl"}
# Uses the draws of a fit.
DRAWS = """
import promptdyn

fit = promptdyn.Fit.load("draws.npz")
assert fit.idata.posterior.sizes["draw"] == 8
assert fit.online(["a"], num_samples=4).informative(8).shape == (1,)
"""
# Runs a session, as inside a trainer.
LIVE = """
import promptdyn
from promptdyn.models import MODELS

selector = promptdyn.Selector(MODELS.create("rate").online(["a", "b", "c"]))
session = promptdyn.Session(selector, promptdyn.selection.HistoryRecorder("live.parquet"))
for prompt_id in session.take(2):
    session.end(prompt_id, [0, 1, 1, 0])
session.step()
session.close()
assert len(promptdyn.read_history("live.parquet")) == 2
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The package as it would be published, made of nothing but its own files."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", built, source], check=True)
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module", params=["core", "fit", "pyro", "plot", "train"])
def environment(request, wheel, tmp_path_factory):
    """An extra's name, the programs of an environment that holds it alone, and a folder with a log and its history."""
    folder = tmp_path_factory.mktemp(request.param)
    venv.create(folder / "venv", with_pip=True)
    pip = [folder / "venv" / "bin" / "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt"]
    if request.param in ("pyro", "train"):  # the build that the Makefile chooses, and not one with CUDA
        index = ("--extra-index-url", "https://download.pytorch.org/whl/cpu", "--retries", "1")
        subprocess.run([*pip, "--no-deps", *index, os.environ.get("TORCH", "torch")], check=True)
    subprocess.run([*pip, str(wheel) if request.param == "core" else f"{wheel}[{request.param}]"], check=True)
    rows = [f"{step},p{prompt},8,{(step * prompt) % 9}" for step in range(10) for prompt in range(12)]
    (folder / "log.csv").write_text("\n".join(["step,prompt_id,num_rollouts,num_successes", *rows]) + "\n")
    subprocess.run(
        [folder / "venv" / "bin" / "promptdyn", "import", "log.csv", "history.parquet"], cwd=folder, check=True
    )
    yield request.param, folder / "venv" / "bin", folder
    shutil.rmtree(folder / "venv")  # a gigabyte, where there is torch


def ran(*command, folder: Path) -> subprocess.CompletedProcess:
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run([*map(str, command)], cwd=folder, env=own, capture_output=True, text=True, check=False)


def worked(done: subprocess.CompletedProcess, needs: str, extra: str) -> bool:
    """Whether a command worked. If not, it was refused at once and named the extra that it needs, which is not here."""
    if done.returncode == 0:  # an extra may bring packages of another
        return True
    assert needs not in ("core", extra), done.stderr
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert f"pip install 'promptdyn[{needs}]'" in done.stderr
    return False


@pytest.mark.parametrize("asked", ASKED)
def test_the_command_does_what_its_extra_is_for_and_otherwise_names_it(environment, asked):
    extra, programs, folder = environment
    done = ran(programs / "promptdyn", *asked.split(), folder=folder)
    if worked(done, ASKED[asked], extra) and "--json -" in asked:
        assert json.loads(done.stdout)


@pytest.mark.parametrize("backend", DRAWN_BY)
def test_draws_are_arviz_data_and_make_a_filter(environment, backend):
    extra, programs, folder = environment
    done = ran(programs / "promptdyn", *DRAW.split(), "--backend", backend, folder=folder)
    if worked(done, DRAWN_BY[backend], extra):
        done = ran(programs / "python", "-c", DRAWS, folder=folder)
        assert done.returncode == 0, done.stderr


def test_a_session_runs_inside_a_trainer(environment):
    _, programs, folder = environment
    done = ran(programs / "python", "-c", LIVE, folder=folder)
    assert done.returncode == 0, done.stderr


def test_modules_miss_only_packages_of_other_extras(environment):
    extra, programs, folder = environment
    done = ran(programs / "python", "-c", IMPORTS, folder=folder)
    assert done.returncode == 0, done.stderr
    missing = json.loads(done.stdout)
    print(f"{extra}: rooms that miss packages: {missing}")
    packages = {package for packages in missing.values() for package in packages}
    assert extra not in {EXTRA_OF.get(package) for package in packages}
    assert packages - EXTRA_OF.keys() <= NO_EXTRA
    assert missing.keys() <= {"inference", "kernels", "plots", "ppl", "report", "training"}
