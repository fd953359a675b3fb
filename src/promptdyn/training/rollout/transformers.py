"""Roll out with transformers, on any device, in the process that holds the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from promptdyn.errors import InputError
from promptdyn.training.loading import first_line
from promptdyn.training.rollout.base import Generator, RolloutEngine, Sampling, end_tokens

__all__ = ["TransformersEngine", "TransformersGenerator"]


@dataclass(frozen=True)
class TransformersEngine(RolloutEngine):
    """Loads a model with transformers.

    Attributes:
        batch_size: rollouts to sample at once; default 64.
        dtype: type of the weights, such as "bfloat16"; default "auto", as they are stored.
        device: device of the model; default "auto", the accelerator if there is one.
    """

    batch_size: int = 64
    dtype: str = "auto"
    device: str = "auto"

    name = "transformers"

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"transformers: batch_size={self.batch_size}: sample at least 1 rollout at once")

    def load(self, model: str, revision: str | None = None, trust_remote_code: bool = False) -> TransformersGenerator:
        source = {"revision": revision or "main", "trust_remote_code": trust_remote_code}
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
        try:
            tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left", **source)
            policy: Any = AutoModelForCausalLM.from_pretrained(model, dtype=self.dtype, **source)
            policy.to(accelerator if self.device == "auto" else self.device)
        except (OSError, ValueError, ImportError, RuntimeError, AttributeError, TypeError) as error:
            raise InputError(f"model {model!r} cannot be loaded by transformers: {first_line(error)}") from None
        return TransformersGenerator(policy.eval(), tokenizer, self.batch_size)


class TransformersGenerator(Generator):
    """A model of transformers that completes prompts. It may be one that is being trained: its state is left as it was.

    Args:
        model, tokenizer: a causal language model and its tokenizer.
        batch_size: rollouts to sample at once; default 64.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int = 64) -> None:
        self.model: Any = model
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        own = model.generation_config.eos_token_id if model.generation_config else None
        self.end_ids = end_tokens(tokenizer, own)
        # Padding is masked before a completion and cut off behind it, so any token will do.
        self._pad_id = self.end_ids[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id

    @torch.no_grad()
    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, seed: int) -> list[list[int]]:
        """See `Generator.generate`. Torch's random state is restored afterwards.

        Raises:
            InputError: the device has too little memory for a batch.
        """
        rows = [prompt for prompt in prompts for _ in range(sampling.num_generations)]
        was_training = self.model.training
        self.model.eval()
        completions: list[list[int]] = []
        try:
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                for start in range(0, len(rows), self.batch_size):
                    completions += self._completed(rows[start : start + self.batch_size], sampling)
        except torch.OutOfMemoryError as error:
            raise InputError(
                f"too little memory for batches of {self.batch_size} rollouts ({first_line(error)}): set a smaller "
                f"batch_size, as in transformers:batch_size={max(1, self.batch_size // 2)}"
            ) from None
        finally:
            self.model.train(was_training)
        return completions

    def _completed(self, rows: Sequence[Sequence[int]], sampling: Sampling) -> list[list[int]]:
        longest = max(map(len, rows))
        padding = [longest - len(row) for row in rows]
        tokens = [[self._pad_id] * pad + list(row) for pad, row in zip(padding, rows, strict=True)]
        mask = [[0] * pad + [1] * len(row) for pad, row in zip(padding, rows, strict=True)]
        sampled: dict[str, Any] = {"do_sample": False, "temperature": None, "top_k": None, "top_p": None}
        if sampling.temperature > 0:
            sampled = {"do_sample": True, "min_p": sampling.min_p}
            sampled |= {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p}
        output = self.model.generate(
            input_ids=torch.tensor(tokens, device=self.model.device),
            attention_mask=torch.tensor(mask, device=self.model.device),
            **sampled,
            repetition_penalty=sampling.repetition_penalty,
            max_new_tokens=sampling.max_completion_length,
            eos_token_id=list(self.end_ids),
            pad_token_id=self._pad_id,
        )
        return [self._until_end(row) for row in output[:, longest:].tolist()]

    def _until_end(self, ids: list[int]) -> list[int]:
        """Return a completion up to its first end token, without the padding behind it."""
        end = next((i for i, token in enumerate(ids) if token in self.end_ids), len(ids) - 1)
        return ids[: end + 1]
