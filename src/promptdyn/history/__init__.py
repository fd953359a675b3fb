"""Reward histories: how many of its rollouts each prompt solved, step by step, checked and stored as columns.

The sparse form (`RewardHistory`) has one row per prompt and step that was rolled out; the dense form (`DenseHistory`)
is what array kernels run on. Knows nothing of log formats other than its own Parquet file, of models, or of trainers.
"""

from promptdyn._columns import Repeated
from promptdyn.history.dense import DenseHistory
from promptdyn.history.sparse import Observed, RewardHistory

__all__ = ["DenseHistory", "Observed", "Repeated", "RewardHistory"]
