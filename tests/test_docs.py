"""Every Python example in the README and the docs runs as written, from the top of the repository."""

import runpy
import sys

import jax
import pytest

from pages import PAGES, ROOT, code_of

# Half a minute each, and on what other tests hold too.
LONG = {"declare.md", "fitting.md", "free-form.md", "models.md"}


@pytest.fixture
def compiled_well():
    """As in a user's process, where fits are long enough to gain from it."""
    swift = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", swift)


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
