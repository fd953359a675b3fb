"""Inference: exact array kernels and EM (JAX, loaded when first used), and fits."""

from promptdyn.inference.fit import Fit, fit

__all__ = ["Fit", "fit"]
