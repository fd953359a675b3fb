"""Makes modules importable that stand in for a package which cannot be installed here."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


@contextmanager
def installed(modules: Mapping[str, Mapping[str, Any]], adapter: str) -> Iterator[None]:
    """Make modules importable, given by name as what they hold, and an adapter that is imported anew on top of them."""
    for name, contents in modules.items():
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(contents)
    try:
        yield
    finally:
        for name in [*modules, adapter]:
            sys.modules.pop(name, None)
