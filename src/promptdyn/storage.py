"""State files: named arrays and JSON in one .npz, written atomically, versioned, never pickled."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import secrets
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError

__all__ = ["FORMAT_VERSION", "atomic", "check_target", "read_state", "write_state"]

FORMAT_VERSION = 1
# Parts of files of other machines, on a file system that is shared, are left alone.
HOST = platform.node()
# What NumPy, zipfile and json raise on files that are cut off, garbled, or of another kind.
DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)


def check_target(path: str | Path) -> None:
    """Raise InputError if no file can be written at `path`; long work asks before it begins."""
    final = Path(path)
    if final.is_dir():
        raise InputError(f"{final}: is a folder: name a file to write")
    there = next((folder for folder in final.absolute().parents if folder.exists()), final)
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise InputError(f"{final}: cannot be written: {there} is no folder that you may write to")


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces it if, and only if, the block succeeds.

    What processes that died have left of this file is removed. Threads and processes may write one file at once: the
    last whole one stays.

    Raises:
        InputError: the path cannot be written.
    """
    check_target(path)
    final = Path(path)
    part = final.with_name(f".{final.name}.{HOST}-{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            _remove_left_over(final)
            yield part
            os.replace(part, final)
        finally:
            if part.exists():
                part.unlink()
    except OSError as error:
        raise InputError(f"{final}: cannot be written: {error.strerror or error}") from error


def _remove_left_over(final: Path) -> None:
    """Remove parts of a file that processes of this machine had begun, and that are no more."""
    mine = re.compile(rf"\.{re.escape(final.name)}\.{re.escape(HOST)}-(\d+)-[0-9a-f]{{8}}\.part")
    for file in final.parent.iterdir():
        found = mine.fullmatch(file.name)
        if found and not _alive(int(found[1])):
            file.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    if os.name != "posix":  # elsewhere there is no signal that does nothing
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return True


def write_state(path: str | Path, kind: str, values: Mapping[str, Any], arrays: Mapping[str, NDArray]) -> None:
    """Write JSON-able `values` and `arrays` as a state file of the given kind ("selector", "fit", ...).

    Raises:
        InputError: the path cannot be written.
        TypeError: an array of objects, or a value that JSON does not know; NumPy's scalars are taken as Python's.
    """
    for name, array in arrays.items():
        if array.dtype.hasobject:  # NumPy would pickle them
            raise TypeError(f"array {name!r} holds Python objects")
    content = {"promptdyn": kind, "version": FORMAT_VERSION, "values": values}
    header = json.dumps(content, default=_python_scalar).encode()
    named: dict[str, Any] = {"header": np.frombuffer(header, np.uint8), **arrays}
    with atomic(path) as part, open(part, "wb") as file:
        np.savez(file, **named)
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
        with open(path, "rb") as stream:
            _check_sizes(stream)
            with np.load(stream, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        header = json.loads(arrays.pop("header").tobytes())
        found, version, values = header["promptdyn"], header["version"], header["values"]
        if not isinstance(version, int) or not isinstance(values, dict):
            raise ValueError(f"version {version!r} and values of type {type(values).__name__}")
    except (*DAMAGE, RecursionError) as error:
        raise InputError(f"{path}: not a promptdyn {kind} file, or damaged ({error}): write it again") from None
    if found != kind:
        raise InputError(f"{path}: holds a {found}, not a {kind}")
    if version > FORMAT_VERSION:
        raise InputError(
            f"{path}: format version {version} is newer than this promptdyn reads ({FORMAT_VERSION}): upgrade"
        )
    return values, arrays


def _check_sizes(stream: BinaryIO) -> None:
    """Raise ValueError where an array is said to be larger than what the file holds of it, before it is read."""
    with zipfile.ZipFile(stream) as archive:
        for part in archive.infolist():
            if part.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{part.filename!r} is compressed")
            with archive.open(part) as member:
                newer = np.lib.format.read_magic(member) != (1, 0)
                read = np.lib.format.read_array_header_2_0 if newer else np.lib.format.read_array_header_1_0
                shape, _, dtype = read(member)
            if math.prod(shape) * dtype.itemsize > part.file_size:
                raise ValueError(f"{part.filename!r} is said to be {shape}, and is smaller")
    stream.seek(0)


def _python_scalar(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} of type {type(value).__name__} cannot be kept in a state file")
