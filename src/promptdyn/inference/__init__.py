"""Inference: exact array kernels and EM (JAX, loaded when first used), fits, and the online filter (NumPy)."""

from promptdyn.inference.fit import Fit, fit
from promptdyn.inference.online import OnlineFilter

__all__ = ["Fit", "OnlineFilter", "fit"]
