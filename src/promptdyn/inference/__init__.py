"""Inference: engines (EM, MAP, SVI, NUTS) on a program's density in NumPyro or Pyro, and fits.

A new engine is a file here, its export, and its place in `METHODS`; one of your own is a file anywhere.
"""

from promptdyn.inference.densities import Density
from promptdyn.inference.em import EM
from promptdyn.inference.engine import Engine, Result
from promptdyn.inference.fit import METHODS, Fit, fit
from promptdyn.inference.map import MAP
from promptdyn.inference.nuts import NUTS
from promptdyn.inference.refit import Refitted
from promptdyn.inference.svi import SVI

__all__ = ["EM", "MAP", "METHODS", "NUTS", "SVI", "Density", "Engine", "Fit", "Refitted", "Result", "fit"]
