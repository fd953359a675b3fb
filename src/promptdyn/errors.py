"""The one error type for bad input, the warnings, and what to install if a package is missing. This module does not
know where they are shown.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager

__all__ = ["EXTRA_OF", "ConvergenceWarning", "InputError", "PromptdynWarning", "check_choice", "install_hint"]

# Package -> the extra of promptdyn that installs it.
EXTRA_OF = {
    **dict.fromkeys(("jax", "jaxtyping", "numpyro", "arviz"), "fit"),
    **dict.fromkeys(("array_api_compat", "pyro"), "pyro"),
    **dict.fromkeys(("jinja2", "matplotlib"), "plot"),
    **dict.fromkeys(("accelerate", "datasets", "filelock", "peft", "reasoning_gym"), "train"),
    **dict.fromkeys(("torch", "transformers", "trl", "yaml"), "train"),
    **dict.fromkeys(("transfer_queue", "verl"), "verl"),
    "vllm": "vllm",
}

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


@contextmanager
def install_hint() -> Iterator[None]:
    """Let a ModuleNotFoundError name the extra that installs the missing package, if one does."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRA_OF or "pip install" in str(error):
            raise
        message = f"this needs {package}: pip install 'promptdyn[{EXTRA_OF[package]}]'"
        raise ModuleNotFoundError(message, name=error.name) from error
