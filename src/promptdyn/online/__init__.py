"""Forecast inside a training process: the online filter, models that learn online, chains of a fit. NumPy only."""

from promptdyn.online.beta import BetaForecasts, DiscountedBeta
from promptdyn.online.chain import FrozenChain
from promptdyn.online.filter import OnlineFilter
from promptdyn.online.forecaster import Forecaster
from promptdyn.online.mixture import FrozenMixture
from promptdyn.online.model import OnlineModel
from promptdyn.online.pool import Pool
from promptdyn.online.recursion import Recursion

__all__ = [
    "BetaForecasts",
    "DiscountedBeta",
    "Forecaster",
    "FrozenChain",
    "FrozenMixture",
    "OnlineFilter",
    "OnlineModel",
    "Pool",
    "Recursion",
]
