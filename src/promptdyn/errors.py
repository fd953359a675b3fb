"""The one error type for bad input, and the warnings. Knows nothing of where they are shown."""

from collections.abc import Collection

__all__ = ["ConvergenceWarning", "InputError", "PromptdynWarning", "check_choice"]

# Characters of a message, and what is left of a longer one.
LONGEST, HEAD, TAIL = 1000, 500, 300


class InputError(ValueError):
    """Input that promptdyn cannot use: the message is one line that says what, where and how to mend it.

    The command line prints the message alone and exits with code 2. Of a message that quotes something endless, such as
    a prompt that is its own id, the middle is left out.
    """

    def __init__(self, message: str) -> None:
        message = " ".join(message.splitlines())  # what is quoted may have any
        super().__init__(message if len(message) <= LONGEST else f"{message[:HEAD]} ... {message[-TAIL:]}")


class PromptdynWarning(UserWarning):
    """What one should know of a result that is given all the same; the command line shows it as a line."""


class ConvergenceWarning(PromptdynWarning):
    """A fit has not converged: it can be used, but further work would change it."""


def check_choice(setting: str, value: object, choices: Collection[object]) -> None:
    """Raise InputError unless a value is one of a setting's choices; the message lists them."""
    if value not in choices:
        raise InputError(f"{setting}={value!r} is none of {', '.join(map(str, choices))}")
