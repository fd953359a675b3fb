"""The embedded policy with wider attention heads, which vLLM's kernels for CPUs want: 32 dimensions instead of 24."""

import math
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from promptdyn.training import policy

HEAD = 32


def save_with_wide_heads(folder: Path) -> None:
    """Save a policy that computes the same function as the embedded one.

    New dimensions hold zeros. Rotations pair dimension i with i + half of the head, at frequencies base^(-2 i / head):
    so each half is padded by itself, and the base is raised to keep the frequencies. Attention divides by the root of
    the head's size: the queries make up for it.
    """
    model, tokenizer = policy.load_policy()
    config, old = model.config.to_dict(), model.config.head_dim
    base = config["rope_parameters"]["rope_theta"]
    config |= {"head_dim": HEAD, "dtype": "float32", "rope_parameters": {"rope_type": "default"}}
    config["rope_parameters"]["rope_theta"] = base ** (HEAD / old)
    wide = LlamaForCausalLM(LlamaConfig(**config))

    def rows_of_heads(weight, halves):
        """Pad the (head dimension) rows of a projection, as two halves or as one part."""
        parts = weight.view(-1, halves, old // halves, weight.shape[1])
        padded = torch.nn.functional.pad(parts, (0, 0, 0, HEAD // halves - old // halves))
        return padded.reshape(-1, weight.shape[1])

    state = {}
    for name, weight in model.state_dict().items():
        if "q_proj" in name:
            weight = rows_of_heads(weight, 2) * math.sqrt(HEAD / old)
        elif "k_proj" in name:
            weight = rows_of_heads(weight, 2)
        elif "v_proj" in name:
            weight = rows_of_heads(weight, 1)
        elif "o_proj" in name:
            weight = rows_of_heads(weight.T, 1).T
        state[name] = weight.contiguous()
    wide.load_state_dict(state)
    wide.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
