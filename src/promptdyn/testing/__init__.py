"""A test kit for users' own models: does a model keep the contract that the rest of promptdyn relies on?

    from promptdyn.testing import check_model

    def test_mine():
        check_model(Mine(cluster="task"))

A failed check raises AssertionError (or InputError, if the package itself refuses the model) with one line that names
the model, the value that was found, and the value that was expected.
"""

from promptdyn.testing.model import check_model
from promptdyn.testing.online import check_online

__all__ = ["check_model", "check_online"]
