"""Load Python objects that people name in text, FILE.py:NAME or MODULE:NAME. Loading one runs the file."""

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

__all__ = ["load_error", "load_object", "object_reference", "same_source"]

# Modules made from files get names with this prefix, so that a file random.py cannot replace Python's `random`.
PREFIX = "promptdyn_file_"


def load_object(text: str, kind: str) -> Any:
    """Load the object that a text names.

    A file can import its neighbours, and modules are also looked for in the current folder; installed modules come
    first. A file runs once in a process, however often it is named.

    Args:
        text: "FILE.py:NAME" or "MODULE:NAME".
        kind: what the object should be ("model"), for messages.

    Raises:
        InputError: there is no such file, module or name, or the file fails when it runs; the message names the line.
    """
    home, separator, name = text.rpartition(":")
    if not separator or not home or not name.isidentifier():
        raise InputError(f"{kind} {text!r} is neither FILE.py:NAME nor MODULE:NAME")
    module = _load_file(home, text, kind) if home.endswith(".py") else _import_module(home, text, kind)
    if not hasattr(module, name):
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        defined = f"it defines {', '.join(own)}" if own else "it defines nothing"
        raise InputError(f"{kind} {text!r}: there is no {name} in {home}; {defined}")
    return getattr(module, name)


def object_reference(loaded: Any) -> str:
    """Return the text by which `load_object` finds a class or function."""
    module = sys.modules.get(loaded.__module__)
    file = getattr(module, "__file__", None)
    home = loaded.__module__
    if file and (home.startswith(PREFIX) or home == "__main__"):
        home = file
    return f"{home}:{loaded.__qualname__}"


def same_source(first: Any, second: Any) -> bool:
    """Whether two classes or functions come from the same source: a cell run again, a file run under two names."""

    def source(loaded: Any) -> tuple[str, str]:
        module = sys.modules.get(loaded.__module__)
        return getattr(module, "__file__", None) or loaded.__module__, loaded.__qualname__

    return source(first) == source(second)


def _load_file(file: str, text: str, kind: str) -> ModuleType:
    path = Path(file).absolute()
    if not path.is_file():
        raise InputError(f"{kind} {text!r}: {file}: no such file")
    name = f"{PREFIX}{path.stem}_{sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    _add_to_path(str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    # Registered before it runs: dataclasses look their module up.
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise load_error(error, text, kind, str(path)) from None
    return module


def _import_module(module: str, text: str, kind: str) -> ModuleType:
    top = module.partition(".")[0]
    try:
        if top not in sys.modules and importlib.util.find_spec(top) is None:
            _add_to_path(str(Path.cwd()))
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            raise InputError(f"{kind} {text!r}: no module {module!r} is installed or in the current folder") from None
        raise load_error(error, text, kind, None) from None


def _add_to_path(folder: str) -> None:
    """Let modules be imported from a folder, after all other folders, so that its files hide no installed module."""
    if folder not in sys.path:
        sys.path.append(folder)


def load_error(error: BaseException, text: str, kind: str, file: str | None) -> InputError:
    """Return an InputError for an exception that an object's code raised, with the line of its file.

    Args:
        error: the exception.
        text: the text that names the object.
        kind: what the object should be ("model").
        file: the object's file, of which the innermost line is named; None names the innermost line of all.
    """
    if isinstance(error, SyntaxError):
        line, message = f"{error.filename} line {error.lineno}", error.msg
    else:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if frame.filename == file] or frames
        line, message = f"{own[-1].filename} line {own[-1].lineno}", str(error) or "no message"
    return InputError(f"{kind} {text!r}: {line}: {type(error).__name__}: {' '.join(message.split())}")
