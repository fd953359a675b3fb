"""Fit models: engines (EM, MAP, SVI, NUTS) on a program's density in NumPyro or Pyro, and the fits that they give."""

from promptdyn.inference.densities import Density
from promptdyn.inference.engines import EM, MAP, METHODS, NUTS, SVI, Engine, Result
from promptdyn.inference.fit import Fit
from promptdyn.inference.fitting import fit
from promptdyn.inference.refit import Refitted

__all__ = ["EM", "MAP", "METHODS", "NUTS", "SVI", "Density", "Engine", "Fit", "Refitted", "Result", "fit"]
