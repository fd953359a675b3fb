"""Selection: what a prompt is worth (scores), which to take (policies), the `Selector` that chooses and learns, and the
`Session` that a trainer holds.
"""

from promptdyn.selection.groups import Observation
from promptdyn.selection.policies import POLICIES, Gumbel, Policy, Proportional, Thompson, Top, TopEntropy, Uniform
from promptdyn.selection.recording import HistoryRecorder
from promptdyn.selection.scores import SCORES, Score
from promptdyn.selection.selector import Selector
from promptdyn.selection.session import Session

__all__ = [
    "POLICIES",
    "SCORES",
    "Gumbel",
    "HistoryRecorder",
    "Observation",
    "Policy",
    "Proportional",
    "Score",
    "Selector",
    "Session",
    "Thompson",
    "Top",
    "TopEntropy",
    "Uniform",
]
