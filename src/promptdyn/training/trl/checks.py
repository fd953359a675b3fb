"""Check what a trainer is made of: the version of TRL, and a selector that is ready."""

from __future__ import annotations

from collections.abc import Sequence

import trl

from promptdyn.errors import InputError
from promptdyn.selection import Selector
from promptdyn.success import Success

__all__ = ["RELIED_ON", "check_selector", "check_trainer"]

# Attributes of TRL's trainers that this package uses and that TRL does not promise to keep.
RELIED_ON = (
    "_buffered_inputs",  # rollouts that the trainer reuses
    "_calculate_rewards",
    "_generate_and_score_completions",
    "_load_optimizer_and_scheduler",  # from transformers
    "_remove_unused_columns",  # from transformers
    "_metrics",
    "_pending_extra_logs",
    "_pending_metrics",
    "_step",  # counts steps, and so decides when to generate
    "_tokenizer",
    "reward_func_names",
    "reward_weights",
)


def check_trainer(trainer: object) -> None:
    """Raise InputError if TRL's trainer lacks an attribute that this package uses."""
    missing = [name for name in RELIED_ON if not hasattr(trainer, name)]
    if missing:
        raise InputError(
            f"selection relies on {', '.join(missing)} of {type(trainer).__name__}, which TRL {trl.__version__} "
            "lacks: install the version that promptdyn is made for, pip install 'promptdyn[train]'"
        )


def check_selector(ids: Sequence[str], selector: Selector, group_size: int, success: Success | None) -> None:
    """Raise InputError unless a ready selector fits the ids of a dataset's prompts and the trainer's settings."""
    if success is not None:
        raise InputError("the selector says what a success is: give success to the Selector, not to the trainer")
    if selector.num_generations != group_size:
        raise InputError(
            f"the selector forecasts groups of {selector.num_generations} rollouts, and the trainer makes "
            f"{group_size}: pass num_generations={group_size} to the Selector"
        )
    known = set(selector.prompt_ids)
    if known != set(ids):
        example = min(known.symmetric_difference(ids))
        location = "not in the dataset" if example in known else "not in the selector's pool"
        raise InputError(
            f"prompt {example!r} is {location} ({len(known)} prompts in the pool, {len(ids)} in the dataset): "
            "build the selector from prompts(train_dataset)"
        )
