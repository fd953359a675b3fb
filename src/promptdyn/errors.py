"""The one error type for bad input. Knows nothing of where it is shown."""

__all__ = ["InputError"]


class InputError(ValueError):
    """Input that promptdyn cannot use: the message is one line that says what, where and how to mend it.

    The command line prints the message alone and exits with code 2.
    """
