"""Procedural arithmetic and sequence tasks: short prompts and exact answers, within reach of small policies.

A *kind* is a task at one difficulty: `add-2` is addition of 2-digit numbers. A *family* is made of parts, each with its
kinds and its share of a pool. Items come from reasoning-gym if it has the task, with their questions written shortly. A
prompt belongs either to the train split or to the test split in every pool, so a held-out pool shares no prompt with
any training pool.

This folder knows nothing of policies and trainers.
"""

from promptdyn.training.tasks.families import FAMILIES, Part
from promptdyn.training.tasks.kinds import SPLITS, Kind, stream
from promptdyn.training.tasks.pools import held_out, make_pool
from promptdyn.training.tasks.rewards import exact_answer, makes_target

__all__ = [
    "FAMILIES",
    "SPLITS",
    "Kind",
    "Part",
    "exact_answer",
    "held_out",
    "make_pool",
    "makes_target",
    "stream",
]
