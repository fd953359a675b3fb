"""What this package relies on in TRL's trainers, beyond what TRL promises."""

from __future__ import annotations

import trl

from promptdyn.errors import InputError

__all__ = ["RELIED_ON", "check_trainer"]

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
