"""The `promptdyn` command, in a process of its own or in that of the tests."""

import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

from promptdyn.cli import main


def promptdyn_command(*arguments, cwd=None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", "from promptdyn.cli import main; main()", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )


def promptdyn_here(*arguments) -> subprocess.CompletedProcess:
    """The command in this process, which has imported what it needs."""
    argv, sys.argv = sys.argv, ["promptdyn", *map(str, arguments)]
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        try:
            main()
        except SystemExit as done:
            code = int(done.code or 0)
        finally:
            sys.argv = argv
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())
