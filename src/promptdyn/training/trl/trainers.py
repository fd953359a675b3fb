"""TRL's trainers with the mix-in."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from trl import GRPOConfig, GRPOTrainer, RLOOTrainer

from promptdyn.training.trl.mixin import SelectionMixin

__all__ = ["SelectionGRPOTrainer", "SelectionRLOOTrainer"]


class SelectionGRPOTrainer(SelectionMixin, GRPOTrainer):
    """TRL's `GRPOTrainer` with prompts chosen by a selector. For the arguments see `SelectionMixin`."""

    args: GRPOConfig


class SelectionRLOOTrainer(SelectionMixin, RLOOTrainer):  # type: ignore[misc]  # type checkers see the mix-in as GRPO's
    """TRL's `RLOOTrainer` with prompts chosen by a selector. For the arguments see `SelectionMixin`."""

    @property
    def _folded(self) -> NDArray[np.float64]:
        folded = super()._folded
        return folded if self.reward_clip_range is None else folded.clip(*self.reward_clip_range)
