"""The one error type for bad input, and the warning of fits. Knows nothing of where they are shown."""

__all__ = ["ConvergenceWarning", "InputError"]


class InputError(ValueError):
    """Input that promptdyn cannot use: the message is one line that says what, where and how to mend it.

    The command line prints the message alone and exits with code 2.
    """


class ConvergenceWarning(UserWarning):
    """A fit has not converged: it can be used, but further work would change it."""
