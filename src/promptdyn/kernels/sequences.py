"""Lay out the observations of prompts as lanes of cells, which the kernels of all backends walk.

A kernel's step takes every lane from one cell to the next by a *move*, a matrix that is looked up in a table:

- to a prompt's first cell: a new draw of its initial state, whatever the lane's state was;
- to a later cell: one step at some exposure, then one idle step for each step without an observation.

So a lane may hold one prompt after another, and cells without an observation are skipped: the cost of a history in
which prompts are seldom seen is that of its observations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["FRESH", "Sequences"]

# `level` of the move to a prompt's first cell.
FRESH = -1
# A power of the idle matrix is worth its cost if it saves walking so many cells.
CELLS_PER_POWER = 16


@dataclass(frozen=True)
class Sequences:
    """Lanes of cells. Arrays are NumPy's at first, and may become a backend's. Axis words: cell lane move prompt.

    Attributes:
        symbols: (cell lane) column of the emission table; 0 is "not observed".
        moves: (cell lane) the move by which the lane comes to the cell, an index of the next three.
        level: (move,) exposure of the move's first step, or `FRESH`.
        gap: (move,) number of steps: the first and the idle ones after it.
        cluster_index: (move,) index of the move's prompt on the chain's cluster axes.
        owner: (cell lane) prompt of the cell, `num_prompts` for an empty one; None if each lane is a prompt.
        num_prompts: number of prompts.
        longest_gap: the largest of `gap`.
    """

    symbols: Any
    moves: Any
    level: Any
    gap: Any
    cluster_index: Any
    owner: Any
    num_prompts: int
    longest_gap: int

    @classmethod
    def whole(cls, symbols: Any, exposure: Any, cluster_index: NDArray | None = None) -> Sequences:
        """Return a lane per prompt with a cell for every step, for results at every step.

        Args:
            symbols: (step prompt), an array of NumPy or of a backend.
            exposure: (step prompt) 0, 1 or 2, an array of the same library.
            cluster_index: (prompt,) index of each prompt on the chain's cluster axes; None if all prompts share one.
        """
        num_prompts = symbols.shape[1]
        cluster_index = np.zeros(num_prompts, np.int64) if cluster_index is None else np.asarray(cluster_index)
        num_indices = int(cluster_index.max(initial=0)) + 1
        # A move for each level and index, fresh ones first.
        level, move_index = (part.ravel() for part in np.mgrid[FRESH:3, :num_indices])
        xp = exposure.__array_namespace__()
        levels = xp.concat([xp.full((1, num_prompts), FRESH), exposure[:-1]])
        moves = ((levels - FRESH) * num_indices + cluster_index).astype(np.min_scalar_type(len(level)))
        return cls(symbols, moves, level, np.ones_like(level), move_index, None, num_prompts, 1)

    @classmethod
    def packed(
        cls,
        symbols: NDArray[np.integer],
        exposure: NDArray[np.integer],
        cluster_index: NDArray | None = None,
        num_lanes: int = 256,
        order: NDArray[np.integer] | None = None,
    ) -> Sequences:
        """Return cells for observations only, with prompts one after another in about `num_lanes` equal lanes.

        A prompt that was never observed is in no lane.

        Args:
            symbols, exposure: (step prompt) integers.
            cluster_index: (prompt,) index of each prompt on the chain's cluster axes; None if all prompts share one.
            num_lanes: wanted number of lanes; default 256. There are fewer if the prompt seen most needs longer lanes.
            order: (prompt,) order in which prompts are laid out; default the given one.
        """
        num_prompts = symbols.shape[1]
        cluster_index = np.zeros(num_prompts, np.int64) if cluster_index is None else np.asarray(cluster_index)
        order = np.arange(num_prompts) if order is None else np.asarray(order)
        visited = (symbols > 0) | (exposure > 0)
        visited[0] |= visited.any(axis=0)  # a prompt's chain begins at the first step
        rank, step = np.nonzero(visited.T[order])

        # Between two observations of a prompt lie idle steps, which a power of the idle matrix crosses at once. If a
        # gap is longer than the largest power that is computed, it takes several moves.
        last = np.append(rank[1:] != rank[:-1], True)
        gap = np.where(last, 0, np.append(np.diff(step), 0))
        num_powers = max(int(np.sqrt(symbols.size / (CELLS_PER_POWER * (cluster_index.max(initial=0) + 1)))), 1)
        crossings = np.maximum(-(-gap // num_powers), 1)
        event = np.repeat(np.arange(len(step)), crossings)
        crossing = np.arange(len(event)) - np.repeat(np.cumsum(crossings) - crossings, crossings)
        rank, step, is_event = rank[event], step[event], crossing == 0
        gap = np.minimum(gap[event] - crossing * num_powers, num_powers)
        prompt = order[rank]

        # The move to each cell: from the cell before it, or fresh if that is another prompt's.
        fresh = np.append(True, rank[1:] != rank[:-1])
        level = np.where(fresh, FRESH, np.append(0, np.where(is_event, exposure[step, prompt], 0)[:-1]))
        gap = np.where(fresh, 1, np.append(1, gap[:-1]))
        kinds = np.stack([level - FRESH, gap, cluster_index[prompt]])
        sizes = kinds.max(axis=1) + 1
        codes, moves = np.unique(np.ravel_multi_index(kinds, sizes), return_inverse=True)
        level, gap, move_index = np.unravel_index(codes, sizes)

        # Each lane takes whole prompts, as many as it has room for.
        ends = np.append(np.flatnonzero(fresh)[1:], len(fresh))
        length = max(int(np.diff(ends, prepend=0).max()), -(-len(fresh) // num_lanes))
        begins = [0]
        while begins[-1] < len(fresh):
            begins.append(int(ends[np.searchsorted(ends, begins[-1] + length, side="right") - 1]))
        lane = np.repeat(np.arange(len(begins) - 1), np.diff(begins))
        cells = np.arange(len(fresh)) - np.asarray(begins)[lane], lane

        def in_lanes(values: NDArray, empty: int, dtype: Any) -> NDArray:
            array = np.full((length, len(begins) - 1), empty, dtype)
            array[cells] = values
            return array

        return cls(
            in_lanes(np.where(is_event, symbols[step, prompt], 0), 0, symbols.dtype),
            in_lanes(moves, 0, np.min_scalar_type(len(codes))),
            level + FRESH,
            gap,
            move_index,
            in_lanes(prompt, num_prompts, np.int32),
            num_prompts,
            int(gap.max()),
        )

    @property
    def num_lanes(self) -> int:
        """Number of lanes."""
        return int(self.symbols.shape[1])

    @property
    def path_length(self) -> int:
        """Number of states on the paths through all cells, with those at steps without an observation."""
        steps = self.gap[self.moves]
        return int(steps.sum() if self.owner is None else steps[self.owner < self.num_prompts].sum())

    def lanes(self, chosen: Any) -> Sequences:
        """Return some of the lanes; prompts keep their numbers."""
        owner = None if self.owner is None else self.owner[:, chosen]
        parts = (self.symbols[:, chosen], self.moves[:, chosen], self.level, self.gap, self.cluster_index, owner)
        return Sequences(*parts, self.num_prompts, self.longest_gap)

    def chunks(self, number: int) -> Iterator[Sequences]:
        """Yield all lanes of packed sequences in so many parts of equal size, so that a kernel compiles once.

        The last part is filled up with empty lanes.
        """
        number = min(number, self.num_lanes)
        size = -(-self.num_lanes // number)
        missing = size * number - self.num_lanes
        symbols, moves = (np.pad(part, ((0, 0), (0, missing))) for part in (self.symbols, self.moves))
        owner = np.pad(self.owner, ((0, 0), (0, missing)), constant_values=self.num_prompts)
        filled = Sequences(
            symbols, moves, self.level, self.gap, self.cluster_index, owner, self.num_prompts, self.longest_gap
        )
        for begin in range(0, size * number, size):
            yield filled.lanes(slice(begin, begin + size))

    def batches(self, num_lanes: int, seed: int) -> Iterator[Sequences]:
        """Yield batches of lanes without end, in random order. Lanes left over in a pass are skipped in that pass."""
        rng = np.random.default_rng(seed)
        while True:
            order = rng.permutation(self.num_lanes)
            for begin in range(0, self.num_lanes - num_lanes + 1, num_lanes):
                yield self.lanes(order[begin : begin + num_lanes])
