"""Let the policy of a trainer read the prompts, at the start and every so many steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import is_deepspeed_zero3_enabled

from promptdyn.errors import InputError
from promptdyn.prompts import POLICY, Prompts
from promptdyn.training.reading import PolicyReader
from promptdyn.training.trl.choosing import ChoosingMixin

__all__ = ["read_pool"]

FEATURES_FILE = "features.npz"


def read_pool(trainer: ChoosingMixin, pool: Prompts, refresh_every: int) -> Prompts:
    """Return the pool with the policy's reading of it; a callback reads it again every `refresh_every` steps."""
    if is_deepspeed_zero3_enabled() or (trainer.is_fsdp_enabled and refresh_every):
        raise InputError(
            "the policy cannot read prompts while its weights are sharded: let the dataset have label columns "
            "(dynamics='rate:cluster=COLUMN') or features of its own ('features:features=COLUMN')"
        )
    main = trainer.accelerator.is_main_process
    reader = PolicyReader(
        trainer.accelerator.unwrap_model(trainer.model),
        trainer._tokenizer,
        cache=Path(str(trainer.args.output_dir), FEATURES_FILE) if main else None,
        progress=None if main else lambda done, total: None,
    )
    dataset: Any = trainer.train_dataset
    texts = list(dataset.with_format(None)["prompt"])

    def read() -> Prompts:
        return pool.with_column(POLICY, reader.read(texts))

    if refresh_every:
        trainer.add_callback(_RefreshCallback(trainer, read, refresh_every))
    return read()


class _RefreshCallback(TrainerCallback):
    """Lets the policy read the prompts again, at the end of a step and before its checkpoint."""

    def __init__(self, trainer: ChoosingMixin, read: Callable[[], Prompts], every: int) -> None:
        self.trainer, self.read, self.every = trainer, read, every

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step % self.every == 0:
            pool = self.read()
            if self.trainer.accelerator.is_main_process:
                self.trainer.selector.online.refresh(pool)
