"""Work out from TRL's settings how a run is divided into generations, each of which chooses its prompts."""

from __future__ import annotations

import logging
import math
from copy import copy
from dataclasses import dataclass
from typing import TypeVar, cast

from datasets import Dataset
from trl import GRPOConfig, RLOOConfig

from promptdyn.errors import InputError

__all__ = ["Generations", "check_joins", "with_steps"]

Config = TypeVar("Config", bound=GRPOConfig | RLOOConfig)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Generations:
    """The size of the generations of a run.

    Attributes:
        num_prompts: prompts in one generation, over all processes.
        group_size: rollouts of each prompt.
        per_step: most generations in one optimizer step; 1 if the rollouts of a generation serve several steps.
    """

    num_prompts: int
    group_size: int
    per_step: int

    @classmethod
    def from_config(cls, args: GRPOConfig | RLOOConfig) -> Generations:
        """Read the size from a trainer's settings."""
        group_size, batch_size = cast(int, args.num_generations), cast(int, args.generation_batch_size)
        batches = cast(int, args.steps_per_generation) * args.num_iterations
        return cls(batch_size // group_size, group_size, math.ceil(args.gradient_accumulation_steps / batches))

    def check(self, num_prompts: int) -> None:
        """Raise InputError if a pool has fewer prompts than one optimizer step takes."""
        needed = self.num_prompts * self.per_step
        if num_prompts < needed:
            raise InputError(
                f"the dataset has {num_prompts} prompts, and one optimizer step takes {needed} different ones: "
                "add prompts, or lower generation_batch_size"
            )


def with_steps(args: Config, num_prompts: int) -> Config:
    """Return settings with `max_steps` set: unless it is, `num_train_epochs` of the pool, counted as TRL counts."""
    if not args.shuffle_dataset:
        logger.warning("shuffle_dataset=False has no effect: the selector chooses the prompts of every generation")
    if args.max_steps > 0:
        return args
    # Batches of one process; each is one forward and one backward pass.
    passes = cast(int, args.steps_per_generation) * args.num_iterations
    batches = num_prompts // Generations.from_config(args).num_prompts * passes
    steps = math.ceil(args.num_train_epochs * max(math.ceil(batches / args.gradient_accumulation_steps), 1))
    args = copy(args)
    args.max_steps = steps
    logger.warning(
        "num_train_epochs=%g: %d optimizer steps, as many as TRL takes for %d prompts; the selector chooses which "
        "prompts come, and how often",
        args.num_train_epochs,
        steps,
        num_prompts,
    )
    return args


def check_joins(dataset: Dataset, args: GRPOConfig | RLOOConfig) -> None:
    """Raise InputError if generations cannot be joined into one batch, which dynamic sampling does."""
    images = [column for column in ("image", "images") if column in dataset.column_names]
    if images:
        raise InputError(
            f"dynamic sampling cannot join generations with images (column {images[0]!r}): leave dynamic sampling out"
        )
    # GRPO alone has the first setting, RLOO alone the second.
    for setting, required in (("multi_objective_aggregation", "sum_then_normalize"), ("normalize_advantages", False)):
        value = getattr(args, setting, required)
        if value != required:
            raise InputError(
                f"{setting}={value!r} scales advantages over a generation, and dynamic sampling joins several: set "
                f"{required!r}"
            )
