"""The pages of the README and the docs that hold Python, and their code."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [
    page for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if "```python" in page.read_text()
]


def code_of(page: Path) -> str:
    """The Python of a page, as one file."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL))


def settings_named(page: str) -> set[str]:
    """Names in the first column of a page's tables."""
    return {name for line in page.splitlines() if line.startswith("| `") for name in line.split("|")[1].split("`")}
