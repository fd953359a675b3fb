"""Python objects that people name in text: FILE.py:NAME, or MODULE:NAME. Loading one runs the file."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from promptdyn.errors import InputError

__all__ = ["failed", "load_object", "same_text", "where"]

# Modules made of files have names of their own: a file random.py must not stand in for the module.
PREFIX = "promptdyn_file_"


def load_object(text: str, kind: str) -> Any:
    """The object that a text names.

    A file's neighbours can be imported from it, modules are also looked for in the current folder; what is installed
    comes first. A file runs once in a process, however often it is named.

    Args:
        text: "FILE.py:NAME" or "MODULE:NAME".
        kind: what it is to be ("model"), for messages.

    Raises:
        InputError: there is no such file, module or name, or running the file fails: its line and what went wrong.
    """
    place, separator, name = text.rpartition(":")
    if not separator or not place or not name.isidentifier():
        raise InputError(f"{kind} {text!r} is neither FILE.py:NAME nor MODULE:NAME")
    module = _of_file(place, text, kind) if place.endswith(".py") else _of_name(place, text, kind)
    if not hasattr(module, name):
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        there = f"it defines {', '.join(own)}" if own else "it defines nothing"
        raise InputError(f"{kind} {text!r}: there is no {name} in {place}; {there}")
    return getattr(module, name)


def where(thing: Any) -> str:
    """The text by which `load_object` finds a class or function."""
    module = sys.modules.get(thing.__module__)
    file = getattr(module, "__file__", None)
    place = thing.__module__
    if file and (place.startswith(PREFIX) or place == "__main__"):
        place = file
    return f"{place}:{thing.__qualname__}"


def same_text(one: Any, other: Any) -> bool:
    """Whether two classes or functions come of the same text: a cell run again, a file run under two names."""

    def home(thing: Any) -> tuple[str, str]:
        module = sys.modules.get(thing.__module__)
        return getattr(module, "__file__", None) or thing.__module__, thing.__qualname__

    return home(one) == home(other)


def _of_file(place: str, text: str, kind: str) -> ModuleType:
    path = Path(place).absolute()
    if not path.is_file():
        raise InputError(f"{kind} {text!r}: {place}: no such file")
    name = f"{PREFIX}{path.stem}_{sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    _can_import_from(str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    # Registered before it runs: dataclasses look their module up.
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise failed(error, text, kind, str(path)) from None
    return module


def _of_name(place: str, text: str, kind: str) -> ModuleType:
    top = place.partition(".")[0]
    try:
        if top not in sys.modules and importlib.util.find_spec(top) is None:
            _can_import_from(str(Path.cwd()))
        return importlib.import_module(place)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and f"{place}.".startswith(f"{error.name}."):
            raise InputError(f"{kind} {text!r}: no module {place!r} is installed or in the current folder") from None
        raise failed(error, text, kind, None) from None


def _can_import_from(folder: str) -> None:
    """Look for modules in a folder too, after all others, so that its files hide nothing that is installed."""
    if folder not in sys.path:
        sys.path.append(folder)


def failed(error: BaseException, text: str, kind: str, file: str | None) -> InputError:
    """What went wrong in what a text names, at the line of the file (or, of a module, at the innermost line)."""
    if isinstance(error, SyntaxError):
        at = f"{error.filename} line {error.lineno}"
    else:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if frame.filename == file] or frames
        at = f"{own[-1].filename} line {own[-1].lineno}"
    what = error.msg if isinstance(error, SyntaxError) else str(error) or "no message"
    return InputError(f"{kind} {text!r}: {at}: {type(error).__name__}: {' '.join(what.split())}")
