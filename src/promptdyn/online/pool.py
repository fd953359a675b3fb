"""A pool of prompts as the arrays that models use: the cluster and the features of each prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from promptdyn.history import DenseHistory

__all__ = ["Pool"]


class Pool(NamedTuple):
    """A pool of prompts, in the order of every (prompt, ...) array."""

    cluster: NDArray[np.int32]  # (prompt,) index into cluster_names
    cluster_names: tuple[str, ...]
    features: NDArray[np.float32] | None = None  # (prompt feature), for models that use features

    @property
    def num_prompts(self) -> int:
        """Number of prompts."""
        return len(self.cluster)

    @property
    def num_clusters(self) -> int:
        """Number of clusters; 1 for a model without clusters."""
        return len(self.cluster_names)

    @classmethod
    def from_dense(cls, dense: DenseHistory) -> Pool:
        """Return the pool of a history."""
        return cls(dense.cluster, dense.cluster_names)

    @classmethod
    def of_one_cluster(cls, num_prompts: int, features: NDArray[np.float32] | None = None) -> Pool:
        """Return a pool with a single cluster."""
        return cls(np.zeros(num_prompts, np.int32), ("all",), features)

    @classmethod
    def from_labels(cls, labels: Sequence[str], features: NDArray[np.float32] | None = None) -> Pool:
        """Return a pool with clusters by (prompt,) labels.

        Clusters are numbered as they first appear, so that a longer pool begins with the same numbers.
        """
        code: dict[str, int] = {}
        codes = np.fromiter((code.setdefault(label, len(code)) for label in labels), np.int32, len(labels))
        return cls(codes, tuple(code), features)
