"""Files of a log: which they are, in what order, which run wrote them, and opening them, compressed or not."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from glob import glob, has_magic
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TextIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from promptdyn.errors import InputError, PromptdynWarning

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "Paths",
    "expand",
    "files_in",
    "head",
    "is_compressed",
    "of_the_last_run",
    "open_text",
    "stream",
    "superseded",
]

Paths = str | Path | Sequence[str | Path]

# What compressed files begin with.
COMPRESSIONS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
# Nanoseconds in which no run starts again.
INSTANT = 100_000_000


def expand(path: Paths) -> list[Path]:
    """The files and folders that a path, a glob such as "logs/*.jsonl", or several of them name.

    Raises:
        InputError: nothing there, or no path given.
    """
    if not isinstance(path, str | Path):
        if not path:
            raise InputError("no path: give a file, a folder, a glob, or several of them")
        return list(dict.fromkeys(found for part in path for found in expand(part)))
    if Path(path).exists():
        return [Path(path)]
    if not has_magic(str(path)):
        raise InputError(f"{path}: no such file or folder")
    found = _in_order([Path(name) for name in glob(str(path), recursive=True)])
    if not found:
        raise InputError(f"{path}: no file matches")
    return found


def files_in(path: Path) -> list[Path]:
    """The file, or the files of a folder (not those of folders in it), less hidden ones, 2.jsonl before 10.jsonl."""
    if path.is_file():
        return [path]
    return _in_order([file for file in path.iterdir() if file.is_file() and not file.name.startswith((".", "_"))])


def _in_order(paths: Sequence[Path]) -> list[Path]:
    def key(path: Path) -> list[tuple[int, str]]:
        parts = re.findall(r"\d+|\D+", str(path))
        return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]

    return sorted(paths, key=key)


def superseded(steps: ArrayLike, times: ArrayLike) -> NDArray[np.bool_]:
    """(file,) whether a file of a folder, of some step and written at some nanosecond, is of a run before the last one.

    A run that starts again in a folder writes its steps over those that are there; where it ends earlier, the files of
    the later steps are of the run before. In the order in which files were written, steps go back where a run started
    again, and older files that are not of steps before do not belong to what followed.

    Times tell nothing where they go back within an instant or more often than runs start again, as those of copies do,
    nor where a step has several files, so that nothing was written over.
    """
    step, time = np.asarray(steps, np.int64), np.asarray(times, np.int64)
    by_time = np.lexsort((step, time))
    step, time = step[by_time], time[by_time]
    back = 1 + np.flatnonzero(np.diff(step) < 0)
    of_runs = len(back) <= max(1, len(step) // 10) and (time[back] - time[back - 1] >= INSTANT).all()
    old = np.zeros(len(step), bool)
    if of_runs and len(np.unique(step)) == len(step):
        for i in back:
            old[by_time[:i][step[:i] >= step[i]]] = True
    return old


def of_the_last_run(source: str, steps: Sequence[int | None], files: Sequence[Path]) -> NDArray[np.bool_]:
    """(file,) whether a file is of the last run in its folder, see `superseded`.

    Args:
        source: what the warning calls the whole.
        steps: (file,) first step of each; None where it is not known, so that the file is kept.
        files: in one folder, or in several.

    Warns:
        PromptdynWarning: some are not.
    """
    kept = np.ones(len(files), bool)
    for folder in dict.fromkeys(file.parent for file in files):
        own = [i for i, file in enumerate(files) if file.parent == folder and steps[i] is not None]
        first = [step for i in own if (step := steps[i]) is not None]
        kept[own] = ~superseded(first, [files[i].stat().st_mtime_ns for i in own])
    gone = [step for step, keep in zip(steps, kept, strict=True) if step is not None and not keep]
    if gone:
        told = f"step {gone[0]}" if len(gone) == 1 else f"steps {min(gone)} to {max(gone)}"
        warnings.warn(
            f"{source}: left out {len(gone)} of {len(files)} files ({told}), older than those of steps before them: a "
            "run got further before this one started again in its folder; keep_superseded keeps them",
            PromptdynWarning,
            stacklevel=5,
        )
    return kept


@contextmanager
def stream(path: Path) -> Iterator[pa.NativeFile]:
    """The bytes of a file, unpacked where it is compressed (.gz, .zst).

    Raises:
        InputError: it is damaged, or cut off.
    """
    import pyarrow as pa

    with path.open("rb") as file:
        compression = _compression(file)
    try:
        with pa.input_stream(str(path), compression=compression) as content:
            yield content
    except OSError as error:
        found = " ".join(str(error).split())
        raise InputError(f"{path}: cannot be read ({found}): write it again") from None


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """The text of a file, unpacked where it is compressed, with line ends as they are.

    Raises:
        InputError: it is damaged, cut off, or not UTF-8.
    """
    try:
        with stream(path) as content, TextIOWrapper(content, encoding="utf-8-sig", newline="") as text:
            yield text
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8: save the file in that encoding") from None


def head(path: Path, size: int = 4096) -> bytes:
    """The first bytes of a file, unpacked where it is compressed; those as they are where it cannot be unpacked."""
    try:
        with stream(path) as content:
            first: bytes = content.read(size)
            return first
    except InputError:
        return path.read_bytes()[:size]


def is_compressed(path: Path) -> bool:
    with path.open("rb") as file:
        return _compression(file) is not None


def _compression(file: BinaryIO) -> str | None:
    first = file.read(4)
    return next((name for magic, name in COMPRESSIONS.items() if first.startswith(magic)), None)
