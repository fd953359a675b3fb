"""State files: named arrays and JSON in one .npz, written atomically, versioned, never pickled."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError

__all__ = ["FORMAT_VERSION", "atomic", "read_state", "write_state"]

FORMAT_VERSION = 1


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces it if, and only if, the block succeeds."""
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    part = final.with_name(f".{final.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, final)
    finally:
        part.unlink(missing_ok=True)


def write_state(path: str | Path, kind: str, values: Mapping[str, Any], arrays: Mapping[str, NDArray]) -> None:
    """Write JSON-able `values` and `arrays` as a state file of the given kind ("selector", "fit", ...)."""
    header = json.dumps({"promptdyn": kind, "version": FORMAT_VERSION, "values": values}).encode()
    with atomic(path) as part, open(part, "wb") as file:
        np.savez(file, allow_pickle=False, header=np.frombuffer(header, np.uint8), **arrays)
        file.flush()
        os.fsync(file.fileno())


def read_state(path: str | Path, kind: str) -> tuple[dict[str, Any], dict[str, NDArray]]:
    """Read what `write_state` wrote: (values, arrays).

    Raises:
        InputError: no such file, not a state file of this kind, damaged, or written by a newer version.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file")
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        header = json.loads(arrays.pop("header").tobytes())
        found, version, values = header["promptdyn"], header["version"], header["values"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a promptdyn {kind} file, or damaged ({error})") from None
    if found != kind:
        raise InputError(f"{path}: holds a {found}, not a {kind}")
    if version > FORMAT_VERSION:
        raise InputError(
            f"{path}: format version {version} is newer than this promptdyn reads ({FORMAT_VERSION}): upgrade"
        )
    return values, arrays
