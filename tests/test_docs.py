"""Every Python example in the README and the docs runs as written, from the top of the repository."""

import re
import runpy
import sys
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    page for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if "```python" in page.read_text()
]


# Half a minute each, and on what other tests hold too.
LONG = {"fitting.md", "free-form.md", "models.md"}


# Whose fits are too short to gain from it.
BRIEF = {"declare.md"}


def code_of(page: Path) -> str:
    """The Python of a page, as one file."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL))


@pytest.fixture
def compiled_well(page):
    """As in a user's process, where fits are long enough to gain from it."""
    swift = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", swift and page.name in BRIEF)
    yield
    jax.config.update("jax_disable_most_optimizations", swift)


@pytest.mark.filterwarnings("ignore::FutureWarning:transformers")
@pytest.mark.usefixtures("compiled_well", "registries")
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.long) if page.name in LONG else page for page in PAGES],
    ids=lambda page: page.name,
)
def test_examples_run(page, tmp_path, monkeypatch):
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "page.py"
    script.write_text(code_of(page))
    monkeypatch.setattr(sys, "argv", [str(script)])
    runpy.run_path(str(script), run_name="__main__")
