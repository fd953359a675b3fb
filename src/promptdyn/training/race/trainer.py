"""The trainer of a race, and the callback that measures it and ends it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from promptdyn.selection import Observation
from promptdyn.training.trl import SelectionGRPOTrainer

__all__ = ["BudgetCallback", "RaceTrainer"]


class RaceTrainer(SelectionGRPOTrainer):
    """The trainer of a race, for one process. It counts its rollouts and tokens, and saves the forecasts it chose by.

    Args:
        budget: rollouts of the run; the learning rate falls linearly with the rest of them.
        whole_batches: whether rollouts without advantage are passed forward and back too, as TRL does. They add nothing
            to the gradient, and take as long as the others.
    """

    def __init__(self, *positional: Any, budget: int, whole_batches: bool = True, **named: Any) -> None:
        super().__init__(*positional, **named)
        self.budget, self.whole_batches = budget, whole_batches
        self.rollouts = self.tokens = 0
        self.forecasts: list[NDArray[np.float64]] = []
        self.outcomes: list[NDArray[np.bool_]] = []
        self._forecast: dict[str, float] = {}

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        falling: Any = optimizer or self.optimizer
        self.lr_scheduler = LambdaLR(falling, lambda _: max(0.0, 1.0 - self.rollouts / self.budget))
        return self.lr_scheduler

    def _roll_out(self, chosen: list[str]) -> dict[str, Any]:
        online = self.selector.online
        forecast = online.informative(self._generations.group_size, rows=online.rows(chosen))
        self._forecast |= dict(zip(chosen, forecast.tolist(), strict=True))
        outputs = super()._roll_out(chosen)
        self.rollouts += len(chosen) * self._generations.group_size
        self.tokens += int(outputs["completion_mask"].sum())
        return outputs

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
        # Only TRL's default loss is a sum over rollouts, divided by a number that does not depend on who is passed.
        is_sum = self.loss_type == "dapo" and self.beta == 0.0 and not self._entropy_bonus_enabled
        if is_sum and model.training and not self.whole_batches:
            teaches = inputs["advantages"] != 0
            teaches[0] = True  # a batch needs a row
            inputs = {
                name: value[teaches] if torch.is_tensor(value) and value.shape[:1] == teaches.shape else value
                for name, value in inputs.items()
            }
        return super()._compute_loss(model, inputs)

    def _learn(self, trained: Collection[str]) -> Observation | None:
        observation = super()._learn(trained)
        assert observation is not None
        self.forecasts.append(np.array([self._forecast[prompt_id] for prompt_id in observation.prompt_ids]))
        self.outcomes.append(observation.informative)
        self._forecast = {}
        return observation


class BudgetCallback(TrainerCallback):
    """Measures the policy at the start and at even shares of the budget, and ends the run when the budget is spent.

    Attributes:
        seconds: time spent on measuring.
    """

    def __init__(
        self,
        trainer: RaceTrainer,
        evaluations: int,
        measure: Callable[[], None],
        progress: Callable[[int], None] | None,
    ) -> None:
        self.trainer, self.evaluations, self.measure, self.progress = trainer, evaluations, measure, progress
        self.measured = 0
        self.seconds = 0.0

    def _measure(self) -> None:
        started = time.perf_counter()
        with torch.no_grad():
            self.measure()
        self.seconds += time.perf_counter() - started

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._measure()
        self.measured = 1

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        spent = self.trainer.rollouts
        if self.progress is not None:
            self.progress(min(spent, self.trainer.budget))
        if spent >= self.trainer.budget:
            control.should_training_stop = True
        due = min(spent * self.evaluations // self.trainer.budget, self.evaluations)
        if due >= self.measured:
            self._measure()
            self.measured = due + 1
