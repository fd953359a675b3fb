"""Dynamics models, one file each. A new model is a file here, its export, and its entry in `MODELS`."""

from collections.abc import Callable

from promptdyn.models import emissions
from promptdyn.models.base import PPL, Chain, Dynamics, DynamicsLike, Emission, Params, Statistics
from promptdyn.models.beta_bernoulli import BetaBernoulli
from promptdyn.models.beta_state import BetaState
from promptdyn.models.checks import model_fault
from promptdyn.models.discrete_hmm import DiscreteHMM
from promptdyn.models.dps import DPS
from promptdyn.models.feature_rate import FeatureRate
from promptdyn.models.hierarchical_hmm import HierarchicalHMM
from promptdyn.models.informative_rate import InformativeRate
from promptdyn.models.last_outcome import LastOutcome
from promptdyn.models.logit_kalman import LogitKalman
from promptdyn.models.stacked import Stacked
from promptdyn.online import OnlineModel, Pool
from promptdyn.registry import Registry

__all__ = [
    "DPS",
    "MODELS",
    "PPL",
    "BetaBernoulli",
    "BetaState",
    "Chain",
    "DiscreteHMM",
    "Dynamics",
    "DynamicsLike",
    "Emission",
    "FeatureRate",
    "HierarchicalHMM",
    "InformativeRate",
    "LastOutcome",
    "LogitKalman",
    "Model",
    "Params",
    "Pool",
    "Statistics",
    "emissions",
]

Model = OnlineModel | DynamicsLike
MODELS: Registry[Callable[..., Model], Model] = Registry(
    "model",
    DPS,
    BetaBernoulli,
    InformativeRate,
    FeatureRate,
    LogitKalman,
    LastOutcome,
    Stacked,
    DiscreteHMM,
    HierarchicalHMM,
    BetaState,
    fault=model_fault,
)
