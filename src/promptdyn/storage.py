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
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError

__all__ = ["FORMAT_VERSION", "atomic", "check_target", "flatten", "nest", "read_state", "write_state"]

FORMAT_VERSION = 1
# On a shared file system other machines' temporary files are left alone: their names hold the machine's name.
HOST = platform.node()
# Exceptions of NumPy, zipfile and json for files that are cut off, garbled, or of another kind.
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
    """Raise InputError if no file can be written at `path`. Long work calls this before it begins."""
    final = Path(path)
    if final.is_dir():
        raise InputError(f"{final}: is a folder: name a file to write")
    folder = next((parent for parent in final.absolute().parents if parent.exists()), final)
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(f"{final}: cannot be written: {folder} is no folder that you may write to")


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which replaces `path` if, and only if, the block succeeds.

    Temporary files of the same path that dead processes left behind are removed. Several threads or processes may write
    the same path at once: the file that is finished last stays.

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
    """Remove temporary files of `final` that dead processes of this machine left behind."""
    pattern = re.compile(rf"\.{re.escape(final.name)}\.{re.escape(HOST)}-(\d+)-[0-9a-f]{{8}}\.part")
    for file in final.parent.iterdir():
        match = pattern.fullmatch(file.name)
        if match and not _alive(int(match[1])):
            file.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    if os.name != "posix":  # other systems have no signal that does nothing
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's process
        pass
    return True


def flatten(parts: Mapping[str, Mapping[str, NDArray]]) -> dict[str, NDArray]:
    """Name the arrays of several parts for one file: {"log": {"rows": array}} becomes {"log/rows": array}.

    Arrays of the part "" keep their names.
    """
    return {
        f"{part}/{name}" if part else name: array for part, arrays in parts.items() for name, array in arrays.items()
    }


def nest(arrays: Mapping[str, NDArray], parts: Collection[str] = ()) -> dict[str, dict[str, NDArray]]:
    """Undo `flatten`.

    Args:
        arrays: name -> array. Names without a "/" belong to the part "".
        parts: parts to return even if no array belongs to them.
    """
    nested: dict[str, dict[str, NDArray]] = {part: {} for part in ("", *parts)}
    for key, array in arrays.items():
        part, name = key.split("/", 1) if "/" in key else ("", key)
        nested.setdefault(part, {})[name] = array
    return nested


def write_state(path: str | Path, kind: str, values: Mapping[str, Any], arrays: Mapping[str, NDArray]) -> None:
    """Write JSON-able `values` and `arrays` as a state file of the given kind ("selector", "fit", ...).

    NumPy's scalars among the values are written as Python's.

    Raises:
        InputError: the path cannot be written.
        TypeError: an array of objects, or a value that JSON does not know.
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
        kind_there, version, values = header["promptdyn"], header["version"], header["values"]
        if not isinstance(version, int) or not isinstance(values, dict):
            raise ValueError(f"version {version!r} and values of type {type(values).__name__}")
    except (*DAMAGE, RecursionError) as error:
        raise InputError(f"{path}: not a promptdyn {kind} file, or damaged ({error}): write it again") from None
    if kind_there != kind:
        raise InputError(f"{path}: holds a {kind_there}, not a {kind}")
    if version > FORMAT_VERSION:
        raise InputError(
            f"{path}: format version {version} is newer than this promptdyn reads ({FORMAT_VERSION}): upgrade"
        )
    return values, arrays


def _check_sizes(stream: BinaryIO) -> None:
    """Raise ValueError if an array's header claims more data than the file holds, before the array is read."""
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
