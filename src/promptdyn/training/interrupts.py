"""Let a run that is stopped from outside save what it holds."""

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
    """Let SIGTERM unwind the block as Ctrl-C does, so that the block can save what it holds; then the process ends.

    A handler of the signal that is already there, such as that of a cluster's requeueing, stays in place. Outside the
    main thread the signal is left alone.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    process, terminated = os.getpid(), False

    def unwind(number: int, frame: Any) -> None:
        nonlocal terminated
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one does not wait
        if os.getpid() != process:  # a process forked from the block has nothing to save
            os.kill(os.getpid(), number)
        terminated = True
        raise KeyboardInterrupt("SIGTERM")

    signal.signal(signal.SIGTERM, unwind)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is unwind:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if terminated:
            os.kill(process, signal.SIGTERM)
