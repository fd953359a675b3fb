"""What every rollout engine is: settings that load a language model, and the loaded model, which completes prompts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from transformers import PreTrainedTokenizerBase

from promptdyn.errors import InputError

__all__ = ["Generator", "Message", "RolloutEngine", "Rollouts", "Sampling", "end_tokens", "roll_out"]

Message = dict[str, Any]
"""A message of a conversation: {"role": ..., "content": ...}."""


@dataclass(frozen=True)
class Sampling:
    """How completions are sampled. Names and defaults are those of `trl.GRPOConfig`.

    Attributes:
        num_generations: rollouts of a prompt.
        max_completion_length: most tokens of a rollout.
        temperature: sampling temperature; 0 takes the likeliest token.
        top_p: probability mass to sample from; 1 is all.
        top_k: number of likeliest tokens to sample from; 0 is all.
        min_p: least probability of a token, as a share of the likeliest one's; None is no limit.
        repetition_penalty: factor against tokens that were there before; 1 is none.
    """

    num_generations: int = 8
    max_completion_length: int = 512
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float | None = None
    repetition_penalty: float = 1.0


class Rollouts(NamedTuple):
    """The rollouts of some prompts: group after group, each with `num_generations` rollouts."""

    prompts: list[str | list[Message]]  # (rollout,) each rollout's prompt
    completions: list[str | list[Message]]  # (rollout,) a text, or messages if the prompt is messages
    completion_ids: list[list[int]]  # (rollout token)
    cut_off: list[bool]  # (rollout,) whether it reached the longest length without an end


class Generator(ABC):
    """A loaded language model.

    Attributes:
        tokenizer: the model's tokenizer.
        end_ids: ids of the tokens that end a completion.
    """

    tokenizer: PreTrainedTokenizerBase
    end_ids: tuple[int, ...]

    @abstractmethod
    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, seed: int) -> list[list[int]]:
        """Sample completions.

        Args:
            prompts: (prompt token) ids.
            sampling: how to sample.
            seed: random seed; the same arguments give the same completions on the same machine.

        Returns:
            (rollout token) ids, group after group. A completion that ended holds its end token.
        """


def end_tokens(tokenizer: PreTrainedTokenizerBase, configured: int | list[int] | None) -> tuple[int, ...]:
    """Return the ids of the tokens that end a completion, as TRL finds them.

    Args:
        tokenizer: the model's tokenizer.
        configured: what the model's generation config says.
    """
    ends = [tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured])]
    return tuple(dict.fromkeys(token for token in ends if token is not None))


class RolloutEngine(ABC):
    """Settings with which a language model is loaded. A new engine is a frozen dataclass in a file of its own.

    Attributes:
        name: name in texts.
        batch_size: rollouts to sample at once.
    """

    name: ClassVar[str]
    batch_size: int

    @abstractmethod
    def load(self, model: str, revision: str | None = None, trust_remote_code: bool = False) -> Generator:
        """Load a model.

        Args:
            model: folder or Hugging Face name.
            revision: version of a model on the Hugging Face hub; default the newest.
            trust_remote_code: whether to run code that the model brings; default False.

        Raises:
            InputError: the model cannot be loaded, or the engine cannot run it.
        """


def roll_out(
    generator: Generator,
    prompts: Sequence[str | list[Message]],
    sampling: Sampling,
    seed: int = 0,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> Rollouts:
    """Complete prompts as TRL does.

    Args:
        generator: the loaded model.
        prompts: (prompt,) texts; or conversations, to which the tokenizer's chat template is applied.
        sampling: how to sample.
        seed: random seed; default 0.
        chat_template_kwargs: settings of the chat template, such as {"enable_thinking": False}.

    Raises:
        InputError: a prompt without a token, or a conversation for a tokenizer without a chat template.
    """
    tokenizer = generator.tokenizer
    tokens = [_tokens(tokenizer, prompt, chat_template_kwargs or {}) for prompt in prompts]
    completion_ids = generator.generate(tokens, sampling, seed)
    repeated = [prompt for prompt in prompts for _ in range(sampling.num_generations)]
    texts = tokenizer.batch_decode(completion_ids, skip_special_tokens=True)
    completions: list[str | list[Message]] = [
        text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
        for prompt, text in zip(repeated, texts, strict=True)
    ]
    cut_off = [not ids or ids[-1] not in generator.end_ids for ids in completion_ids]
    return Rollouts(repeated, completions, completion_ids, cut_off)


def _tokens(tokenizer: Any, prompt: str | list[Message], template: Mapping[str, Any]) -> list[int]:
    """Return a prompt's (token,) ids, as TRL makes them."""
    if isinstance(prompt, str):
        ids = tokenizer(prompt)["input_ids"]
    elif not getattr(tokenizer, "chat_template", None):
        raise InputError(f"prompt {str(prompt)[:60]!r} is messages, and the tokenizer has no chat template: give texts")
    else:
        ids = tokenizer.apply_chat_template(
            prompt, add_generation_prompt=True, tokenize=True, return_dict=True, **template
        )["input_ids"]
    if not ids:
        raise InputError(f"prompt {str(prompt)[:60]!r} has no token: leave it out")
    return list(ids)
