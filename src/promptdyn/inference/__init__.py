"""Inference: engines (EM, MAP, SVI, NUTS) on a program's density in NumPyro or Pyro, and fits."""

from promptdyn.inference.em import EM
from promptdyn.inference.fit import Fit, fit
from promptdyn.inference.map import MAP
from promptdyn.inference.nuts import NUTS
from promptdyn.inference.refit import Refitted
from promptdyn.inference.svi import SVI

__all__ = ["EM", "MAP", "NUTS", "SVI", "Fit", "Refitted", "fit"]
