"""How the process behaves: errors and warnings in one line each, files checked before long work."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from promptdyn.errors import InputError, PromptdynWarning, install_hint
from promptdyn.storage import check_target

__all__ = ["check_targets", "one_line_errors", "own_warnings", "quiet"]


def check_targets(*paths: Path | None, sources: Sequence[Path | None] = ()) -> None:
    """Raise InputError unless each file can be written, is not a source, and is named once."""
    targets = [path for path in paths if path is not None and str(path) != "-"]
    for i, path in enumerate(targets):
        check_target(path)
        if any(
            source is not None and source.exists() and path.exists() and path.samefile(source) for source in sources
        ):
            raise InputError(f"{path}: is the source, too: name another file to write")
        if path.resolve() in [other.resolve() for other in targets[:i]]:
            raise InputError(f"{path}: is to be written twice: name another file for one of the two")


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Exit with code 2 and one line on stderr if input cannot be used or an extra is missing."""
    try:
        with install_hint():
            yield
    except InputError as error:
        print(f"promptdyn: {error}", file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "promptdyn":
            raise
        print(f"promptdyn: {error}", file=sys.stderr)
        sys.exit(2)


@contextmanager
def own_warnings() -> Iterator[None]:
    """Print each warning and log entry of this package as one line on stderr, and no warnings of other packages.

    `python -W` overrides this.
    """
    log = logging.StreamHandler()
    log.setFormatter(logging.Formatter("promptdyn: %(message)s"))
    logging.getLogger("promptdyn").addHandler(log)
    try:
        with warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.simplefilter("ignore")
                warnings.simplefilter("always", PromptdynWarning)
                warnings.showwarning = lambda message, *_: print(f"promptdyn: {message}", file=sys.stderr)
            yield
    finally:
        logging.getLogger("promptdyn").removeHandler(log)


def quiet() -> None:
    """Turn off the progress bars of transformers."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
