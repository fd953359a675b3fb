"""Find the files of a log, put them in order, tell which run wrote them, and open them, compressed or not."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from glob import glob, has_magic
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

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
    "in_order",
    "is_compressed",
    "json_lines",
    "of_the_last_run",
    "open_text",
    "stream",
    "superseded",
]

Paths = str | Path | Sequence[str | Path]

# First bytes of compressed files.
COMPRESSIONS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
# No run starts again within so many nanoseconds.
INSTANT = 100_000_000


def expand(path: Paths) -> list[Path]:
    """Return the files and folders that a path, a glob such as "logs/*.jsonl", or several of them name.

    Raises:
        InputError: no such file or folder, or an empty list of paths.
    """
    if not isinstance(path, str | Path):
        if not path:
            raise InputError("no path: give a file, a folder, a glob, or several of them")
        return list(dict.fromkeys(file for part in path for file in expand(part)))
    if Path(path).exists():
        return [Path(path)]
    if not has_magic(str(path)):
        raise InputError(f"{path}: no such file or folder")
    matches = in_order([Path(name) for name in glob(str(path), recursive=True)])
    if not matches:
        raise InputError(f"{path}: no file matches")
    return matches


def files_in(path: Path) -> list[Path]:
    """Return the file itself, or a folder's files (not its subfolders', nor hidden ones), 2.jsonl before 10.jsonl."""
    if path.is_file():
        return [path]
    return in_order([file for file in path.iterdir() if file.is_file() and not file.name.startswith((".", "_"))])


def in_order(paths: Iterable[Path]) -> list[Path]:
    """Sort paths by the numbers in them."""

    def key(path: Path) -> list[tuple[int, str]]:
        parts = re.findall(r"\d+|\D+", str(path))
        return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]

    return sorted(paths, key=key)


def superseded(steps: ArrayLike, times: ArrayLike) -> NDArray[np.bool_]:
    """Return (file,) whether a file of a folder was written by a run before the last one.

    A run that starts again in a folder overwrites the files of its steps. If it ends earlier than the run before, that
    run's files of later steps remain. In the order of writing, steps go back where a run started again; an older file
    whose step does not lie before that point belongs to an earlier run.

    Times tell nothing (no file is then superseded) if they go back within an instant or too often, as the times of
    copies do, or if a step has several files, which means that no file was overwritten.

    Args:
        steps: (file,) training step of each file.
        times: (file,) time of writing in nanoseconds.
    """
    step, time = np.asarray(steps, np.int64), np.asarray(times, np.int64)
    by_time = np.lexsort((step, time))
    step, time = step[by_time], time[by_time]
    back = 1 + np.flatnonzero(np.diff(step) < 0)
    plausible = len(back) <= max(1, len(step) // 10) and (time[back] - time[back - 1] >= INSTANT).all()
    old = np.zeros(len(step), bool)
    if plausible and len(np.unique(step)) == len(step):
        for i in back:
            old[by_time[:i][step[:i] >= step[i]]] = True
    return old


def of_the_last_run(source: str, steps: Sequence[int | None], files: Sequence[Path]) -> NDArray[np.bool_]:
    """Return (file,) whether a file was written by the last run in its folder, see `superseded`.

    Args:
        source: name of the log in the warning.
        steps: (file,) first step of each file; None if it is not known, which keeps the file.
        files: files of one or several folders.

    Warns:
        PromptdynWarning: some files were written by an earlier run.
    """
    is_last = np.ones(len(files), bool)
    for folder in dict.fromkeys(file.parent for file in files):
        own = [i for i, file in enumerate(files) if file.parent == folder and steps[i] is not None]
        first = [step for i in own if (step := steps[i]) is not None]
        is_last[own] = ~superseded(first, [files[i].stat().st_mtime_ns for i in own])
    left_out = [step for step, keep in zip(steps, is_last, strict=True) if step is not None and not keep]
    if left_out:
        steps_text = f"step {left_out[0]}" if len(left_out) == 1 else f"steps {min(left_out)} to {max(left_out)}"
        warnings.warn(
            f"{source}: left out {len(left_out)} of {len(files)} files ({steps_text}), which are older than files of "
            "earlier steps: an earlier run in the same folder wrote them; keep_superseded keeps them",
            PromptdynWarning,
            stacklevel=5,
        )
    return is_last


@contextmanager
def stream(path: Path) -> Iterator[pa.NativeFile]:
    """Yield the bytes of a file, decompressed if it is compressed (.gz, .zst).

    Raises:
        InputError: the file is damaged or cut off.
    """
    import pyarrow as pa

    with path.open("rb") as file:
        compression = _compression(file)
    try:
        with pa.input_stream(str(path), compression=compression) as content:
            yield content
    except OSError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: cannot be read ({reason}): write it again") from None


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """Yield the text of a file, decompressed if it is compressed, with its line ends unchanged.

    Raises:
        InputError: the file is damaged, cut off, or not UTF-8.
    """
    try:
        with stream(path) as content, TextIOWrapper(content, encoding="utf-8-sig", newline="") as text:
            yield text
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8: save the file in that encoding") from None


def json_lines(path: Path) -> Iterator[tuple[int, str, dict[str, Any] | None]]:
    """Yield (line number, counted from 1; its text; the object in it, or None if it holds no object); skip blank lines.

    Warns:
        PromptdynWarning: the last line was cut off, and is left out.

    Raises:
        InputError: as in `open_text`.
    """
    with open_text(path) as file:
        for line, text in enumerate(file, 1):
            try:
                record = json.loads(text)
            except (ValueError, RecursionError):  # no JSON, a number of thousands of digits, or nested as deep
                record = None
                if text.isspace():
                    continue
                if text.startswith("{") and not text.endswith("\n"):
                    warnings.warn(
                        f"{path} line {line}: left out, since it was cut off, as by a run that died while it wrote",
                        PromptdynWarning,
                        stacklevel=5,
                    )
                    continue
            yield line, text, record if isinstance(record, dict) else None


def head(path: Path, size: int = 4096) -> bytes:
    """Return the first bytes of a file, decompressed if it is compressed; as they are if that fails."""
    try:
        with stream(path) as content:
            first: bytes = content.read(size)
            return first
    except InputError:
        return path.read_bytes()[:size]


def is_compressed(path: Path) -> bool:
    """Whether a file is compressed, by its first bytes."""
    with path.open("rb") as file:
        return _compression(file) is not None


def _compression(file: BinaryIO) -> str | None:
    first = file.read(4)
    return next((name for magic, name in COMPRESSIONS.items() if first.startswith(magic)), None)
