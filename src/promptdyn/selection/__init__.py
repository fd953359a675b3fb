"""Selection: what a prompt is worth (scores), which to take (policies), and the `Selector` a trainer holds."""

from promptdyn.selection.groups import Observation
from promptdyn.selection.policies import POLICIES, Gumbel, Policy, Proportional, Thompson, Top, TopEntropy, Uniform
from promptdyn.selection.scores import SCORES, Score
from promptdyn.selection.selector import Selector

__all__ = [
    "POLICIES",
    "SCORES",
    "Gumbel",
    "Observation",
    "Policy",
    "Proportional",
    "Score",
    "Selector",
    "Thompson",
    "Top",
    "TopEntropy",
    "Uniform",
]
