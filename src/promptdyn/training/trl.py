"""TRL's trainers, with the prompts of every generation chosen by a `Selector`.

A GRPO script changes in two lines, the import and the trainer's class:

    from promptdyn.training.trl import SelectionGRPOTrainer

    trainer = SelectionGRPOTrainer(model, reward_funcs, args=GRPOConfig(..., max_steps=500), train_dataset=dataset)
    trainer.train()

The choice is bound late: a generation asks the selector for its prompts at the moment it starts, so it knows
the rewards of the generation just before. A sampler could not do that, because dataloaders read ahead. TRL's own
sampler and dataloader stay as the clock of when to generate; the rows that they bring are replaced.

The main process alone asks and teaches its `Session`; the others receive the choice. The rest (generation, vLLM,
losses, evaluation, checkpoints) is TRL's, untouched.
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
from promptdyn.features import PolicyReader
from promptdyn.prompts import AUTO, POLICY, Prompts
from promptdyn.selection import HistoryRecorder, Observation, Selector, Session
from promptdyn.selection.files import model_of
from promptdyn.success import Rewards, Success, spread
from promptdyn.training.checkpoints import checkpoint_to_resume, is_checkpoint, last_checkpoint, locked
from promptdyn.training.dynamic_sampling import Batch, DynamicSampling, batch_advantages, gather_rollouts
from promptdyn.training.generations import Generations, check_joins, with_steps
from promptdyn.training.interrupts import terminable
from promptdyn.training.pool import distinct, prompt_ids, prompts
from promptdyn.training.recipes import Plan, Recipe, selector_recipe

__all__ = ["HISTORY_FILE", "SelectionGRPOTrainer", "SelectionMixin", "SelectionRLOOTrainer", "prompt_ids", "prompts"]

SELECTOR_FILE = "selector.npz"
FEATURES_FILE = "features.npz"
HISTORY_FILE = "history.parquet"
# What TRL's trainers have and do not promise to keep: all that is used here of theirs.
RELIED_ON = (
    "_buffered_inputs",  # the rollouts that a trainer reuses
    "_calculate_rewards",
    "_generate_and_score_completions",
    "_load_optimizer_and_scheduler",  # of transformers, as the next
    "_remove_unused_columns",
    "_metrics",
    "_pending_extra_logs",
    "_pending_metrics",
    "_step",  # the clock of generations
    "_tokenizer",
    "reward_func_names",
    "reward_weights",
)

logger = logging.getLogger(__name__)
logger.addFilter(lambda _: os.environ.get("RANK", "0") == "0")  # one process speaks for all

if TYPE_CHECKING:
    from peft import PeftModel

    from promptdyn.training.loading import RewardFunction

    Reward = str | PreTrainedModel | RewardFunction
    Trainer = GRPOTrainer  # for what RLOOTrainer has as well
else:
    Trainer = object


class SelectionMixin(Trainer):
    """Lets a selector choose the prompts of a trainer of TRL's that rolls out groups, generation by generation.

    Stands before the trainer's class, as in `class SelectionGRPOTrainer(SelectionMixin, GRPOTrainer)`. Takes every
    argument of that trainer, and:

    Args:
        args: as TRL's. Where `max_steps` is not set, it becomes what `num_train_epochs` make, said in a line.
        selector: chooses the prompts and learns from their rewards: "auto" (default), another of
            `promptdyn.training.recipes.SELECTORS`, a model as in "hmm:cluster=task", a `Recipe`, or a `Selector`, whose
            pool must be `prompts(train_dataset)`, its `num_generations` that of `args`. A line is logged that says
            what "auto" goes by.
        success: what a success is, see `promptdyn.success`: a number (threshold on the reward folded by
            `args.reward_weights`), the name of a reward function, "correct>=0.8", a function of the rewards by name, or
            "auto". Default: what the recipe says ("auto"); a `Selector` has its own.
        dynamic_sampling: replaces groups that teach nothing by groups of further prompts, in further generations:
            True, or a `DynamicSampling` with other settings than the default ones; False for none. All that is rolled
            out is observed and recorded, what is left out of the batch as not trained. Default: what the recipe says,
            and none where there is no recipe.
        history_path: Parquet file that receives one row per group: (step, prompt, n, k, trained). Default
            `history.parquet` in `args.output_dir`. A file of an earlier run is set aside, not overwritten.
        id_column: the dataset's column of prompt ids. Default "prompt_id".
        label_columns: dataset columns recorded as label columns of the history. Default: label columns by their
            names, such as "task" and "difficulty".

    The step of a row is the optimizer step at which its generation took place. Where one optimizer step holds
    several generations (`steps_per_generation * num_iterations` below `gradient_accumulation_steps`), they choose
    different prompts, so that (prompt, step) is unique in the history.

    Checkpoints also hold the selector. A run resumed from one continues as if it had not stopped, provided the
    checkpoint lies between two generations: TRL does not save rollouts that it is in the middle of reusing. From
    there a resumed run generates afresh, knowing what was observed so far. The dataset may have changed meanwhile: its
    order is no matter, prompts that are new join the pool, those that are gone are not chosen any more; a line says so.

    Where the choice goes by the policy's reading of the prompts, the start policy reads them once, in one forward pass
    on every process, and `features.npz` in `args.output_dir` keeps what it read.

    Logged: everything of `session.metrics()`; per optimizer step `selection/time_s` (seconds to
    choose, fetch rows, learn and record) and `selection/overhead` (their share of the step's time); with dynamic
    sampling `selection/rounds`, `selection/groups` (rolled out for a batch), `selection/full` (the batch's share that
    is such as `keep` says).

    Attributes:
        selector: chooses the prompts.
        session: what goes between the trainer and it; used on the main process alone.
        dynamic_sampling: its settings, or None.

    Raises:
        InputError: no `args`; a version of TRL that lacks what this relies on; training data that cannot be indexed,
            with an id empty or of two rows that differ, or with fewer prompts than an optimizer step takes; a selector
            made for other prompts or another group size; a recipe that cannot be followed; a `success` that is no rule,
            or names no reward function of the run; a label column that is absent; when resuming, a checkpoint of
            another pool or model.
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
        # All is checked before TRL loads a model, which may take minutes.
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

        own: Any = super().__init__
        if positional:
            own(model, reward_funcs, args, train_dataset, *positional, **named)
        else:  # by name, since some trainers of TRL's take them no other way
            own(model, reward_funcs, args=args, train_dataset=train_dataset, **named)
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
        # Prompts that a generation can have, so that its rollouts are shared out evenly.
        processes = self.accelerator.num_processes
        self._multiple = processes // math.gcd(processes, generations.group_size)
        self._generations_to_come = generations.per_step - 1  # in this optimizer step, at most
        self._rows = self._remove_unused_columns(self.train_dataset, description="selection")
        self._row_of = {prompt_id: row for row, prompt_id in enumerate(pool.ids)}
        self._rolling: list[str] | None = None  # prompts of the generation under way
        self._graded: Rewards | None = None  # of the last generation
        self._selection_time = self._step_time = 0.0

    def _read(self, pool: Prompts, refresh_every: int) -> Prompts:
        """The pool with the policy's reading of it; a callback reads it anew where that is asked for."""
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
            self.add_callback(_Refreshing(self, read, refresh_every))
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
        """Ids of the next generation's prompts, the same on every process.

        Args:
            k: how many prompts.
            enough: as that of `Selector.select`.
            leave: prompts that must be left for later generations of this optimizer step; there may be fewer than k
                then, or none. Default: k are chosen.
        """

        def take() -> list[str]:
            self.session.begin(self.state.global_step)
            size = k
            if leave is not None:
                size = min(k, self.session.num_available - leave) // self._multiple * self._multiple
            return self.session.take(size, enough, self._multiple) if size > 0 or leave is None else []

        with self._selecting():
            return self._of_main(take)

    def _roll_out(self, chosen: list[str]) -> dict[str, Any]:
        """TRL's generation for some prompts: this process's share of it."""
        with self._selecting():
            # The same flat order as TRL's sampler: groups in a row, cut into one contiguous share per process.
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
        # The one place where TRL holds the rewards of every process: (rollout reward_func), NaN for None.
        rewards: torch.Tensor = super()._calculate_rewards(*positional, **named)
        if self._rolling is not None:  # not of an evaluation
            weights = self.reward_weights.double().cpu().numpy()
            self._graded = Rewards(tuple(self._functions), weights, rewards.double().cpu().numpy())
            if self.accelerator.is_main_process:
                with self._selecting():
                    self._end(self._rolling, self._graded)
        return rewards

    def _end(self, chosen: list[str], graded: Rewards) -> None:
        """Tell the session of a generation's groups; none is trained on until `_learn` says so."""
        self.session.weights = graded.weights.tolist()
        groups = {name: graded.of(name).reshape(len(chosen), -1) for name in graded.functions}
        for i, prompt_id in enumerate(chosen):
            self.session.end(prompt_id, {name: rows[i] for name, rows in groups.items()}, trained=False)

    def _learn(self, trained: Collection[str]) -> Observation | None:
        """Teach the selector what the groups that were graded show; gives what it made of them, on the main process."""
        self._generations_to_come = max(self._generations_to_come - 1, 0)
        if not self.accelerator.is_main_process:
            return None
        with self._selecting():
            seen = self.session.step(trained)
            for name, value in self.session.metrics().items():
                self._metrics["train"][name].append(value)
        return seen

    def _sample_dynamically(self, rule: DynamicSampling) -> dict[str, Any]:
        """Roll out until a batch is full of groups that teach, or for as many rounds as there may be."""
        size, pad_token_id = self._generations.num_prompts, self._tokenizer.pad_token_id
        batch = Batch(size, self._generations.group_size, pad_token_id)
        by_success, counts_tokens = False, False
        while batch.missing and batch.rounds < rule.max_rounds:
            # Prompts that later generations of this optimizer step need stay there for them.
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
            mixed = self._of_main(self.session.mixed) if rule.keep == "success" else None
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
        return self._own(tensors, counts_tokens)

    def _own(self, tensors: dict[str, torch.Tensor], counts_tokens: bool) -> dict[str, Any]:
        """This process's share of a batch, as TRL's own generation would give it."""
        rewards = tensors.pop("rewards").view(-1, self._generations.group_size)
        if getattr(self, "scale_rewards", None) == "batch":  # RLOO does not scale them
            tensors["advantages"] = batch_advantages(rewards)
        share = self._share(len(tensors["advantages"]))
        own: dict[str, Any] = {name: value[share] for name, value in tensors.items()}
        if counts_tokens:
            tokens = own["completion_mask"] * own.get("tool_mask", 1)
            own["num_items_in_batch"] = self.accelerator.gather(tokens.sum()).sum()
        return own

    @property
    def _folded(self) -> NDArray[np.float64]:
        """(rollout,) rewards of the last generation as the loss goes by them."""
        assert self._graded is not None
        return self._graded.folded

    @property
    def _functions(self) -> list[str]:
        """Names of the reward functions as TRL has them; what repeats gets a number."""
        names: list[str] = []
        for name in self.reward_func_names:
            names.append(name if name not in names else f"{name}_{len(names)}")
        return names

    def _of_main(self, ask: Callable[[], Any]) -> Any:
        """What the main process answers, on every process."""
        answer = [ask() if self.accelerator.is_main_process else None]
        return broadcast_object_list(answer)[0]

    @contextmanager
    def _selecting(self) -> Iterator[None]:
        """Count the time as that of selection."""
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
        """As TRL's. `resume_from_checkpoint=True` takes the newest whole checkpoint of `args.output_dir`.

        Default: what `args.resume_from_checkpoint` says.

        Where training is stopped (Ctrl-C, SIGTERM, a reward function that fails), all that was rolled out and graded is
        in the history, what no step was trained on as not trained. It can then be called again: an aborted step leaves
        nothing but what the model, its optimizer and the selector have learned.

        Raises:
            InputError: no checkpoint to resume from, one that is not whole, or of `max_steps` or more, or another run
                that is training into the folder.
        """
        output = Path(str(self.args.output_dir))
        asked = self.args.resume_from_checkpoint if resume_from_checkpoint is None else resume_from_checkpoint
        checkpoint = checkpoint_to_resume(asked, output, self.args.max_steps)
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
        """Begin between two steps, whatever was under way when training stopped."""
        self._step, self._buffered_inputs = 0, None
        for noted in (self._metrics["train"], self._pending_metrics, self._pending_extra_logs):
            noted.clear()
        self._begin_step()

    def _close_stopped_run(self, error: BaseException) -> None:
        self.is_in_train = False
        if not self.accelerator.is_main_process:
            return
        recorder = self.session.recorder
        assert recorder is not None
        try:
            self.session.close()
        except Exception as failure:  # which must not hide why it stopped
            logger.warning("%s could not be completed: %s", recorder.path, failure)
        if isinstance(error, KeyboardInterrupt):
            last = last_checkpoint(Path(str(self.args.output_dir)))
            logger.warning(
                "stopped in step %d: %s, and %s",
                self.state.global_step,
                f"what was rolled out is in {recorder.path}" if recorder.path.exists() else "no group was graded",
                f"train(resume_from_checkpoint=True) goes on from {last.name}" if last else "no checkpoint is there",
            )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        # TRL calls rewards of several evaluation sets by one name.
        sets: Any = self.eval_dataset if isinstance(self.eval_dataset, dict) else ()
        name = next((name for name in sets if f"eval_{name}_runtime" in logs), None)
        if name is not None:
            self._metrics["eval"] = defaultdict(
                list, {f"{name}_{key}": values for key, values in self._metrics["eval"].items()}
            )
        super().log(logs, start_time)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        super().save_model(output_dir, _internal_call)
        # Before the trainer's state, which comes last and makes a checkpoint whole.
        if output_dir is not None and is_checkpoint(Path(output_dir)) and self.accelerator.is_main_process:
            self.session.save(Path(output_dir, SELECTOR_FILE))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None or not self.accelerator.is_main_process:
            return
        path = Path(checkpoint, SELECTOR_FILE)
        if not path.is_file():
            logger.warning("%s is not there: the selector starts from what it knows now", path)
            return
        if self._plan is not None:
            self._plan.keep_model(self.selector, model_of(path))
        self.session.load(path)


class SelectionGRPOTrainer(SelectionMixin, GRPOTrainer):
    """TRL's `GRPOTrainer`, whose prompts are chosen by a selector; arguments as of `SelectionMixin`."""

    args: GRPOConfig


class SelectionRLOOTrainer(SelectionMixin, RLOOTrainer):  # type: ignore[misc]  # checkers take the mixin for GRPO's
    """TRL's `RLOOTrainer`, whose prompts are chosen by a selector; arguments as of `SelectionMixin`."""

    @property
    def _folded(self) -> NDArray[np.float64]:
        folded = super()._folded
        return folded if self.reward_clip_range is None else folded.clip(*self.reward_clip_range)


class _Refreshing(TrainerCallback):
    """Has the policy read the prompts anew, at the end of a step and before its checkpoint."""

    def __init__(self, trainer: SelectionMixin, read: Callable[[], Prompts], every: int) -> None:
        self.trainer, self.read, self.every = trainer, read, every

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step % self.every == 0:
            pool = self.read()
            if self.trainer.accelerator.is_main_process:
                self.trainer.selector.online.refresh(pool)


def _fetch(dataset: Dataset, rows: list[int]) -> list[dict[str, Any]]:
    """The examples at `rows`, each an object of its own: what repeats is read once and copied, which is far cheaper."""
    distinct = list(dict.fromkeys(rows))
    example = dict(zip(distinct, dataset.__getitems__(distinct), strict=True))
    return [
        {
            name: value if isinstance(value, str | int | float) else deepcopy(value)
            for name, value in example[row].items()
        }
        for row in rows
    ]


def _check_trainer(trainer: SelectionMixin) -> None:
    """Raise InputError where TRL has changed what is relied on here."""
    missing = [name for name in RELIED_ON if not hasattr(trainer, name)]
    if missing:
        raise InputError(
            f"selection relies on {', '.join(missing)} of {type(trainer).__name__}, which TRL {trl.__version__} has "
            "not: install the version that promptdyn is made for, pip install 'promptdyn[train]'"
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
        where = "not in the dataset" if example in known else "not in the selector's pool"
        raise InputError(
            f"prompt {example!r} is {where} ({len(known)} prompts in the pool, {len(ids)} in the dataset): "
            "build the selector from prompts(train_dataset)"
        )
