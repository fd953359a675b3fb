"""What a run leaves in its folder: which checkpoints are whole, and who is training into it."""

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
# As transformers names them; to import them from there takes seconds.
PREFIX_CHECKPOINT_DIR, TRAINER_STATE_NAME = "checkpoint", "trainer_state.json"
# Weights of a model as transformers, FSDP and DeepSpeed keep them.
WEIGHTS = ("model*.safetensors", "adapter_model*", "pytorch_model*", "global_step*")

logger = logging.getLogger(__name__)


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder has the name of a checkpoint."""
    return re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-\d+", folder.name) is not None


def steps_done(folder: Path) -> int | None:
    """Optimizer steps of a model that was saved whole with its training state; None where it is not whole.

    The state is written last, so where it can be read the rest is there, unless somebody has begun to delete it.
    """
    try:
        steps = json.loads((folder / TRAINER_STATE_NAME).read_text(encoding="utf-8"))["global_step"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    whole = isinstance(steps, int) and any(next(folder.glob(pattern), None) for pattern in WEIGHTS)
    return steps if whole else None


def last_checkpoint(output: Path) -> Path | None:
    """The newest whole checkpoint of a run, None where there is none; a line is logged for each that is passed over."""
    folders = [folder for folder in output.iterdir() if is_checkpoint(folder)] if output.is_dir() else []
    for folder in sorted(folders, key=lambda folder: int(folder.name.rpartition("-")[2]), reverse=True):
        if steps_done(folder) is not None:
            return folder
        logger.warning("%s is not whole, as when a run dies while it is written: passed over", folder)
    return None


def wants_resume(asked: str | Path | bool | None) -> str | bool:
    """`resume_from_checkpoint` as it is meant: a checkpoint, True for the newest one, False for none.

    A command line or settings file makes a word of true and false.
    """
    if isinstance(asked, bool | None):
        return bool(asked)
    return {"true": True, "false": False, "": False}.get(str(asked).lower(), str(asked))


def checkpoint_to_resume(asked: str | Path | bool | None, output: Path, max_steps: int) -> str | None:
    """The checkpoint that a run goes on from, None where it starts.

    Args:
        asked: as `wants_resume` reads it.
        output: the run's folder.
        max_steps: optimizer steps of the whole run.

    Raises:
        InputError: no checkpoint to resume from, one that is not whole, or of `max_steps` or more.
    """
    resume = wants_resume(asked)
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
            f"{checkpoint}: is of step {steps}, and max_steps={max_steps}: nothing is left to train; raise max_steps"
        )
    return str(checkpoint)


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Keep other runs out of a folder until the block ends, or the process dies.

    Raises:
        InputError: a run is in it, naming its process.
    """
    output.mkdir(parents=True, exist_ok=True)
    lock, holder = FileLock(output / LOCK_FILE, timeout=0), output / HOLDER_FILE
    try:
        lock.acquire()
    except Timeout:
        try:
            told = json.loads(holder.read_text(encoding="utf-8"))
            who = f"process {told['process']} on {told['host']} trains into it since {told['since']}"
        except (OSError, ValueError, KeyError, TypeError):
            who = "another run trains into it"
        raise InputError(f"{output}: {who}: wait for it, or train into another folder") from None
    try:
        now = datetime.now().isoformat(sep=" ", timespec="seconds")
        with atomic(holder) as part:
            part.write_text(json.dumps({"process": os.getpid(), "host": HOST, "since": now}), encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()
