"""Make one GRPO run with selection, from settings to a trained policy and its history, as `promptdyn train` does.

It puts together a model, a dataset, reward functions, a selector and `SelectionGRPOTrainer`. Models and datasets may be
the embedded ones, or any of Hugging Face.
"""

from promptdyn.training.run.settings import RunSettings
from promptdyn.training.run.train import RunResult, run
from promptdyn.training.run.trainer import make_trainer

__all__ = ["RunResult", "RunSettings", "make_trainer", "run"]
