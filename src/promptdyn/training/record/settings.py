"""The settings of a recording."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from promptdyn.errors import InputError
from promptdyn.prompts import AUTO
from promptdyn.success import Success
from promptdyn.training.rollout import Sampling
from promptdyn.training.run.settings import RunSettings

__all__ = ["RecordSettings"]

# Settings of `GRPOConfig` that a recording follows; the others are about training.
FOLLOWED = (
    *(part.name for part in fields(Sampling)),
    *("seed", "reward_weights", "chat_template_kwargs", "trust_remote_code"),
)


@dataclass(frozen=True)
class RecordSettings:
    """The settings of a recording: the model, its prompts and rewards, as in `promptdyn.training.run.RunSettings`.

    Attributes:
        out: history file to write.
        model, dataset, reward, num_prompts, num_generations, max_completion_length, seed: see `RunSettings`.
        engine: what rolls out: "transformers" (default) or "vllm", with settings as in "transformers:batch_size=256",
            see `promptdyn.training.rollout`; or "FILE.py:NAME".
        success: the rule of success, see `promptdyn.success`; default "auto".
        step: training step of the model, under which the groups are recorded. Default: that of a checkpoint's folder,
            else 0.
        where: condition on what the selector forecasts, of the prompts to roll out: "entropy>=0.5", "informative>=0.2",
            see `promptdyn.selection.meets`. Default: all prompts.
        selector: the selector that forecasts for `where`, see `promptdyn.training.recipes`; default "auto".
        warm_start: history that this selector knows; default none.
        max_prompts: most prompts to roll out, drawn at random from those that `where` leaves. Default: all.
        id_column: the dataset's column of prompt ids; default "prompt_id".
        log_completions: whether the log of rollouts holds the completions; default False.
        grpo: settings of `trl.GRPOConfig` by name: those of sampling (`temperature`, `top_p`, ...), `reward_weights`
            and `chat_template_kwargs` are followed.
        script: settings of TRL's script by name, see `RunSettings`.
    """

    out: Path
    model: str = "embedded"
    dataset: str | None = None
    reward: str | None = None
    num_prompts: int = 1000
    num_generations: int | None = None
    max_completion_length: int | None = None
    seed: int = 0
    engine: str = "transformers"
    success: Success = AUTO
    step: int | None = None
    where: str | None = None
    selector: str = AUTO
    warm_start: str | None = None
    max_prompts: int | None = None
    id_column: str = "prompt_id"
    log_completions: bool = False
    grpo: dict[str, Any] = field(default_factory=dict)
    script: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.warm_start is not None and self.where is None:
            raise InputError(
                f"warm_start={self.warm_start!r}: only a condition on the prompts asks what is known of them: give "
                "where, as in 'entropy>=0.5', or leave it out"
            )

    def as_run(self) -> RunSettings:
        """Return the settings of a run with the same model, prompts and rewards."""
        return RunSettings(
            self.out.parent,
            model=self.model,
            dataset=self.dataset,
            reward=self.reward,
            num_prompts=self.num_prompts,
            num_generations=self.num_generations,
            max_completion_length=self.max_completion_length,
            seed=self.seed,
            grpo={name: value for name, value in self.grpo.items() if name in FOLLOWED},
            script=self.script,
        )

    def check(self, grpo: Mapping[str, Any]) -> Sampling:
        """Return how completions are sampled; TRL's defaults hold for what is not set.

        Args:
            grpo: settings of `GRPOConfig`, as `grpo_settings` makes them of `as_run`.

        Raises:
            InputError: a setting is out of range.
        """
        least = {"num_generations": 1, "max_completion_length": 1, "temperature": 0, "top_k": 0, "seed": 0}
        for name, bound in {**least, "step": 0, "num_prompts": 1, "max_prompts": 1}.items():
            value = grpo.get(name, getattr(self, name, None))
            if value is not None and not bound <= value < math.inf:
                raise InputError(f"{name}={value}: give at least {bound}")
        return Sampling(**{part.name: grpo[part.name] for part in fields(Sampling) if part.name in grpo})
