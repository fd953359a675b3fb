"""Make the trainer of a run: load its policy, and check that it suits the data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from transformers import AutoProcessor, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback
from trl import get_peft_config, get_quantization_config

from promptdyn.errors import InputError
from promptdyn.training import policy
from promptdyn.training.loading import first_line
from promptdyn.training.run.inputs import load_inputs
from promptdyn.training.run.settings import RunSettings, check_settings, grpo_settings, trl_config
from promptdyn.training.trl import SelectionGRPOTrainer

__all__ = ["Progress", "make_trainer"]

Progress = Callable[[int, int, dict[str, float]], None]


def make_trainer(
    settings: RunSettings,
    progress: Progress | None = None,
    kind: type[SelectionGRPOTrainer] = SelectionGRPOTrainer,
    **named: Any,
) -> SelectionGRPOTrainer:
    """Make the trainer of a run, ready to train.

    Args:
        settings, progress: see `run`.
        kind: class of the trainer.
        **named: further arguments of that class.

    Raises:
        InputError: see `run`.
    """
    grpo = grpo_settings(settings)
    check_settings(settings, grpo)
    inputs = load_inputs(settings, grpo)
    model_args: Any = inputs.model_args
    args = trl_config(grpo, settings, model_args, inputs.evaluated is not None, progress is not None)
    model = str(policy.EMBEDDED.get(settings.model, settings.model))
    try:
        # As TRL loads it.
        processor = AutoProcessor.from_pretrained(
            model,
            revision=model_args.model_revision,
            truncation_side="left",
            padding_side="left",
            trust_remote_code=args.trust_remote_code,
        )
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"model {settings.model!r} cannot be loaded: {first_line(error)}") from None
    inputs.check_prompts(processor)
    try:
        trainer = kind(
            model,
            inputs.rewards,
            args,
            inputs.dataset,
            inputs.evaluated,
            processing_class=processor,
            quantization_config=get_quantization_config(model_args),
            peft_config=get_peft_config(model_args),
            selector=settings.selector,
            **named,
        )
        Trainer.get_optimizer_cls_and_kwargs(args, cast(Any, trainer.model))
    except InputError:
        raise
    except (OSError, ValueError, TypeError, ImportError) as error:
        raise InputError(f"trl.GRPOTrainer: {first_line(error)}") from error
    if progress is not None:
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(_Progress(progress))
    return trainer


class _Progress(TrainerCallback):
    def __init__(self, report: Progress) -> None:
        self.report = report
        self.last: dict[str, float] = {}

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if not control.should_log:
            self.report(state.global_step, state.max_steps, self.last)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if logs and "reward" in logs:
            self.last = logs
            self.report(state.global_step, state.max_steps, logs)
