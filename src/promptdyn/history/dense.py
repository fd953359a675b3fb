"""The dense form of a history: the arrays that the kernels of `promptdyn.kernels` take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError

if TYPE_CHECKING:
    from promptdyn.history.sparse import RewardHistory

__all__ = ["Counts", "DenseHistory", "dense"]

# Most symbols that a dense history may have: every model makes a table of its likelihoods over them.
MAX_SYMBOLS = 2**20


class Counts(NamedTuple):
    """The success count and the group size that each symbol stands for."""

    num_successes: NDArray[np.int32]  # (symbol,)
    num_rollouts: NDArray[np.int32]  # (symbol,)


class DenseHistory(NamedTuple):
    """A history as arrays over (step, prompt).

    The time axis holds, in order, the steps that have a row. A step that was never logged is not on it: a model moves
    once from each logged step to the next.
    """

    symbols: NDArray[np.unsignedinteger[Any]]  # (step prompt) index into counts; 0 = not observed
    exposure: NDArray[np.uint8]  # (step prompt) 0 idle, 1 trained on, 2 trained on with k = 0 or k = n
    counts: Counts  # of each symbol: 0 of 0 first, then for each group size n the counts k from 0 to n
    cluster: NDArray[np.int32]  # (prompt,) index into cluster_names
    cluster_names: tuple[str, ...]  # sorted labels; ("all",) without a label column
    prompt_ids: NDArray[np.object_]  # (prompt,)
    steps: NDArray[np.int32]  # (step,)


def dense(history: RewardHistory, cluster: str | Sequence[str] | None) -> DenseHistory:
    """See `RewardHistory.dense`."""
    steps = history.steps
    cells = (np.searchsorted(steps, history.step), history.prompt)
    shape = (len(steps), history.num_prompts)

    sizes, size = np.unique(history.num_rollouts, return_inverse=True)
    # First symbol of each group size.
    first = 1 + np.cumsum(np.append(0, sizes.astype(np.int64) + 1))
    if first[-1] > MAX_SYMBOLS:
        row = int(history.num_rollouts.argmax())
        raise InputError(
            f"step {history.step[row]}, prompt {history.prompt_ids[history.prompt[row]]!r}: num_rollouts={sizes[-1]} "
            f"is too large: the distinct group sizes of a history may add up to {MAX_SYMBOLS:,}"
        )
    symbols = np.zeros(shape, np.min_scalar_type(int(first[-1]) - 1))
    symbols[cells] = first[size] + history.num_successes
    exposure = np.zeros(shape, np.uint8)
    exposure[cells] = np.where(history.trained, np.where(history.informative, 1, 2), 0)
    n = np.repeat(sizes, sizes + 1)
    k = np.arange(len(n)) - np.repeat(first[:-1] - 1, sizes + 1)

    if cluster is None:
        names, codes = ["all"], np.zeros(history.num_prompts, np.int32)
    else:
        labels = history.prompts.labels(cluster)
        names = sorted(set(labels))
        code = {name: index for index, name in enumerate(names)}
        codes = np.fromiter((code[label] for label in labels), np.int32, history.num_prompts)
    return DenseHistory(
        symbols=symbols,
        exposure=exposure,
        counts=Counts(np.append(0, k).astype(np.int32), np.append(0, n).astype(np.int32)),
        cluster=codes,
        cluster_names=tuple(names),
        prompt_ids=history.prompt_ids,
        steps=steps,
    )
