"""Reward histories: how many rollouts of each prompt succeeded at each step, checked and stored as columns.

The sparse form (`RewardHistory`) has one row per prompt and step that was rolled out. The dense form (`DenseHistory`)
has arrays over (step, prompt), which the kernels take. This room knows its own Parquet file and no other log format,
and neither models nor trainers.
"""

from promptdyn._columns import Repeated
from promptdyn.history.dense import Counts, DenseHistory
from promptdyn.history.events import Exposure, Outcome, outcome_of
from promptdyn.history.sparse import Observed, RewardHistory

__all__ = [
    "Counts",
    "DenseHistory",
    "Exposure",
    "Observed",
    "Outcome",
    "Repeated",
    "RewardHistory",
    "outcome_of",
]
