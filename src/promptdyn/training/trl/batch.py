"""Join the tensors of several generations into one batch, for dynamic sampling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from trl.trainer.utils import nanstd

from promptdyn.errors import InputError
from promptdyn.training.dynamic_sampling import AtCap

__all__ = ["Batch", "batch_advantages", "gather_rollouts"]

# Tensors of (rollout, token): the side on which they are padded, and the value; "pad" is the tokenizer's token.
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


class Batch:
    """A batch that generations fill with groups that teach.

    Args:
        size: number of groups in a full batch.
        group_size: rollouts of each group.
        pad_token_id: token that pads sequences.

    Attributes:
        rounds: number of generations so far.
        prompt_ids: ids of the groups that teach, in the order of the batch.
        num_rolled_out: number of groups in all generations so far.
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
        """Number of groups that the batch still lacks."""
        return self.size - len(self.prompt_ids)

    def add(
        self,
        prompt_ids: Sequence[str],
        rollouts: Mapping[str, torch.Tensor],
        teaches: Sequence[bool],
        varies: Sequence[bool],
    ) -> None:
        """Add the groups of a generation that teach, at most as many as the batch lacks.

        Args:
            prompt_ids: (group,) ids.
            rollouts: name -> tensor of (rollout, ...).
            teaches: (group,) whether a group may fill the batch.
            varies: (group,) whether the rewards of a group differ: such groups come first when `joined` needs more.
        """
        kept_groups = [i for i, flag in enumerate(teaches) if flag][: self.missing]
        if not self.rounds:
            others = sorted((i for i, flag in enumerate(teaches) if not flag), key=lambda i: not varies[i])
            self._others, self._other_ids = self._of(rollouts, others), [prompt_ids[i] for i in others]
        self._parts.append(self._of(rollouts, kept_groups))
        self.prompt_ids += [prompt_ids[i] for i in kept_groups]
        self.num_rolled_out += len(prompt_ids)
        self.rounds += 1

    def joined(self, at_cap: AtCap) -> tuple[dict[str, torch.Tensor], list[str]]:
        """Return the tensors of the full batch, padded to the longest sequence, and the ids of the trained groups.

        Args:
            at_cap: what fills the rest of the batch: other groups of the first generation ("train"), or the same
                groups with no token to train on ("drop").
        """
        parts, trained = list(self._parts), list(self.prompt_ids)
        if self.missing:
            filling = self._of(self._others, list(range(self.missing)))
            if at_cap == "drop":
                for name in ("completion_mask", "old_logps"):  # old_logps has one number per completion
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
        """Return the rollouts of some groups, in the order of `groups`."""
        size = self.group_size
        rows = torch.tensor([group * size + i for group in groups for i in range(size)], dtype=torch.long)
        return {name: value[rows.to(value.device)] for name, value in rollouts.items()}


def batch_advantages(rewards: torch.Tensor) -> torch.Tensor:
    """Return (rollout,) advantages for (group, rollout) rewards of a joined batch, as TRL's `scale_rewards="batch"`."""
    advantages = (rewards - torch.nanmean(rewards, dim=1, keepdim=True)) / (nanstd(rewards.flatten()) + 1e-4)
    return advantages.flatten().nan_to_num(nan=0.0)


def gather_rollouts(outputs: Mapping[str, Any], accelerator: Accelerator, pad_token_id: int) -> dict[str, torch.Tensor]:
    """Gather a generation's tensors from all processes: name -> (rollout, ...), in the order of the whole generation.

    Raises:
        InputError: the generation holds tensors that cannot be joined, such as images.
    """
    all_processes = {}
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
        all_processes[name] = accelerator.gather(value)
    return all_processes


def _filler(filler: float | str, pad_token_id: int) -> float:
    return pad_token_id if isinstance(filler, str) else filler


def _padded(value: torch.Tensor, width: int, side: str, filler: float) -> torch.Tensor:
    missing = width - value.shape[1]
    return torch.nn.functional.pad(value, (missing, 0) if side == "left" else (0, missing), value=filler)
