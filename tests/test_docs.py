"""Every Python example in the README and the docs runs as written, from the top of the repository."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    page for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if "```python" in page.read_text()
]


# Half a minute each, and on what other tests hold too.
LONG = {"fitting.md", "free-form.md", "models.md"}


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.long) if page.name in LONG else page for page in PAGES],
    ids=lambda page: page.name,
)
def test_examples_run(page, tmp_path):
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    # As a user would: these fits are long enough to gain from compiling well.
    environment = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
