"""The base class of models that filter a pool of prompts live."""

from __future__ import annotations

from promptdyn.online.filter import OnlineFilter
from promptdyn.online.recursion import Recursion, State
from promptdyn.prompts import Ids, Prompts

__all__ = ["OnlineModel"]


class OnlineModel(Recursion[State]):
    """A model that filters a pool live. `Recursion` has its attributes and the methods that a subclass writes.

        @dataclass(frozen=True)
        class Mine(OnlineModel):
            decay: float = 0.9  # settings are fields

            name = "mine"  # and other attributes, where they differ from their defaults

    For type checkers a subclass may inherit from `OnlineModel[MyState]`.
    """

    def online(self, prompts: Prompts | Ids) -> OnlineFilter:
        """Start to filter a pool.

        Args:
            prompts: the pool, with the columns that `cluster` and `features` name. If they name none, (prompt,) ids
                will do.

        Raises:
            InputError: an id appears twice, the pool is empty, or a column is missing or cannot be used.
        """
        return OnlineFilter(self, prompts)
