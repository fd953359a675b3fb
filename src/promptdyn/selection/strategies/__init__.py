"""Strategies: which prompts to take. A new strategy is a file here, its export, and its entry in `STRATEGIES`."""

from collections.abc import Callable

from promptdyn.registry import Registry, subclass_fault
from promptdyn.selection.strategies.base import Outlook, Stateless, Strategy, draw
from promptdyn.selection.strategies.by_score import Gumbel, Proportional, Thompson, Top, TopEntropy
from promptdyn.selection.strategies.greso import GRESO
from promptdyn.selection.strategies.history_resampling import HistoryResampling
from promptdyn.selection.strategies.uniform import Uniform

__all__ = [
    "GRESO",
    "STRATEGIES",
    "Gumbel",
    "HistoryResampling",
    "Outlook",
    "Proportional",
    "Stateless",
    "Strategy",
    "Thompson",
    "Top",
    "TopEntropy",
    "Uniform",
    "draw",
]

STRATEGIES: Registry[Callable[..., Strategy], Strategy] = Registry(
    "strategy",
    Proportional,
    Top,
    Thompson,
    Gumbel,
    TopEntropy,
    Uniform,
    GRESO,
    HistoryResampling,
    fault=subclass_fault("strategy", Strategy, "promptdyn.selection"),
)
