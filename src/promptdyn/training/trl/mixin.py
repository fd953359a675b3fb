"""The mix-in that lets a selector choose the prompts of a TRL trainer."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from transformers import PreTrainedModel
from transformers.trainer_utils import TrainOutput
from trl import GRPOConfig, RLOOConfig

from promptdyn.errors import InputError
from promptdyn.prompts import AUTO
from promptdyn.selection import HistoryRecorder, Selector, Session
from promptdyn.selection.files import model_of
from promptdyn.success import Success
from promptdyn.training.checkpoints import checkpoint_to_resume, is_checkpoint, last_checkpoint, locked
from promptdyn.training.dataset import distinct
from promptdyn.training.dynamic_sampling import DynamicSampling
from promptdyn.training.interrupts import terminable
from promptdyn.training.recipes import Plan, Recipe, check_selector, selector_recipe
from promptdyn.training.trl.choosing import ChoosingMixin
from promptdyn.training.trl.generations import Generations, check_joins, with_steps
from promptdyn.training.trl.refresh import read_pool
from promptdyn.training.trl.relied_on import check_trainer

__all__ = ["HISTORY_FILE", "SelectionMixin"]

SELECTOR_FILE = "selector.npz"
HISTORY_FILE = "history.parquet"

logger = logging.getLogger(__name__)
logger.addFilter(lambda _: os.environ.get("RANK", "0") == "0")  # only one process logs

if TYPE_CHECKING:
    from peft import PeftModel

    from promptdyn.training.loading import RewardFunction

    Reward = str | PreTrainedModel | RewardFunction


class SelectionMixin(ChoosingMixin):
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
        train_dataset, pool, _ = distinct(train_dataset, id_column)
        args = with_steps(args, len(pool))
        generations = Generations.from_config(args)
        generations.check(len(pool))
        recipe = selector_recipe(selector) if isinstance(selector, str) else selector
        plan: Plan | None = None
        if isinstance(recipe, Selector):
            check_selector(pool.ids, recipe, generations.group_size, success)
        else:
            recipe = recipe if success is None else replace(recipe, success=success)
            plan = recipe.plan(pool, generations.group_size, args.seed)
            if plan.reads_policy and "prompt" not in train_dataset.column_names:
                raise InputError(
                    "the selector wants the policy to read the prompts, and the dataset has no column 'prompt': add a "
                    "column of labels, such as 'difficulty', or choose another selector: dps, mopps, ..."
                )
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
        check_trainer(self)
        if isinstance(recipe, Selector):
            self.selector = recipe
        else:
            assert plan is not None
            logger.warning("prompts are chosen %s", plan.choice)
            self.selector = plan.selector(read_pool(self, pool, recipe.refresh_features) if plan.reads_policy else pool)
        self.selector.grader.check(self._functions)
        self.session = Session(self.selector, recorder)
        self.dynamic_sampling = dynamic_sampling
        self._plan = plan
        self._start_choosing(pool.ids, generations)

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
