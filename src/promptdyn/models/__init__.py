"""Dynamics models: one file each. A new one is a file here, its export, and its place in `MODELS`."""

from promptdyn.models.base import Components, MarkovModel, Params, Statistics
from promptdyn.models.beta_bernoulli import BetaBernoulli
from promptdyn.models.discrete_hmm import DiscreteHMM
from promptdyn.models.dps import DPS
from promptdyn.registry import Registry

__all__ = [
    "DPS",
    "MODELS",
    "BetaBernoulli",
    "Components",
    "DiscreteHMM",
    "MarkovModel",
    "Params",
    "Statistics",
]

MODELS = Registry("model", DPS, BetaBernoulli, DiscreteHMM)
