"""Labels of prompts, of one column or of several crossed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["cross", "uncross"]


def cross(columns: Sequence[Sequence[Any] | NDArray]) -> NDArray[np.object_]:
    r"""(prompt,) labels of one column as strings, or of several joined by "|", where "\|" is one inside a label."""
    texts = [[str(label) for label in column] for column in columns]
    if len(texts) > 1:
        texts = [[label.replace("\\", r"\\").replace("|", r"\|") for label in column] for column in texts]
    return np.fromiter(map("|".join, zip(*texts, strict=True)), object, len(texts[0]))


def uncross(label: str) -> list[str]:
    """(column,) what `cross` joined, of one prompt."""
    parts = [""]
    for token in re.findall(r"\\.|[^\\]", label, re.DOTALL):
        if token == "|":
            parts.append("")
        else:
            parts[-1] += token[-1]
    return parts
