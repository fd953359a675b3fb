"""The dense form of a history: the arrays that the kernels of `promptdyn.kernels` take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError
from promptdyn.history.events import exposure_of

__all__ = ["Counts", "DenseHistory"]

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
    exposure: NDArray[np.uint8]  # (step prompt) `Exposure`
    counts: Counts  # of each symbol: 0 of 0 first, then for each group size n the counts k from 0 to n
    cluster: NDArray[np.int32]  # (prompt,) index into cluster_names
    cluster_names: tuple[str, ...]  # sorted labels; ("all",) without a label column
    prompt_ids: NDArray[np.object_]  # (prompt,)
    steps: NDArray[np.int32]  # (step,)

    @classmethod
    def from_rows(
        cls,
        *,
        prompt_ids: NDArray[np.object_],
        prompt: NDArray[np.integer],
        step: NDArray[np.int32],
        num_successes: NDArray[np.int32],
        num_rollouts: NDArray[np.int32],
        trained: NDArray[np.bool_],
        labels: Sequence[str] | NDArray[np.object_] | None,
    ) -> DenseHistory:
        """Return the dense form of (row,) groups, which are sorted by step.

        Args:
            prompt_ids: (prompt,) ids.
            prompt: (row,) index into `prompt_ids`.
            step, num_successes, num_rollouts, trained: (row,) see `RewardHistory`.
            labels: (prompt,) cluster labels; None for one cluster.

        Raises:
            InputError: groups too large to tabulate.
        """
        steps, num_prompts = step[np.diff(step, prepend=-1) > 0], len(prompt_ids)
        cells = (np.searchsorted(steps, step), prompt)
        sizes, size = np.unique(num_rollouts, return_inverse=True)
        # First symbol of each group size.
        first = 1 + np.cumsum(np.append(0, sizes.astype(np.int64) + 1))
        if first[-1] > MAX_SYMBOLS:
            row = int(num_rollouts.argmax())
            raise InputError(
                f"step {step[row]}, prompt {prompt_ids[prompt[row]]!r}: num_rollouts={sizes[-1]} is too large: the "
                f"distinct group sizes of a history may add up to {MAX_SYMBOLS:,}"
            )
        symbols = np.zeros((len(steps), num_prompts), np.min_scalar_type(int(first[-1]) - 1))
        symbols[cells] = first[size] + num_successes
        exposure = np.zeros(symbols.shape, np.uint8)
        exposure[cells] = exposure_of(num_successes, num_rollouts, trained)
        n = np.repeat(sizes, sizes + 1)
        k = np.arange(len(n)) - np.repeat(first[:-1] - 1, sizes + 1)

        names, codes = ["all"], np.zeros(num_prompts, np.int32)
        if labels is not None:
            names = sorted(set(labels))
            code = {name: index for index, name in enumerate(names)}
            codes = np.fromiter((code[label] for label in labels), np.int32, num_prompts)
        return cls(
            symbols=symbols,
            exposure=exposure,
            counts=Counts(np.append(0, k).astype(np.int32), np.append(0, n).astype(np.int32)),
            cluster=codes,
            cluster_names=tuple(names),
            prompt_ids=prompt_ids,
            steps=steps,
        )
