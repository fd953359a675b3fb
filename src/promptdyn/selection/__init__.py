"""Select prompts: scores say what a prompt is worth, strategies which to take; a `Selector` chooses and learns, and a
`Session` connects it to a trainer.
"""

from promptdyn.selection.conditions import meets
from promptdyn.selection.groups import Observation
from promptdyn.selection.recording import HistoryRecorder
from promptdyn.selection.scores import SCORES, Score
from promptdyn.selection.selector import Selector
from promptdyn.selection.session import Session
from promptdyn.selection.strategies import (
    GRESO,
    STRATEGIES,
    Gumbel,
    HistoryResampling,
    Outlook,
    Proportional,
    Stateless,
    Strategy,
    Thompson,
    Top,
    TopEntropy,
    Uniform,
)
from promptdyn.selection.warm_start import warm_start

__all__ = [
    "GRESO",
    "SCORES",
    "STRATEGIES",
    "Gumbel",
    "HistoryRecorder",
    "HistoryResampling",
    "Observation",
    "Outlook",
    "Proportional",
    "Score",
    "Selector",
    "Session",
    "Stateless",
    "Strategy",
    "Thompson",
    "Top",
    "TopEntropy",
    "Uniform",
    "meets",
    "warm_start",
]
