"""promptdyn: probabilistic models of prompt learning dynamics, to choose the prompts that will teach.

Names load when first used, so that a training process that holds a `Selector` never imports JAX.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from promptdyn import clusters, features, models
    from promptdyn.errors import ConvergenceWarning, InputError
    from promptdyn.evaluation import compare, simulate
    from promptdyn.history import RewardHistory
    from promptdyn.inference import Fit, Refitted, fit
    from promptdyn.online import OnlineFilter
    from promptdyn.ppl import program
    from promptdyn.prompts import Prompts
    from promptdyn.readers import read_history
    from promptdyn.selection import Selector, Session

__all__ = [
    "ConvergenceWarning",
    "Fit",
    "InputError",
    "OnlineFilter",
    "Prompts",
    "Refitted",
    "RewardHistory",
    "Selector",
    "Session",
    "clusters",
    "compare",
    "features",
    "fit",
    "models",
    "program",
    "read_history",
    "simulate",
]

_HOME = {
    "ConvergenceWarning": "errors",
    "Fit": "inference",
    "InputError": "errors",
    "OnlineFilter": "online",
    "Prompts": "prompts",
    "Refitted": "inference",
    "RewardHistory": "history",
    "Selector": "selection",
    "Session": "selection",
    "compare": "evaluation",
    "fit": "inference",
    "program": "ppl",
    "read_history": "readers",
    "simulate": "evaluation",
}


if not TYPE_CHECKING:  # a type checker would accept any name of a module that has this function

    def __getattr__(name: str) -> Any:
        if name in ("clusters", "features", "models"):
            return import_module(f"promptdyn.{name}")
        if name not in _HOME:
            raise AttributeError(f"module 'promptdyn' has no attribute {name!r}")
        return getattr(import_module(f"promptdyn.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
