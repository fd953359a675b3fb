"""What sits inside a training process: the protocol of online models, the filter, chains of a fit. NumPy only."""

from promptdyn.online.beta import BetaForecasts, DiscountedBeta
from promptdyn.online.chain import FrozenChain
from promptdyn.online.clusters import cluster_codes
from promptdyn.online.filter import OnlineFilter
from promptdyn.online.mixture import FrozenMixture
from promptdyn.online.protocol import OnlineModel

__all__ = [
    "BetaForecasts",
    "DiscountedBeta",
    "FrozenChain",
    "FrozenMixture",
    "OnlineFilter",
    "OnlineModel",
    "cluster_codes",
]
