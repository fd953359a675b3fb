"""The command line: `promptdyn import | fit | simulate | compare | report | train | race | demo`.

It reads options, calls the library and prints results. A new command is one file in `commands` and its name in `app`.
"""

from promptdyn.cli.app import app, main

__all__ = ["app", "main"]
