"""Roll out prompts with a language model, and grade the rollouts: one file per engine.

A new engine is a `RolloutEngine` in a file here, its export, and its entry in `ROLLOUT_ENGINES`; a user's own is a file
anywhere. This room knows nothing of selection and trainers.
"""

from __future__ import annotations

from collections.abc import Callable

from promptdyn.registry import Registry, subclass_fault
from promptdyn.training.rollout.base import Generator, RolloutEngine, Rollouts, Sampling, roll_out
from promptdyn.training.rollout.grading import function_names, grade
from promptdyn.training.rollout.transformers import TransformersEngine, TransformersGenerator
from promptdyn.training.rollout.vllm import VllmEngine

__all__ = [
    "ROLLOUT_ENGINES",
    "Generator",
    "RolloutEngine",
    "Rollouts",
    "Sampling",
    "TransformersEngine",
    "TransformersGenerator",
    "VllmEngine",
    "function_names",
    "grade",
    "roll_out",
]

ROLLOUT_ENGINES: Registry[Callable[..., RolloutEngine], RolloutEngine] = Registry(
    "engine",
    TransformersEngine,
    VllmEngine,
    fault=subclass_fault("engine", RolloutEngine, "promptdyn.training.rollout"),
)
