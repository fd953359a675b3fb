"""The folder of a run: which of its checkpoints are complete, and whether another process trains into it."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from promptdyn.errors import InputError
from promptdyn.storage import HOST, atomic

__all__ = ["checkpoint_to_resume", "is_checkpoint", "last_checkpoint", "locked", "steps_done", "wants_resume"]

LOCK_FILE, HOLDER_FILE = ".lock", ".running.json"
# Names that transformers uses; importing them from there would take seconds.
PREFIX_CHECKPOINT_DIR, TRAINER_STATE_NAME = "checkpoint", "trainer_state.json"
# Files of weights that transformers, FSDP and DeepSpeed write.
WEIGHTS = ("model*.safetensors", "adapter_model*", "pytorch_model*", "global_step*")

logger = logging.getLogger(__name__)


def is_checkpoint(folder: Path) -> bool:
    """Tell whether a folder is named as a checkpoint is."""
    return re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-\d+", folder.name) is not None


def steps_done(folder: Path) -> int | None:
    """Return the number of optimizer steps of a complete checkpoint; None for an incomplete one.

    The trainer writes its state last. So a state that can be read means that the rest is there, unless somebody has
    begun to delete it.
    """
    try:
        steps = json.loads((folder / TRAINER_STATE_NAME).read_text(encoding="utf-8"))["global_step"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    complete = isinstance(steps, int) and any(next(folder.glob(pattern), None) for pattern in WEIGHTS)
    return steps if complete else None


def last_checkpoint(output: Path) -> Path | None:
    """Return the newest complete checkpoint of a run, or None. A line is logged for each incomplete one."""
    folders = [folder for folder in output.iterdir() if is_checkpoint(folder)] if output.is_dir() else []
    for folder in sorted(folders, key=lambda folder: int(folder.name.rpartition("-")[2]), reverse=True):
        if steps_done(folder) is not None:
            return folder
        logger.warning("%s is not whole: the run died while writing it, so it is skipped", folder)
    return None


def wants_resume(requested: str | Path | bool | None) -> str | bool:
    """Read the setting `resume_from_checkpoint`: a checkpoint's folder, True for the newest one, False for none.

    True and false may come as text, from a command line or a settings file.
    """
    if isinstance(requested, bool | None):
        return bool(requested)
    return {"true": True, "false": False, "": False}.get(str(requested).lower(), str(requested))


def checkpoint_to_resume(requested: str | Path | bool | None, output: Path, max_steps: int) -> str | None:
    """Return the checkpoint that a run resumes from, or None for a run that starts afresh.

    Args:
        requested: the setting, see `wants_resume`.
        output: the run's folder.
        max_steps: optimizer steps of the whole run.

    Raises:
        InputError: the checkpoint is absent or incomplete, or has `max_steps` or more.
    """
    resume = wants_resume(requested)
    if resume is False:
        return None
    checkpoint = last_checkpoint(output) if resume is True else Path(resume)
    if checkpoint is None:
        raise InputError(f"{output}: no whole checkpoint to resume from: train without resuming first")
    steps = steps_done(checkpoint)
    if steps is None:
        raise InputError(f"{resume}: no whole checkpoint: resume from an earlier one")
    if steps >= max_steps:
        raise InputError(
            f"{checkpoint}: has {steps} steps, and max_steps={max_steps}: nothing is left to train; raise max_steps"
        )
    return str(checkpoint)


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Keep other runs out of a folder until the block ends, or the process dies.

    Raises:
        InputError: another run trains into the folder; the message names its process.
    """
    output.mkdir(parents=True, exist_ok=True)
    lock, holder = FileLock(output / LOCK_FILE, timeout=0), output / HOLDER_FILE
    try:
        lock.acquire()
    except Timeout:
        try:
            running = json.loads(holder.read_text(encoding="utf-8"))
            occupant = (
                f"process {running['process']} on {running['host']} has been training into it since {running['since']}"
            )
        except (OSError, ValueError, KeyError, TypeError):
            occupant = "another run trains into it"
        raise InputError(f"{output}: {occupant}: wait for it, or train into another folder") from None
    try:
        now = datetime.now().isoformat(sep=" ", timespec="seconds")
        with atomic(holder) as part:
            part.write_text(json.dumps({"process": os.getpid(), "host": HOST, "since": now}), encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()
