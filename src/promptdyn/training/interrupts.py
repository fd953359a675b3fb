"""Ways in which a run is stopped from outside, and what it does then."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["terminable"]


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM unwind the block as Ctrl-C does, so that it can save what it holds; then the process ends by it.

    Who handles the signal already, as a cluster's requeueing does, goes on to. Outside the main thread nothing is done.
    """
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    process, told = os.getpid(), False

    def unwind(number: int, frame: Any) -> None:
        nonlocal told
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one does not wait
        if os.getpid() != process:  # forked from the block, which holds nothing of its own
            os.kill(os.getpid(), number)
        told = True
        raise KeyboardInterrupt("SIGTERM")

    signal.signal(signal.SIGTERM, unwind)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is unwind:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if told:
            os.kill(process, signal.SIGTERM)
