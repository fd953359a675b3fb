"""What sits inside a training process: a recursion's contract, the filter of a pool, the chain of a fit. NumPy only."""

from promptdyn.online.chain import FrozenChain
from promptdyn.online.filter import OnlineFilter
from promptdyn.online.protocol import OnlineModel

__all__ = ["FrozenChain", "OnlineFilter", "OnlineModel"]
