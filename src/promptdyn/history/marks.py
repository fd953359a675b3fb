"""Fingerprints of the steps of a history, by which a fit knows what it was fitted on."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

__all__ = ["step_marks"]


def step_marks(
    prompt_ids: NDArray, prompt: NDArray, step: NDArray, num_successes: NDArray, num_rollouts: NDArray
) -> NDArray[np.uint64]:
    """Return a (step,) fingerprint of each step's prompts and counts. For the arguments see `RewardHistory`."""
    ids = [hashlib.blake2b(str(name).encode(errors="surrogatepass"), digest_size=8) for name in prompt_ids]
    prompt_hash = np.array([int.from_bytes(digest.digest(), "little") for digest in ids], np.uint64)
    counts = num_rollouts.astype(np.uint64) << np.uint64(32) | num_successes.astype(np.uint64)
    rows = _mixed(prompt_hash[prompt] ^ _mixed(counts))
    if not len(rows):
        return rows
    first = np.flatnonzero(np.diff(step, prepend=-1))
    sums: NDArray[np.uint64] = np.add.reduceat(rows, first)
    return _mixed(sums ^ step[first].astype(np.uint64))


def _mixed(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Hash each 64-bit word, so that sums of different sets of words differ (the finalizer of SplitMix64)."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
