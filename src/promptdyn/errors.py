"""The one error type for bad input, and the warnings. This module does not know where they are shown."""

from collections.abc import Collection

__all__ = ["ConvergenceWarning", "InputError", "PromptdynWarning", "check_choice"]

# Most characters of a message; a longer one keeps only its head and tail.
LONGEST, HEAD, TAIL = 1000, 500, 300


class InputError(ValueError):
    """Input that promptdyn cannot use. The message is one line: what is wrong, where it stands, and the mend.

    The command line prints the message alone and exits with code 2. A very long message (it may quote a whole prompt)
    loses its middle.
    """

    def __init__(self, message: str) -> None:
        message = " ".join(message.splitlines())  # quoted input may hold line breaks
        super().__init__(message if len(message) <= LONGEST else f"{message[:HEAD]} ... {message[-TAIL:]}")


class PromptdynWarning(UserWarning):
    """A doubt about a result that is returned all the same. The command line prints it as one line."""


class ConvergenceWarning(PromptdynWarning):
    """A fit that has not converged: it can be used, but more iterations would change it."""


def check_choice(setting: str, value: object, choices: Collection[object]) -> None:
    """Raise InputError, with the list of choices, unless a value is one of them."""
    if value not in choices:
        raise InputError(f"{setting}={value!r} is none of {', '.join(map(str, choices))}")
