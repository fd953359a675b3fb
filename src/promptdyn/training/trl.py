"""TRL's GRPOTrainer, with the prompts of every generation chosen by a `Selector`.

A GRPO script changes in two lines, the import and the trainer's class:

    from promptdyn.training.trl import SelectionGRPOTrainer

    trainer = SelectionGRPOTrainer(model, reward_funcs, args=GRPOConfig(..., max_steps=500), train_dataset=dataset)
    trainer.train()

The choice is bound late: a generation asks the selector for its prompts at the moment it starts, so it knows
the rewards of the generation just before. A sampler could not do that, because dataloaders read ahead. TRL's own
sampler and dataloader stay as the clock of when to generate; the rows that they bring are replaced.

The main process alone asks and teaches its selector; the others receive the choice. The rest of GRPO (generation,
vLLM, losses, evaluation, checkpoints) is TRL's, untouched.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from copy import copy, deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from numpy.typing import NDArray
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import is_deepspeed_zero3_enabled
from trl import GRPOConfig, GRPOTrainer

from promptdyn.errors import InputError
from promptdyn.features import PolicyReader
from promptdyn.prompts import AUTO, POLICY, Prompts
from promptdyn.selection import Observation, Selector
from promptdyn.selection.selector import model_of
from promptdyn.success import Rewards, Success, spread
from promptdyn.training.checkpoints import is_checkpoint, last_checkpoint, locked, steps_done
from promptdyn.training.dynamic_sampling import DynamicSampling, batch_advantages, gathered, join, take
from promptdyn.training.interrupts import terminable
from promptdyn.training.pool import distinct, prompt_ids, prompts
from promptdyn.training.recipes import Recipe, selector_recipe
from promptdyn.training.recording import HistoryRecorder

__all__ = ["HISTORY_FILE", "SelectionGRPOTrainer", "prompt_ids", "prompts"]

SELECTOR_FILE = "selector.npz"
FEATURES_FILE = "features.npz"
HISTORY_FILE = "history.parquet"

logger = logging.getLogger(__name__)
logger.addFilter(lambda _: os.environ.get("RANK", "0") == "0")  # one process speaks for all


class SelectionGRPOTrainer(GRPOTrainer):
    """A GRPOTrainer whose prompts are chosen by a selector, generation by generation.

    Takes every argument of `trl.GRPOTrainer`, and:

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
        cluster_columns: dataset columns recorded as cluster columns of the history. Default: label columns by their
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

    Logged: `selection/...` with everything of `selector.metrics()`; per optimizer step `selection/time_s` (seconds to
    choose, fetch rows, learn and record) and `selection/overhead` (their share of the step's time); with dynamic
    sampling `selection/rounds`, `selection/groups` (rolled out for a batch), `selection/full` (the batch's share that
    is such as `keep` says).

    Raises:
        InputError: no `args`; training data that cannot be indexed, with an id empty or of two rows that differ, or
            with fewer prompts than an optimizer step takes; a selector made for other prompts or another group size; a
            recipe that cannot be followed; a `success` that is no rule, or names no reward function of the run; a
            cluster column that is absent; when resuming, a checkpoint of another pool or model.
    """

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: GRPOConfig | None = None,
        train_dataset: Any = None,
        *positional: Any,
        selector: Selector | Recipe | str = AUTO,
        success: Success | None = None,
        dynamic_sampling: DynamicSampling | bool | None = None,
        history_path: str | Path | None = None,
        id_column: str = "prompt_id",
        cluster_columns: Sequence[str] | None = None,
        **named: Any,
    ) -> None:
        # All is checked before TRL loads a model, which may take minutes.
        if args is None:
            raise InputError("args is not given: pass a GRPOConfig, with max_steps or num_train_epochs")
        train_dataset, pool = distinct(train_dataset, id_column)
        args = _with_steps(args, len(pool))
        _check_size(len(pool), args)
        recipe = selector_recipe(selector) if isinstance(selector, str) else selector
        if isinstance(recipe, Selector):
            _check_selector(pool.ids, recipe, args, success)
        else:
            recipe = recipe if success is None else replace(recipe, success=success)
            plan = recipe.plan(pool, _generation_shape(args)[1], args.seed)
            rule = DynamicSampling(recipe.max_rounds, cast(Any, recipe.at_cap), cast(Any, recipe.keep))
            if dynamic_sampling is None and recipe.max_rounds > 1:
                dynamic_sampling = rule
        if isinstance(dynamic_sampling, bool):
            dynamic_sampling = DynamicSampling() if dynamic_sampling else None
        if dynamic_sampling is not None:
            _check_joins(train_dataset, args)
        columns = pool.label_columns if cluster_columns is None else cluster_columns
        recorder = HistoryRecorder(
            Path(str(args.output_dir), HISTORY_FILE) if history_path is None else history_path,
            {column: dict(zip(pool.ids, pool.labels(column), strict=True)) for column in columns or ()},
        )

        super().__init__(model, reward_funcs, args, train_dataset, *positional, **named)
        if isinstance(recipe, Selector):
            self.selector, self._like = recipe, None
        else:
            logger.warning("prompts are chosen %s", plan.choice)
            self.selector = plan.selector(self._read(pool, recipe.refresh_features) if plan.reads_policy else pool)
            self._like = plan.like
        self.selector.grader.check(self._functions)
        self.dynamic_sampling = dynamic_sampling
        self._num_chosen, self._group_size = _generation_shape(args)
        # Prompts that a generation can have, so that its rollouts are shared out evenly.
        self._multiple = self.accelerator.num_processes // math.gcd(self.accelerator.num_processes, self._group_size)
        self._generations = _generations(args)
        self._generations_to_come = self._generations - 1  # in this optimizer step, at most
        self._rows = self._remove_unused_columns(self.train_dataset, description="selection")
        self._row_of = {prompt_id: row for row, prompt_id in enumerate(pool.ids)}
        self._chosen: list[str] = []  # by the generations of the current optimizer step
        self._gone: list[str] = []  # prompts of a checkpoint that the dataset has no more
        self._rolling: list[str] | None = None  # those of the generation under way
        self._graded: list[tuple[list[str], torch.Tensor]] = []  # generations, and rewards, of which none has learned
        self._selection_time = self._step_time = 0.0
        self._recorder = recorder
        if self.accelerator.is_main_process:
            self.add_callback(_Recording(recorder))

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
        chosen = self._choose(self._num_chosen)
        outputs = self._roll_out(chosen)
        self._learn([True] * len(chosen))
        return outputs

    def _roll_out(self, chosen: list[str]) -> dict[str, Any]:
        """TRL's generation for some prompts: this process's share of it."""
        started = time.perf_counter()
        # The same flat order as TRL's sampler: groups in a row, cut into one contiguous share per process.
        flat = [self._row_of[prompt_id] for prompt_id in chosen for _ in range(self._group_size)]
        inputs = _fetch(self._rows, flat[self._share(len(flat))])
        self._selection_time += time.perf_counter() - started
        self._rolling = chosen
        try:
            return super()._generate_and_score_completions(inputs)
        finally:
            self._rolling = None

    def _share(self, num_rollouts: int) -> slice:
        size = num_rollouts // self.accelerator.num_processes
        return slice(self.accelerator.process_index * size, (self.accelerator.process_index + 1) * size)

    def _choose(self, k: int, enough: float | None = None) -> list[str]:
        """Ids of the next generation's prompts, the same on every process."""
        started = time.perf_counter()
        choice: list[Any] = [None]
        if self.accelerator.is_main_process:
            choice = [
                self.selector.select(k, exclude=[*self._chosen, *self._gone], enough=enough, multiple_of=self._multiple)
            ]
        chosen = broadcast_object_list(choice)[0]
        self._chosen += chosen
        self._selection_time += time.perf_counter() - started
        return chosen

    def _sample_dynamically(self, rule: DynamicSampling) -> dict[str, Any]:
        """Roll out until a batch is full of groups that teach, or for as many rounds as there may be."""
        size, group_size, pad = self._num_chosen, self._group_size, self._tokenizer.pad_token_id
        chosen: list[str] = []
        kept: list[int] = []  # places in `chosen`
        parts: list[dict[str, torch.Tensor]] = []
        rounds = 0
        while len(kept) < size and rounds < rule.max_rounds:
            missing = size - len(kept)
            # Prompts that later generations of this optimizer step need stay there for them.
            left = len(self._row_of) - len(self._chosen) - self._num_chosen * self._generations_to_come
            k = min(size, left) // self._multiple * self._multiple
            if k == 0:
                break
            ids = self._choose(k, enough=missing if rounds else None)
            whole = gathered(self._roll_out(ids), self.accelerator, pad)
            folded = self._rewards(self._graded[-1][1]).folded
            whole["rewards"] = torch.as_tensor(folded, dtype=torch.float32, device=whole["advantages"].device)
            varies = (spread(folded.reshape(len(ids), -1)) > 0).tolist()
            mixed = self._mixed() if rule.keep == "success" else None
            good = varies if mixed is None else mixed[len(chosen) :]
            here = [i for i, keep in enumerate(good) if keep][:missing]
            if not rounds:  # as large as the batch, so it has what may be needed to fill it
                others = sorted((i for i, keep in enumerate(good) if not keep), key=lambda i: not varies[i])
                filling = take(whole, others, group_size)
            parts.append(take(whole, here, group_size))
            kept += [len(chosen) + i for i in here]
            chosen += ids
            rounds += 1

        missing = size - len(kept)
        if missing and rule.at_cap == "raise":
            what = "vary in their reward" if mixed is None else "have mixed outcomes"
            raise InputError(
                f"step {self.state.global_step}: {len(kept)} of {size} groups {what} after {rounds} rounds of dynamic "
                "sampling: raise max_rounds, or set at_cap='train'"
            )
        trained = set(kept)
        if missing:
            filling = take(filling, list(range(missing)), group_size)
            if rule.at_cap == "drop":
                filling["completion_mask"] = torch.zeros_like(filling["completion_mask"])
            else:
                trained.update(others[:missing])
            parts.append(filling)
        batch = join(parts, pad)
        merged = batch.pop("rewards").view(-1, group_size)
        if self.scale_rewards == "batch":
            batch["advantages"] = batch_advantages(merged)
        self._learn([i in trained for i in range(len(chosen))])
        measures = {"rounds": rounds, "groups": len(chosen), "full": len(kept) / size}
        for name, value in measures.items():
            self._metrics["train"][f"selection/{name}"].append(float(value))
        share = self._share(len(batch["advantages"]))
        mine: dict[str, Any] = {name: value[share] for name, value in batch.items()}
        tokens = mine["completion_mask"] * mine.get("tool_mask", 1)
        mine["num_items_in_batch"] = self.accelerator.gather(tokens.sum()).sum()
        return mine

    def _calculate_rewards(self, *positional: Any, **named: Any) -> torch.Tensor:
        # The one place where TRL holds the rewards of every process: (rollout reward_func), NaN for None.
        rewards: torch.Tensor = super()._calculate_rewards(*positional, **named)
        if self._rolling is not None:  # not of an evaluation
            self._graded.append((self._rolling, rewards))
        return rewards

    def _mixed(self) -> list[bool] | None:
        """(group,) which of the groups that were graded, and not learned of, have successes and failures; None while
        that is not told. The same on every process.
        """
        flags: list[Any] = [None]
        if self.accelerator.is_main_process:
            chosen = [prompt_id for ids, _ in self._graded for prompt_id in ids]
            given = self._rewards(torch.cat([rewards for _, rewards in self._graded]))
            mixed = self.selector.mixed(chosen, self._by_function(given, len(chosen)), given.weights.tolist())
            flags = [None if mixed is None else mixed.tolist()]
        return broadcast_object_list(flags)[0]

    def _rewards(self, per_func: torch.Tensor) -> Rewards:
        weights = self.reward_weights.double().cpu().numpy()
        return Rewards(tuple(self._functions), weights, per_func.double().cpu().numpy())

    @staticmethod
    def _by_function(given: Rewards, num_groups: int) -> dict[str, NDArray[np.float64]]:
        """(group, rollout) rewards of each function."""
        return {name: given.of(name).reshape(num_groups, -1) for name in given.functions}

    @property
    def _functions(self) -> list[str]:
        """Names of the reward functions as TRL has them; what repeats gets a number."""
        names: list[str] = []
        for name in self.reward_func_names:
            names.append(name if name not in names else f"{name}_{len(names)}")
        return names

    def _learn(self, trained: list[bool]) -> None:
        """Teach the selector what the rewards of the groups that were graded show, and record it."""
        self._generations_to_come = max(self._generations_to_come - 1, 0)
        graded, self._graded = self._graded, []
        if not self.accelerator.is_main_process:
            return
        started = time.perf_counter()
        chosen = [prompt_id for ids, _ in graded for prompt_id in ids]
        seen = self._observe(chosen, torch.cat([rewards for _, rewards in graded]), trained)
        self._recorder.success, self._recorder.pool_size = self.selector.success, self.selector.num_prompts
        self._recorder.record(seen)
        for name, value in self.selector.metrics().items():
            self._metrics["train"][f"selection/{name}"].append(value)
        self._selection_time += time.perf_counter() - started

    def _observe(self, chosen: list[str], per_func: torch.Tensor, trained: list[bool]) -> Observation:
        given = self._rewards(per_func)
        return self.selector.observe(
            chosen,
            self._by_function(given, len(chosen)),
            trained,
            weights=given.weights.tolist(),
            step=self.state.global_step,
        )

    def training_step(self, *positional: Any, **named: Any) -> torch.Tensor:
        started = time.perf_counter()
        loss = super().training_step(*positional, **named)
        self._step_time += time.perf_counter() - started
        if self.accelerator.sync_gradients:
            self._metrics["train"]["selection/time_s"].append(self._selection_time)
            self._metrics["train"]["selection/overhead"].append(self._selection_time / self._step_time)
            self._selection_time = self._step_time = 0.0
            self._chosen = []
            self._generations_to_come = self._generations - 1
        return loss

    def train(self, resume_from_checkpoint: str | Path | bool | None = None, *positional: Any, **named: Any) -> Any:
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
        if resume_from_checkpoint is None:
            resume_from_checkpoint = self.args.resume_from_checkpoint
        resume_from_checkpoint = wants_resume(resume_from_checkpoint)
        if resume_from_checkpoint is True:
            found = last_checkpoint(output)
            if found is None:
                raise InputError(f"{output}: no whole checkpoint to resume from: train without resuming first")
            resume_from_checkpoint = str(found)
        if resume_from_checkpoint:
            steps = steps_done(Path(resume_from_checkpoint))
            if steps is None:
                raise InputError(f"{resume_from_checkpoint}: no whole checkpoint: resume from an earlier one")
            if steps >= self.args.max_steps:
                raise InputError(
                    f"{resume_from_checkpoint}: is of step {steps}, and max_steps={self.args.max_steps}: nothing is "
                    "left to train; raise max_steps"
                )
        self._forget_aborted_step()
        with locked(output) if self.accelerator.is_main_process else nullcontext(), terminable():
            try:
                result = super().train(resume_from_checkpoint, *positional, **named)
            except BaseException as error:
                self._close_record_of_stopped_run(error)
                raise
            self._close_record()
            return result

    def _forget_aborted_step(self) -> None:
        """Begin between two steps, whatever was under way when training stopped."""
        self._step, self._buffered_inputs = 0, None  # TRL's clock of generations, and the rollouts that it reuses
        for noted in (self._metrics["train"], self._pending_metrics, self._pending_extra_logs):
            noted.clear()
        self._chosen, self._graded = [], []
        self._generations_to_come = self._generations - 1
        self._selection_time = self._step_time = 0.0
        self._find_gone()

    def _find_gone(self) -> None:
        self._gone = [prompt_id for prompt_id in self.selector.prompt_ids if prompt_id not in self._row_of]

    def _close_record(self) -> None:
        """Complete the history."""
        if not self.accelerator.is_main_process:
            return
        if self._graded:
            self._learn([False for ids, _ in self._graded for _ in ids])
        self._recorder.recount(self.selector.settle())
        self._recorder.success, self._recorder.pool_size = self.selector.success, self.selector.num_prompts
        self._recorder.write()

    def _close_record_of_stopped_run(self, error: BaseException) -> None:
        self.is_in_train = False
        try:
            self._close_record()
        except Exception as failure:  # which must not hide why it stopped
            logger.warning("%s could not be completed: %s", self._recorder.path, failure)
        if isinstance(error, KeyboardInterrupt) and self.accelerator.is_main_process:
            path, found = self._recorder.path, last_checkpoint(Path(str(self.args.output_dir)))
            logger.warning(
                "stopped in step %d: %s, and %s",
                self.state.global_step,
                f"what was rolled out is in {path}" if path.exists() else "no group was graded",
                f"train(resume_from_checkpoint=True) goes on from {found.name}" if found else "no checkpoint is there",
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
            self.selector.save(Path(output_dir, SELECTOR_FILE))
            self._recorder.write()

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None or not self.accelerator.is_main_process:
            return
        path = Path(checkpoint, SELECTOR_FILE)
        if path.is_file():
            before = model_of(path)
            if self._like is not None and before != self.selector.online.model.describe():
                online = self._like(before)
                if online is not None:
                    self.selector.online = online
                    logger.warning("prompts are chosen by %s, as before: the dataset would suggest others now", before)
            self.selector.load(path)
            self._find_gone()
            if self._gone:
                logger.warning(
                    "%d prompts of %s are not in the dataset any more, such as %r: they are not chosen; put them back "
                    "to have them chosen again",
                    len(self._gone),
                    path.parent.name,
                    self._gone[0],
                )
        else:
            logger.warning("%s is not there: the selector starts from what it knows now", path)


class _Recording(TrainerCallback):
    """Opens the history where training starts or resumes."""

    def __init__(self, recorder: HistoryRecorder) -> None:
        self.recorder = recorder

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.recorder.start(state.global_step)


class _Refreshing(TrainerCallback):
    """Has the policy read the prompts anew, at the end of a step and before its checkpoint."""

    def __init__(self, trainer: SelectionGRPOTrainer, read: Callable[[], Prompts], every: int) -> None:
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


def wants_resume(given: str | Path | bool | None) -> str | bool:
    """`resume_from_checkpoint` as it is meant: a checkpoint, True for the newest one, False for none.

    A command line or settings file makes a word of true and false.
    """
    if isinstance(given, bool | None):
        return bool(given)
    return {"true": True, "false": False, "": False}.get(str(given).lower(), str(given))


def _with_steps(args: GRPOConfig, num_prompts: int) -> GRPOConfig:
    """Settings with `max_steps`: where it is not set, what `num_train_epochs` make of a pool, counted as TRL does."""
    if not args.shuffle_dataset:
        logger.warning("shuffle_dataset=False has no effect: the selector says which prompts come when")
    if args.max_steps > 0:
        return args
    num_chosen, _ = _generation_shape(args)
    # Batches of one process, each of them a forward and a backward pass.
    batches = num_prompts // num_chosen * cast(int, args.steps_per_generation) * args.num_iterations
    steps = math.ceil(args.num_train_epochs * max(math.ceil(batches / args.gradient_accumulation_steps), 1))
    args = copy(args)
    args.max_steps = steps
    logger.warning(
        "num_train_epochs=%g: %d optimizer steps, as many as TRL takes for it with %d prompts; which prompts come, and "
        "how often, is chosen",
        args.num_train_epochs,
        steps,
        num_prompts,
    )
    return args


def _generation_shape(args: Any) -> tuple[int, int]:
    """Prompts of one generation over all processes, and rollouts of each."""
    return args.generation_batch_size // args.num_generations, args.num_generations


def _generations(args: Any) -> int:
    """The most that fall in one optimizer step; 1 where rollouts serve several steps."""
    return math.ceil(args.gradient_accumulation_steps / (args.steps_per_generation * args.num_iterations))


def _check_size(num_prompts: int, args: Any) -> None:
    num_chosen, _ = _generation_shape(args)
    needed = num_chosen * _generations(args)
    if num_prompts < needed:
        raise InputError(
            f"the dataset has {num_prompts} prompts, and one optimizer step takes {needed} different ones: "
            "add prompts, or lower generation_batch_size"
        )


def _check_joins(dataset: Dataset, args: Any) -> None:
    """Raise InputError where generations cannot be joined into one."""
    images = [column for column in ("image", "images") if column in dataset.column_names]
    if images:
        raise InputError(f"dynamic sampling cannot join generations with images (column {images[0]!r}): leave it out")
    if args.multi_objective_aggregation != "sum_then_normalize":
        raise InputError(
            f"multi_objective_aggregation={args.multi_objective_aggregation!r} scales advantages over a generation, "
            "and dynamic sampling joins several: set 'sum_then_normalize'"
        )


def _check_selector(ids: Sequence[str], selector: Selector, args: Any, success: Success | None) -> None:
    if success is not None:
        raise InputError("the selector says what a success is: give success to the Selector, not to the trainer")
    _, group_size = _generation_shape(args)
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
