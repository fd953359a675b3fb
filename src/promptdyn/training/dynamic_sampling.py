"""Dynamic sampling (DAPO, Yu et al. 2025): groups that teach nothing are replaced by groups of further prompts.

The settings of it, and how the tensors of several generations become one batch. A trainer runs the rounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from accelerate import Accelerator
from trl.trainer.utils import nanstd

from promptdyn.errors import InputError, check_choice

__all__ = ["AtCap", "Batch", "DynamicSampling", "Keep", "batch_advantages", "gathered"]

AtCap = Literal["train", "drop", "raise"]
Keep = Literal["success", "reward"]

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
PER_ROLLOUT = ("advantages", "old_logps", "rewards")


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
    at_cap: AtCap = "train"
    keep: Keep = "success"

    def __post_init__(self) -> None:
        if self.max_rounds < 1:
            raise InputError(f"max_rounds={self.max_rounds}: give at least 1")
        check_choice("at_cap", self.at_cap, get_args(AtCap))
        check_choice("keep", self.keep, get_args(Keep))


class Batch:
    """A batch that is filled, generation by generation, with groups that teach.

    Args:
        size: groups that it has room for.
        group_size: rollouts of each.
        pad_token_id: what sequences of tokens are padded with.

    Attributes:
        rounds: generations so far.
        prompt_ids: of the groups that teach, in their order.
        num_rolled_out: groups of all generations.
    """

    def __init__(self, size: int, group_size: int, pad_token_id: int) -> None:
        self.size, self.group_size, self.pad_token_id = size, group_size, pad_token_id
        self.rounds = self.num_rolled_out = 0
        self.prompt_ids: list[str] = []
        self._parts: list[dict[str, torch.Tensor]] = []
        # The first generation is as large as the batch, so its other groups are enough to fill it.
        self._others: dict[str, torch.Tensor] = {}
        self._other_ids: list[str] = []

    @property
    def missing(self) -> int:
        """Groups that there is room for."""
        return self.size - len(self.prompt_ids)

    def add(
        self,
        prompt_ids: Sequence[str],
        rollouts: Mapping[str, torch.Tensor],
        teaches: Sequence[bool],
        varies: Sequence[bool],
    ) -> None:
        """Take a generation's groups that teach, as many as there is room for.

        Args:
            prompt_ids: (group,) ids.
            rollouts: tensors of (rollout, ...).
            teaches: (group,) which are to fill the batch.
            varies: (group,) which are the better ones of those that do not teach.
        """
        own = [i for i, flag in enumerate(teaches) if flag][: self.missing]
        if not self.rounds:
            others = sorted((i for i, flag in enumerate(teaches) if not flag), key=lambda i: not varies[i])
            self._others, self._other_ids = self._of(rollouts, others), [prompt_ids[i] for i in others]
        self._parts.append(self._of(rollouts, own))
        self.prompt_ids += [prompt_ids[i] for i in own]
        self.num_rolled_out += len(prompt_ids)
        self.rounds += 1

    def whole(self, at_cap: AtCap) -> tuple[dict[str, torch.Tensor], list[str]]:
        """The rollouts of the full batch, padded to the longest, and the ids of the groups that it trains on.

        Args:
            at_cap: what is in the room that is left: groups of the first generation to train on ("train"), or such
                groups without tokens ("drop").
        """
        parts, trained = list(self._parts), list(self.prompt_ids)
        if self.missing:
            filling = self._of(self._others, list(range(self.missing)))
            if at_cap == "drop":
                for name in ("completion_mask", "old_logps"):  # the latter is of whole completions
                    if name in filling:
                        filling[name] = torch.zeros_like(filling[name])
            else:
                trained += self._other_ids[: self.missing]
            parts.append(filling)
        joined = {}
        for name in parts[0]:
            values = [part[name] for part in parts]
            if name in SEQUENCES:
                side, filler = SEQUENCES[name]
                width = max(value.shape[1] for value in values)
                values = [_padded(value, width, side, _filler(filler, self.pad_token_id)) for value in values]
            joined[name] = torch.cat(values)
        return joined, trained

    def _of(self, rollouts: Mapping[str, torch.Tensor], groups: Sequence[int]) -> dict[str, torch.Tensor]:
        """The rollouts of some groups, in the order given."""
        size = self.group_size
        rows = torch.tensor([group * size + i for group in groups for i in range(size)], dtype=torch.long)
        return {name: value[rows.to(value.device)] for name, value in rollouts.items()}


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


def _filler(filler: float | str, pad_token_id: int) -> float:
    return pad_token_id if isinstance(filler, str) else filler


def _padded(value: torch.Tensor, width: int, side: str, filler: float) -> torch.Tensor:
    missing = width - value.shape[1]
    return torch.nn.functional.pad(value, (missing, 0) if side == "left" else (0, missing), value=filler)
