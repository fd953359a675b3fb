"""The held-out prompts of a race, and the accuracy on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

from promptdyn.errors import InputError
from promptdyn.history import RewardHistory
from promptdyn.success import Grader
from promptdyn.training import tasks
from promptdyn.training.loading import load_reward, load_rows
from promptdyn.training.policy import pass_counts
from promptdyn.training.race.declared import Race

__all__ = ["HeldOut"]

# The seed that draws and samples the held-out prompts, the same for all runs.
HELD_OUT_SEED = 99


class HeldOut:
    """The held-out prompts of a race, their reward functions, and how accuracies are weighted."""

    def __init__(self, declared: Race) -> None:
        self.race = declared
        if isinstance(declared.held_out, int):
            self.rows = tasks.held_out(declared.dataset, declared.held_out, HELD_OUT_SEED)
            family = tasks.FAMILIES[declared.dataset]
            self.parts = {part.name: [kind.name for kind in part.kinds] for part in family}
        else:
            self.rows = load_rows(declared.held_out).to_list()
            self.parts = {}
            if not all(isinstance(row["prompt"], str) for row in self.rows):
                raise InputError(
                    f"held_out: the prompts of {declared.held_out!r} are not texts, which races are run on"
                )
        self.rewards = [load_reward(name) for name in declared.reward.split(",")]

    def weights(self, pool: list[dict[str, Any]]) -> dict[str, NDArray[np.float64]]:
        """Return the (row,) weights of the held-out prompts in each measure, for the pool of a run."""
        if not self.parts:
            equal = np.full(len(self.rows), 1.0 / len(self.rows))
            return {"all": equal, "mix": equal}
        kinds = np.array([_kind(row) for row in self.rows])
        per_row = {kind: 1.0 / np.count_nonzero(kinds == kind) for kind in np.unique(kinds)}
        in_pool = [_kind(row) for row in pool]

        def mean_over(share: Mapping[str, float]) -> NDArray[np.float64]:
            weights = np.array([share.get(kind, 0.0) * per_row[kind] for kind in kinds])
            return weights / weights.sum()

        measures = {name: mean_over(dict.fromkeys(part_kinds, 1.0)) for name, part_kinds in self.parts.items()}
        measures["all"] = mean_over(dict.fromkeys(per_row, 1.0))
        measures["mix"] = mean_over({kind: in_pool.count(kind) / len(in_pool) for kind in per_row})
        return measures

    def solved(self, trainer: Trainer, success: Grader) -> NDArray[np.int64]:
        """Return the (row,) number of rollouts of each held-out prompt that the trainer's policy solves."""
        return pass_counts(
            cast(PreTrainedModel, trainer.model),
            cast(PreTrainedTokenizerBase, trainer.processing_class),
            self.rows,
            self.rewards,
            num_generations=self.race.held_out_samples,
            max_completion_length=self.race.max_completion_length,
            success=success,
            seed=HELD_OUT_SEED,
        )

    def rollout_shares(self, history: RewardHistory) -> dict[str, float]:
        """Return the share of the rollouts that each part of the family received."""
        if not self.parts:
            return {}
        columns = [history.columns[column][history.prompt] for column in ("task", "difficulty")]
        kinds = np.array(["-".join(labels) for labels in zip(*columns, strict=True)])
        weight = history.num_rollouts / history.num_rollouts.sum()
        return {name: float(weight[np.isin(kinds, kinds_of)].sum()) for name, kinds_of in self.parts.items()}


def _kind(row: Mapping[str, Any]) -> str:
    return f"{row['task']}-{row['difficulty']}"
