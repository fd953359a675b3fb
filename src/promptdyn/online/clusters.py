"""Clusters of prompts whose statistics an `OnlineModel` pools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError

__all__ = ["cluster_codes"]


def cluster_codes(model: Any, labels: Sequence[str | None]) -> tuple[NDArray[np.int32], int]:
    """(prompt,) code of each prompt's label, numbered as they first appear, and how many there are.

    All prompts are one cluster where the model's `cluster` is None; else InputError says that labels are missing.
    """
    if model.cluster is None:
        return np.zeros(len(labels), np.int32), 1
    code: dict[str | None, int] = {}
    codes = np.fromiter((code.setdefault(label, len(code)) for label in labels), np.int32, len(labels))
    if None in code:
        missing = int(np.flatnonzero(codes == code[None])[0])
        raise InputError(
            f"model {model.name!r} pools by cluster={model.cluster!r}, but prompt {missing} of {len(labels)} has no "
            "label: give each prompt one, or set cluster=None"
        )
    return codes, len(code)
