"""Dynamic sampling (DAPO, Yu et al. 2025): groups that teach nothing are replaced by groups of further prompts.

The settings of it, and how the tensors of several generations become one. `SelectionGRPOTrainer` runs the rounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from accelerate import Accelerator
from trl.trainer.utils import nanstd

from promptdyn.errors import InputError

__all__ = ["DynamicSampling", "batch_advantages", "gathered", "join", "take"]

# Tensors with a row per rollout: on which side they are padded along the sequence, and with what; "pad" is the
# tokenizer's token.
SEQUENCES: dict[str, tuple[str, float | str]] = {
    "prompt_ids": ("left", "pad"),
    "prompt_mask": ("left", 0),
    "completion_ids": ("right", "pad"),
    "completion_mask": ("right", 0),
    "tool_mask": ("right", 1),
    "old_per_token_logps": ("right", 0.0),
    "ref_per_token_logps": ("right", 0.0),
    "sampling_per_token_logps": ("right", 0.0),
    "importance_sampling_ratio": ("right", 1.0),
}
PER_ROLLOUT = ("advantages", "rewards")


@dataclass(frozen=True)
class DynamicSampling:
    """Which groups fill a batch, and how long a generation looks for them.

    Attributes:
        max_rounds: generations at most, the first one included, for one batch; default 4. Each takes as many prompts
            as the selector's forecasts say are needed, at most a batch.
        at_cap: what is done when the batch is not full then: "train" (default) fills it with other groups of the first
            generation, those whose rewards differ first; "drop" leaves those places without tokens; "raise" ends the
            run.
        keep: which groups fill it: those with both successes and failures ("success", default; by the selector's rule,
            see `promptdyn.success`), which is what selectors forecast and what DAPO filters by; or those whose folded
            rewards differ by more than rounding ("reward"), all that GRPO has a gradient of. While "auto" has not found
            the rule of success yet, "success" goes by the rewards too.

    Raises:
        InputError: a setting is out of range.
    """

    max_rounds: int = 4
    at_cap: Literal["train", "drop", "raise"] = "train"
    keep: Literal["success", "reward"] = "success"

    def __post_init__(self) -> None:
        if self.max_rounds < 1:
            raise InputError(f"max_rounds={self.max_rounds}: give at least 1")
        for name, choices in (("at_cap", ("train", "drop", "raise")), ("keep", ("success", "reward"))):
            if getattr(self, name) not in choices:
                raise InputError(f"{name}={getattr(self, name)!r} is none of {', '.join(map(repr, choices))}")


def batch_advantages(rewards: torch.Tensor) -> torch.Tensor:
    """(rollout,) advantages of a joined batch of rewards (group, rollout) where TRL's `scale_rewards` is "batch"."""
    advantages = (rewards - torch.nanmean(rewards, dim=1, keepdim=True)) / (nanstd(rewards.flatten()) + 1e-4)
    return advantages.flatten().nan_to_num(nan=0.0)


def gathered(outputs: Mapping[str, Any], accelerator: Accelerator, pad_token_id: int) -> dict[str, torch.Tensor]:
    """A generation's tensors of all processes, (rollout, ...) in the order of the whole batch.

    Raises:
        InputError: the generation holds what cannot be joined, such as images.
    """
    whole = {}
    for name, value in outputs.items():
        if name == "num_items_in_batch":
            continue
        if name not in SEQUENCES and name not in PER_ROLLOUT:
            raise InputError(f"dynamic sampling cannot join generations that hold {name!r}, such as those with images")
        if name in SEQUENCES:
            side, filler = SEQUENCES[name]
            value = accelerator.pad_across_processes(
                value, dim=1, pad_index=_filler(filler, pad_token_id), pad_first=side == "left"
            )
        whole[name] = accelerator.gather(value)
    return whole


def take(tensors: Mapping[str, torch.Tensor], groups: list[int], group_size: int) -> dict[str, torch.Tensor]:
    """The rollouts of some groups, in the order given."""
    rows = torch.tensor([group * group_size + i for group in groups for i in range(group_size)], dtype=torch.long)
    return {name: value[rows.to(value.device)] for name, value in tensors.items()}


def join(parts: list[dict[str, torch.Tensor]], pad_token_id: int) -> dict[str, torch.Tensor]:
    """One batch of several, padded to the longest."""
    joined = {}
    for name in parts[0]:
        values = [part[name] for part in parts]
        if name in SEQUENCES:
            side, filler = SEQUENCES[name]
            width = max(value.shape[1] for value in values)
            values = [_padded(value, width, side, _filler(filler, pad_token_id)) for value in values]
        joined[name] = torch.cat(values)
    return joined


def _filler(filler: float | str, pad_token_id: int) -> float:
    return pad_token_id if isinstance(filler, str) else filler


def _padded(value: torch.Tensor, width: int, side: str, filler: float) -> torch.Tensor:
    missing = width - value.shape[1]
    return torch.nn.functional.pad(value, (missing, 0) if side == "left" else (0, missing), value=filler)
