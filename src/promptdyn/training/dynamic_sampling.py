"""Settings of dynamic sampling (DAPO, Yu et al. 2025): groups that teach nothing are replaced by further ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from promptdyn.errors import InputError, check_choice

__all__ = ["AtCap", "DynamicSampling", "Keep"]

AtCap = Literal["train", "drop", "raise"]
Keep = Literal["success", "reward"]


@dataclass(frozen=True)
class DynamicSampling:
    """Settings of dynamic sampling: which groups fill a batch, and how many generations may look for them.

    Attributes:
        max_rounds: most generations for one batch, including the first; default 4. Each generation takes as many
            prompts as the selector's forecasts say are needed, at most a full batch.
        at_cap: what happens when the batch is not full after `max_rounds`. "train" (default) fills it with the other
            groups of the first generation, those with different rewards first. "drop" fills it with groups without
            tokens. "raise" ends the run.
        keep: which groups fill the batch. "success" (default) keeps groups with both successes and failures by the
            selector's rule (see `promptdyn.success`): these are what selectors forecast and what DAPO keeps. "reward"
            keeps groups whose folded rewards differ by more than rounding: these have a gradient in GRPO. While the
            rule of success is "auto" and not found yet, "success" means the same as "reward".

    Raises:
        InputError: a setting is out of range.
    """

    max_rounds: int = 4
    at_cap: AtCap = "train"
    keep: Keep = "success"

    def __post_init__(self) -> None:
        if self.max_rounds < 1:
            raise InputError(f"max_rounds={self.max_rounds}: give at least 1")
        check_choice("at_cap", self.at_cap, get_args(AtCap))
        check_choice("keep", self.keep, get_args(Keep))
