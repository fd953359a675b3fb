"""Choose the prompts of each generation of a TRL trainer, and learn from their rewards."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from numpy.typing import NDArray
from trl import GRPOTrainer

from promptdyn.errors import InputError
from promptdyn.selection import Observation, Selector, Session
from promptdyn.success import Rewards, spread
from promptdyn.training.dataset import fetch
from promptdyn.training.dynamic_sampling import DynamicSampling
from promptdyn.training.loading import unique_names
from promptdyn.training.trl.batch import Batch, batch_advantages, gather_rollouts
from promptdyn.training.trl.generations import Generations

__all__ = ["ChoosingMixin"]

if TYPE_CHECKING:
    Trainer = GRPOTrainer  # RLOOTrainer has the same methods
else:
    Trainer = object


class ChoosingMixin(Trainer):
    """The part of `SelectionMixin` that runs while training does: choose, roll out, learn; with dynamic sampling too.

    Only the main process uses the session; the others receive its choice.

    Attributes:
        selector: the selector.
        session: the session between trainer and selector; used on the main process only.
        dynamic_sampling: settings of dynamic sampling, or None.
    """

    selector: Selector
    session: Session
    dynamic_sampling: DynamicSampling | None
    _generations_to_come: int  # most further generations in this optimizer step

    def _start_choosing(self, prompt_ids: Sequence[str], generations: Generations) -> None:
        """Set what the methods below use, once TRL's trainer is made.

        Args:
            prompt_ids: (row,) ids of the rows of `train_dataset`.
            generations: the size of the generations.
        """
        self._generations = generations
        # The number of prompts in a generation is a multiple of this, so that each process has as many rollouts.
        processes = self.accelerator.num_processes
        self._multiple = processes // math.gcd(processes, generations.group_size)
        self._rows = self._remove_unused_columns(self.train_dataset, description="selection")
        self._row_of = {prompt_id: row for row, prompt_id in enumerate(prompt_ids)}
        self._rolling: list[str] | None = None  # prompts of the generation in progress
        self._graded: Rewards | None = None  # rewards of the last generation
        self._begin_step()

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        policy: Any = self.model
        if not policy.training:
            return super()._generate_and_score_completions(inputs)

        if self.dynamic_sampling is not None:
            return self._sample_dynamically(self.dynamic_sampling)
        chosen = self._choose(self._generations.num_prompts)
        outputs = self._roll_out(chosen)
        self._learn(chosen)
        return outputs

    def _choose(self, k: int, enough: float | None = None, leave: int | None = None) -> list[str]:
        """Choose the prompts of the next generation: ids, the same on every process.

        Args:
            k: number of prompts.
            enough: see `Selector.select`.
            leave: number of prompts to leave for later generations of this optimizer step; fewer than k, or none, may
                be chosen then. Default: k are chosen.
        """

        def choose() -> list[str]:
            self.session.begin(self.state.global_step)
            size = k
            if leave is not None:
                size = min(k, self.session.num_available - leave) // self._multiple * self._multiple
            return self.session.take(size, enough, self._multiple) if size > 0 or leave is None else []

        with self._selecting():
            return self._from_main_process(choose)

    def _roll_out(self, chosen: list[str]) -> dict[str, Any]:
        """Let TRL generate for some prompts; returns this process's share of the tensors."""
        with self._selecting():
            # The order of TRL's sampler: group after group, cut into one contiguous share per process.
            flat = [self._row_of[prompt_id] for prompt_id in chosen for _ in range(self._generations.group_size)]
            inputs = fetch(self._rows, flat[self._share(len(flat))])
        self._rolling = chosen
        try:
            return super()._generate_and_score_completions(inputs)
        finally:
            self._rolling = None

    def _share(self, num_rollouts: int) -> slice:
        size = num_rollouts // self.accelerator.num_processes
        return slice(self.accelerator.process_index * size, (self.accelerator.process_index + 1) * size)

    def _calculate_rewards(self, *positional: Any, **named: Any) -> torch.Tensor:
        # Only here does TRL hold the rewards of every process: (rollout, reward_func), NaN for None.
        rewards: torch.Tensor = super()._calculate_rewards(*positional, **named)
        if self._rolling is not None:  # an evaluation has no generation in progress
            weights = self.reward_weights.double().cpu().numpy()
            self._graded = Rewards(tuple(self._functions), weights, rewards.double().cpu().numpy())
            if self.accelerator.is_main_process:
                with self._selecting():
                    self._end(self._rolling, self._graded)
        return rewards

    def _end(self, chosen: list[str], graded: Rewards) -> None:
        """Hand the groups of a generation to the session as not trained; `_learn` tells which are trained on."""
        self.session.weights = graded.weights.tolist()
        groups = {name: graded.column(name).reshape(len(chosen), -1) for name in graded.functions}
        for i, prompt_id in enumerate(chosen):
            self.session.end(prompt_id, {name: rows[i] for name, rows in groups.items()}, trained=False)

    def _learn(self, trained: Collection[str]) -> Observation | None:
        """Let the selector learn from the graded groups; returns the observation on the main process, else None."""
        self._generations_to_come = max(self._generations_to_come - 1, 0)
        if not self.accelerator.is_main_process:
            return None
        with self._selecting():
            observation = self.session.step(trained)
            for name, value in self.session.metrics().items():
                self._metrics["train"][name].append(value)
        return observation

    def _sample_dynamically(self, rule: DynamicSampling) -> dict[str, Any]:
        """Generate until the batch is full of groups that teach, or `max_rounds` times."""
        size, pad_token_id = self._generations.num_prompts, self._tokenizer.pad_token_id
        batch = Batch(size, self._generations.group_size, pad_token_id)
        by_success, counts_tokens = False, False
        while batch.missing and batch.rounds < rule.max_rounds:
            # Later generations of this optimizer step need prompts of their own.
            leave = size * self._generations_to_come
            chosen = self._choose(size, enough=batch.missing if batch.rounds else None, leave=leave)
            if not chosen:
                break
            outputs = self._roll_out(chosen)
            counts_tokens = "num_items_in_batch" in outputs
            rollouts = gather_rollouts(outputs, self.accelerator, pad_token_id)
            folded = self._folded
            rollouts["rewards"] = torch.as_tensor(folded, dtype=torch.float32, device=rollouts["advantages"].device)
            varies = (spread(folded.reshape(len(chosen), -1)) > 0).tolist()
            mixed = self._from_main_process(self.session.mixed) if rule.keep == "success" else None
            by_success = mixed is not None
            batch.add(chosen, rollouts, varies if mixed is None else [mixed[i] for i in chosen], varies)

        if batch.missing and rule.at_cap == "raise":
            raise InputError(
                f"step {self.state.global_step}: {size - batch.missing} of {size} groups "
                f"{'have mixed outcomes' if by_success else 'vary in their reward'} after {batch.rounds} rounds of "
                "dynamic sampling: raise max_rounds, or set at_cap='train'"
            )
        tensors, trained = batch.joined(rule.at_cap)
        self._learn(trained)
        measures = {"rounds": batch.rounds, "groups": batch.num_rolled_out, "full": 1 - batch.missing / size}
        for name, value in measures.items():
            self._metrics["train"][f"selection/{name}"].append(float(value))
        return self._process_share(tensors, counts_tokens)

    def _process_share(self, tensors: dict[str, torch.Tensor], counts_tokens: bool) -> dict[str, Any]:
        """Return this process's share of a batch, in the form of TRL's own generation."""
        rewards = tensors.pop("rewards").view(-1, self._generations.group_size)
        if getattr(self, "scale_rewards", None) == "batch":  # RLOO does not scale them
            tensors["advantages"] = batch_advantages(rewards)
        share = self._share(len(tensors["advantages"]))
        outputs: dict[str, Any] = {name: value[share] for name, value in tensors.items()}
        if counts_tokens:
            tokens = outputs["completion_mask"] * outputs.get("tool_mask", 1)
            outputs["num_items_in_batch"] = self.accelerator.gather(tokens.sum()).sum()
        return outputs

    @property
    def _folded(self) -> NDArray[np.float64]:
        """(rollout,) folded rewards of the last generation, as the loss uses them."""
        assert self._graded is not None
        return self._graded.folded

    @property
    def _functions(self) -> list[str]:
        """TRL's names of the reward functions; a name that repeats gets a number."""
        return unique_names(self.reward_func_names)

    def _from_main_process(self, compute: Callable[[], Any]) -> Any:
        """Compute something on the main process, and return it on every process."""
        answer = [compute() if self.accelerator.is_main_process else None]
        return broadcast_object_list(answer)[0]

    @contextmanager
    def _selecting(self) -> Iterator[None]:
        """Add the time of the block to that of selection."""
        started = time.perf_counter()
        yield
        self._selection_time += time.perf_counter() - started

    def training_step(self, *positional: Any, **named: Any) -> torch.Tensor:
        started = time.perf_counter()
        loss = super().training_step(*positional, **named)
        self._step_time += time.perf_counter() - started
        if self.accelerator.sync_gradients:
            self._metrics["train"]["selection/time_s"].append(self._selection_time)
            self._metrics["train"]["selection/overhead"].append(self._selection_time / self._step_time)
            self._begin_step()
        return loss

    def _begin_step(self) -> None:
        self._selection_time = self._step_time = 0.0
        self._generations_to_come = self._generations.per_step - 1
