"""TRL's trainers, with the prompts of every generation chosen by a `Selector`.

Two lines of a GRPO script change, the import and the trainer's class:

    from promptdyn.training.trl import SelectionGRPOTrainer

    trainer = SelectionGRPOTrainer(model, reward_funcs, args=GRPOConfig(..., max_steps=500), train_dataset=dataset)
    trainer.train()

A generation asks the selector for its prompts at the moment it starts, so the choice uses the rewards of the generation
just before. A sampler could not do that, because dataloaders read ahead. TRL's own sampler and dataloader stay, and
tell when to generate; the trainer replaces the rows that they bring.

Only the main process uses the `Session`; the others receive its choice. The rest (generation, vLLM, losses, evaluation,
checkpoints) is TRL's, unchanged.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import trl
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from numpy.typing import NDArray
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.trainer_utils import TrainOutput
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from promptdyn.errors import InputError
from promptdyn.prompts import AUTO, POLICY, Prompts
from promptdyn.selection import HistoryRecorder, Observation, Selector, Session
from promptdyn.selection.files import model_of
from promptdyn.success import Rewards, Success, spread
from promptdyn.training.checkpoints import checkpoint_to_resume, is_checkpoint, last_checkpoint, locked
from promptdyn.training.dynamic_sampling import Batch, DynamicSampling, batch_advantages, gather_rollouts
from promptdyn.training.generations import Generations, check_joins, with_steps
from promptdyn.training.interrupts import terminable
from promptdyn.training.pool import distinct, prompt_ids, prompts
from promptdyn.training.reading import PolicyReader
from promptdyn.training.recipes import Plan, Recipe, selector_recipe

__all__ = ["HISTORY_FILE", "SelectionGRPOTrainer", "SelectionMixin", "SelectionRLOOTrainer", "prompt_ids", "prompts"]

SELECTOR_FILE = "selector.npz"
FEATURES_FILE = "features.npz"
HISTORY_FILE = "history.parquet"
# Attributes of TRL's trainers that this module uses and that TRL does not promise to keep.
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

logger = logging.getLogger(__name__)
logger.addFilter(lambda _: os.environ.get("RANK", "0") == "0")  # only one process logs

if TYPE_CHECKING:
    from peft import PeftModel

    from promptdyn.training.loading import RewardFunction

    Reward = str | PreTrainedModel | RewardFunction
    Trainer = GRPOTrainer  # RLOOTrainer has the same methods
else:
    Trainer = object


class SelectionMixin(Trainer):
    """Mix-in that lets a selector choose the prompts of a TRL trainer that rolls out groups.

    It comes before the trainer's class, as in `class SelectionGRPOTrainer(SelectionMixin, GRPOTrainer)`. It takes every
    argument of that trainer, and:

    Args:
        args: TRL's settings. If `max_steps` is not set, it is worked out from `num_train_epochs`, and a line is logged.
        selector: the selector: "auto" (default), another of `promptdyn.training.recipes.SELECTORS`, a model as in
            "hmm:cluster=task", a `Recipe`, or a `Selector` whose pool is `prompts(train_dataset)` and whose
            `num_generations` is that of `args`. A logged line tells how prompts are chosen.
        success: the rule of success, see `promptdyn.success`: a number (threshold on the reward folded by
            `args.reward_weights`), the name of a reward function, "correct>=0.8", a function of the rewards, or "auto".
            Default: the recipe's rule ("auto"). A `Selector` has its own.
        dynamic_sampling: whether further generations replace groups that teach nothing: True, False, or a
            `DynamicSampling` with other settings than the defaults. All groups are observed and recorded; those left
            out of the batch count as not trained. Default: the recipe's setting; False for a `Selector`.
        history_path: Parquet file that receives one row per group (see `RewardHistory`). Default
            `history.parquet` in `args.output_dir`. A file of an earlier run is renamed, not overwritten.
        id_column: the dataset's column of prompt ids. Default "prompt_id".
        label_columns: dataset columns to record as label columns of the history. Default: columns with well-known
            names, such as "task" and "difficulty".

    The step of a row is the optimizer step of its generation. If an optimizer step holds several generations
    (`steps_per_generation * num_iterations` is below `gradient_accumulation_steps`), they choose different prompts, so
    that (prompt, step) is unique in the history.

    Checkpoints also hold the selector. A run that resumes from a checkpoint continues as if it had not stopped, if the
    checkpoint lies between two generations. Otherwise it generates afresh with what was observed so far, because TRL
    does not save rollouts that it is in the middle of reusing. The dataset may have changed meanwhile: the order of its
    rows does not matter, new prompts join the pool, and prompts that are gone are no longer chosen; a line tells this.

    If the forecaster uses the policy's reading of the prompts, the policy at the start reads them once, in one forward
    pass on every process, and `features.npz` in `args.output_dir` keeps the result.

    Logged metrics: those of `session.metrics()`; for each optimizer step `selection/time_s` (seconds to choose, fetch
    rows, learn and record) and `selection/overhead` (share of the step's time); with dynamic sampling
    `selection/rounds`, `selection/groups` (rolled out for a batch) and `selection/full` (share of the batch filled by
    the rule `keep`).

    Attributes:
        selector: the selector.
        session: the session between trainer and selector; used on the main process only.
        dynamic_sampling: settings of dynamic sampling, or None.

    Raises:
        InputError: `args` is missing; TRL's version lacks an attribute that this class uses; the training data cannot
            be indexed, has an empty id or one id for two rows that differ, or has fewer prompts than an optimizer step
            takes; the selector was made for other prompts or another group size; the recipe cannot be followed;
            `success` is not a rule or names no reward function of the run; a label column is absent; a run resumes
            from a checkpoint of another pool or model.
    """

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel,
        reward_funcs: Reward | Sequence[Reward] | None = None,
        args: GRPOConfig | RLOOConfig | None = None,
        train_dataset: Dataset | None = None,
        *positional: Any,
        selector: Selector | Recipe | str = AUTO,
        success: Success | None = None,
        dynamic_sampling: DynamicSampling | bool | None = None,
        history_path: str | Path | None = None,
        id_column: str = "prompt_id",
        label_columns: Sequence[str] | None = None,
        **named: Any,
    ) -> None:
        # Everything is checked before TRL loads a model, which may take minutes.
        if args is None:
            raise InputError(
                "args is not given: pass TRL's GRPOConfig or RLOOConfig, with max_steps or num_train_epochs"
            )
        train_dataset, pool = distinct(train_dataset, id_column)
        args = with_steps(args, len(pool))
        generations = Generations.from_config(args)
        generations.check(len(pool))
        recipe = selector_recipe(selector) if isinstance(selector, str) else selector
        plan: Plan | None = None
        if isinstance(recipe, Selector):
            _check_selector(pool.ids, recipe, generations.group_size, success)
        else:
            recipe = recipe if success is None else replace(recipe, success=success)
            plan = recipe.plan(pool, generations.group_size, args.seed)
            rule = DynamicSampling(recipe.max_rounds, recipe.at_cap, recipe.keep)
            if dynamic_sampling is None and recipe.max_rounds > 1:
                dynamic_sampling = rule
        if isinstance(dynamic_sampling, bool):
            dynamic_sampling = DynamicSampling() if dynamic_sampling else None
        if dynamic_sampling is not None:
            check_joins(train_dataset, args)
        columns = pool.label_columns if label_columns is None else label_columns
        recorder = HistoryRecorder(
            Path(str(args.output_dir), HISTORY_FILE) if history_path is None else history_path,
            {column: dict(zip(pool.ids, pool.labels(column), strict=True)) for column in columns or ()},
        )

        init: Any = super().__init__
        if positional:
            init(model, reward_funcs, args, train_dataset, *positional, **named)
        else:  # by name, because some of TRL's trainers accept only that
            init(model, reward_funcs, args=args, train_dataset=train_dataset, **named)
        _check_trainer(self)
        if isinstance(recipe, Selector):
            self.selector = recipe
        else:
            assert plan is not None
            logger.warning("prompts are chosen %s", plan.choice)
            self.selector = plan.selector(self._read(pool, recipe.refresh_features) if plan.reads_policy else pool)
        self.selector.grader.check(self._functions)
        self.session = Session(self.selector, recorder)
        self.dynamic_sampling = dynamic_sampling
        self._plan = plan
        self._generations = generations
        # The number of prompts in a generation is a multiple of this, so that each process has as many rollouts.
        processes = self.accelerator.num_processes
        self._multiple = processes // math.gcd(processes, generations.group_size)
        self._generations_to_come = generations.per_step - 1  # most further generations in this optimizer step
        self._rows = self._remove_unused_columns(self.train_dataset, description="selection")
        self._row_of = {prompt_id: row for row, prompt_id in enumerate(pool.ids)}
        self._rolling: list[str] | None = None  # prompts of the generation in progress
        self._graded: Rewards | None = None  # rewards of the last generation
        self._selection_time = self._step_time = 0.0

    def _read(self, pool: Prompts, refresh_every: int) -> Prompts:
        """Return the pool with the policy's reading of it; a callback reads it again every `refresh_every` steps."""
        if is_deepspeed_zero3_enabled() or (self.is_fsdp_enabled and refresh_every):
            raise InputError(
                "the policy cannot read prompts while its weights are sharded: let the dataset have label columns "
                "(dynamics='rate:cluster=COLUMN') or features of its own ('features:features=COLUMN')"
            )
        main = self.accelerator.is_main_process
        reader = PolicyReader(
            self.accelerator.unwrap_model(self.model),
            self._tokenizer,
            cache=Path(str(self.args.output_dir), FEATURES_FILE) if main else None,
            progress=None if main else lambda done, total: None,
        )
        dataset: Any = self.train_dataset
        texts = list(dataset.with_format(None)["prompt"])

        def read() -> Prompts:
            return pool.with_column(POLICY, reader.read(texts))

        if refresh_every:
            self.add_callback(_RefreshCallback(self, read, refresh_every))
        return read()

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
            inputs = _fetch(self._rows, flat[self._share(len(flat))])
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
        names: list[str] = []
        for name in self.reward_func_names:
            names.append(name if name not in names else f"{name}_{len(names)}")
        return names

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

    def train(
        self, resume_from_checkpoint: str | Path | bool | None = None, *positional: Any, **named: Any
    ) -> TrainOutput:
        """Train, as TRL does.

        If training is stopped (by Ctrl-C, SIGTERM or a reward function that fails), the history holds every group that
        was graded; groups that no step was trained on count as not trained. `train` can then be called again: all that
        remains of the aborted step is what the model, its optimizer and the selector have learned.

        Args:
            resume_from_checkpoint: a checkpoint's folder, True for the newest complete one in `args.output_dir`, or
                False. Default: `args.resume_from_checkpoint`.
            *positional, **named: further arguments of TRL's `train`.

        Raises:
            InputError: the checkpoint is absent or incomplete, or has `max_steps` or more; or another run trains into
                the folder.
        """
        output = Path(str(self.args.output_dir))
        requested = self.args.resume_from_checkpoint if resume_from_checkpoint is None else resume_from_checkpoint
        checkpoint = checkpoint_to_resume(requested, output, self.args.max_steps)
        self._forget_aborted_step()
        with locked(output) if self.accelerator.is_main_process else nullcontext(), terminable():
            try:
                result = super().train(checkpoint, *positional, **named)
            except BaseException as error:
                self._close_stopped_run(error)
                raise
            if self.accelerator.is_main_process:
                self.session.close()
            return result

    def _forget_aborted_step(self) -> None:
        """Drop what an aborted step left, so that training starts between two steps."""
        self._step, self._buffered_inputs = 0, None
        for entries in (self._metrics["train"], self._pending_metrics, self._pending_extra_logs):
            entries.clear()
        self._begin_step()

    def _close_stopped_run(self, error: BaseException) -> None:
        self.is_in_train = False
        if not self.accelerator.is_main_process:
            return
        recorder = self.session.recorder
        assert recorder is not None
        try:
            self.session.close()
        except Exception as failure:  # must not hide why training stopped
            logger.warning("%s could not be completed: %s", recorder.path, failure)
        if isinstance(error, KeyboardInterrupt):
            last = last_checkpoint(Path(str(self.args.output_dir)))
            logger.warning(
                "stopped in step %d: %s, and %s",
                self.state.global_step,
                f"the graded groups are in {recorder.path}" if recorder.path.exists() else "no group was graded",
                f"train(resume_from_checkpoint=True) goes on from {last.name}" if last else "no checkpoint is there",
            )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        # TRL logs the rewards of all evaluation sets under one name.
        sets: Any = self.eval_dataset if isinstance(self.eval_dataset, dict) else ()
        name = next((name for name in sets if f"eval_{name}_runtime" in logs), None)
        if name is not None:
            self._metrics["eval"] = defaultdict(
                list, {f"{name}_{key}": values for key, values in self._metrics["eval"].items()}
            )
        super().log(logs, start_time)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        super().save_model(output_dir, _internal_call)
        # This comes before the trainer's state, which is written last and makes a checkpoint complete.
        if output_dir is not None and is_checkpoint(Path(output_dir)) and self.accelerator.is_main_process:
            self.session.save(Path(output_dir, SELECTOR_FILE))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None or not self.accelerator.is_main_process:
            return
        path = Path(checkpoint, SELECTOR_FILE)
        if not path.is_file():
            logger.warning("%s does not exist: the selector starts from what it knows now", path)
            return
        if self._plan is not None:
            self._plan.keep_model(self.selector, model_of(path))
        self.session.load(path)


class SelectionGRPOTrainer(SelectionMixin, GRPOTrainer):
    """TRL's `GRPOTrainer` with prompts chosen by a selector. For the arguments see `SelectionMixin`."""

    args: GRPOConfig


class SelectionRLOOTrainer(SelectionMixin, RLOOTrainer):  # type: ignore[misc]  # type checkers see the mix-in as GRPO's
    """TRL's `RLOOTrainer` with prompts chosen by a selector. For the arguments see `SelectionMixin`."""

    @property
    def _folded(self) -> NDArray[np.float64]:
        folded = super()._folded
        return folded if self.reward_clip_range is None else folded.clip(*self.reward_clip_range)


class _RefreshCallback(TrainerCallback):
    """Lets the policy read the prompts again, at the end of a step and before its checkpoint."""

    def __init__(self, trainer: SelectionMixin, read: Callable[[], Prompts], every: int) -> None:
        self.trainer, self.read, self.every = trainer, read, every

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step % self.every == 0:
            pool = self.read()
            if self.trainer.accelerator.is_main_process:
                self.trainer.selector.online.refresh(pool)


def _fetch(dataset: Dataset, rows: list[int]) -> list[dict[str, Any]]:
    """Return the examples at `rows`, each an object of its own. Repeats are read once and copied, which is cheaper."""
    distinct_rows = list(dict.fromkeys(rows))
    example_of = dict(zip(distinct_rows, dataset.__getitems__(distinct_rows), strict=True))
    return [
        {
            name: value if isinstance(value, str | int | float) else deepcopy(value)
            for name, value in example_of[row].items()
        }
        for row in rows
    ]


def _check_trainer(trainer: SelectionMixin) -> None:
    """Raise InputError if TRL's trainer lacks an attribute that this module uses."""
    missing = [name for name in RELIED_ON if not hasattr(trainer, name)]
    if missing:
        raise InputError(
            f"selection relies on {', '.join(missing)} of {type(trainer).__name__}, which TRL {trl.__version__} "
            "lacks: install the version that promptdyn is made for, pip install 'promptdyn[train]'"
        )


def _check_selector(ids: Sequence[str], selector: Selector, group_size: int, success: Success | None) -> None:
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
