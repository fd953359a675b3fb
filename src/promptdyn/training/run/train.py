"""Train, resume, and publish the trained policy."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from promptdyn.errors import InputError
from promptdyn.history import RewardHistory
from promptdyn.training.checkpoints import last_checkpoint, steps_done, wants_resume
from promptdyn.training.loading import first_line
from promptdyn.training.run.settings import RunSettings, grpo_settings
from promptdyn.training.run.trainer import Progress, make_trainer
from promptdyn.training.trl import HISTORY_FILE

__all__ = ["RunResult", "run"]

FINAL_FOLDER = "final"
# Files of a checkpoint that are not part of the trained model.
ONLY_TO_RESUME = shutil.ignore_patterns("optimizer*", "scheduler*", "rng_state*", "selector.npz", "global_step*")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        history: outcomes of the run; None if the reward functions returned None for every rollout.
        model: the trained policy.
        tokenizer: its tokenizer.
        log: TRL's log, one entry every `logging_steps`.
        steps: optimizer steps done.
        seconds: wall-clock seconds of training.
    """

    history: RewardHistory | None
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    log: list[dict[str, float]]
    steps: int
    seconds: float

    def mean(self, metric: str) -> float:
        """Return the mean of a logged metric over the run; NaN if it was never logged."""
        values = [value for entry in self.log if (value := entry.get(metric)) is not None]
        return sum(values) / len(values) if values else float("nan")


def run(settings: RunSettings, progress: Progress | None = None) -> RunResult:
    """Train with the given settings.

    Args:
        settings: settings of the run.
        progress: function called after each step with the step, the number of steps, and the latest log entry. Default:
            TRL's own progress bar.

    Raises:
        InputError: the model, the dataset, a reward function, the dynamics or the strategy cannot be used, or
            `SelectionGRPOTrainer` refuses the settings.
    """
    output = Path(settings.output_dir)
    final = output / FINAL_FOLDER
    grpo = grpo_settings(settings)
    trainer = None
    resume: str | bool = settings.resume or wants_resume(grpo.pop("resume_from_checkpoint", None))
    if resume is True:
        checkpoint = last_checkpoint(output)
        resume = False if checkpoint is None else str(checkpoint)
        if (steps := grpo.get("max_steps", -1)) <= 0:  # only the trainer knows how many steps the epochs make
            trainer = make_trainer(settings, progress)
            steps = trainer.args.max_steps
        in_final, in_checkpoint = (steps_done(folder) or 0 if folder else 0 for folder in (final, checkpoint))
        if max(in_final, in_checkpoint) >= steps:
            if in_final < steps:  # the run died before it wrote the final model
                assert checkpoint is not None
                _publish(final, lambda part: shutil.copytree(checkpoint, part, ignore=ONLY_TO_RESUME))
            done = max(in_final, in_checkpoint)
            logger.warning("%s: %d of %d steps are done: nothing to do", output, done, steps)
            return _finished(output)
        if checkpoint is None and in_final:
            raise InputError(
                f"{final}: holds {in_final} steps, and there is no checkpoint to go on from: train into another "
                "folder, with checkpoints (save_steps)"
            )
        if checkpoint is None:
            logger.warning("%s: no checkpoint yet: starts", output)
    trainer = trainer or make_trainer(settings, progress)
    start = time.perf_counter()
    trainer.train(resume_from_checkpoint=resume)
    seconds = time.perf_counter() - start

    def save(part: Path) -> None:
        trainer.save_model(str(part))
        trainer.state.save_to_json(str(part / TRAINER_STATE_NAME))

    _publish(final, save)
    return RunResult(
        history=_history(output),
        model=cast(PreTrainedModel, trainer.model),
        tokenizer=cast(PreTrainedTokenizerBase, trainer.processing_class),
        log=_rewards_of(trainer.state),
        steps=trainer.state.global_step,
        seconds=seconds,
    )


def _history(output: Path) -> RewardHistory | None:
    """Read the history of a run. If it recorded nothing, log a warning and return None."""
    path = output / HISTORY_FILE
    if path.exists():
        return RewardHistory.from_parquet(path)
    logger.warning(
        "%s: no rollout was graded: the reward functions gave None for all, so nothing was learned and there is no "
        "history; check that they know the dataset's columns and how the policy answers",
        output,
    )
    return None


def _rewards_of(state: TrainerState) -> list[dict[str, float]]:
    return [entry for entry in state.log_history if "reward" in entry]


def _publish(final: Path, write: Callable[[Path], Any]) -> None:
    """Write a folder under another name, and rename it once it is complete."""
    part, old = (final.with_name(f".{final.name}.{word}") for word in ("part", "old"))
    for left_over in (part, old):
        shutil.rmtree(left_over, ignore_errors=True)
    write(part)
    if final.exists():
        final.rename(old)
    part.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def _finished(output: Path) -> RunResult:
    """Read the result of a run that is finished already."""
    final = output / FINAL_FOLDER
    state = TrainerState.load_from_json(str(final / TRAINER_STATE_NAME))
    try:
        tokenizer = AutoTokenizer.from_pretrained(final)
        model = AutoModelForCausalLM.from_pretrained(final)
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"{final}: the trained model cannot be loaded: {first_line(error)}") from None
    return RunResult(_history(output), model, tokenizer, log=_rewards_of(state), steps=state.global_step, seconds=0.0)
