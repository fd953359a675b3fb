"""What sits inside a training process: the base of online models, the filter, chains of a fit. NumPy only."""

from promptdyn.online.beta import BetaForecasts, DiscountedBeta
from promptdyn.online.chain import FrozenChain
from promptdyn.online.filter import OnlineFilter
from promptdyn.online.mixture import FrozenMixture
from promptdyn.online.model import OnlineModel
from promptdyn.online.pool import Pool

__all__ = [
    "BetaForecasts",
    "DiscountedBeta",
    "FrozenChain",
    "FrozenMixture",
    "OnlineFilter",
    "OnlineModel",
    "Pool",
]
