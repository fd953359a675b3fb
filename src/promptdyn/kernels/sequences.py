"""What was observed of prompts, laid out as lanes of cells that a kernel walks, whatever its backend.

A kernel's step takes every lane from one cell to the next by a *move*, a matrix of its own looked up in a table:

- to a prompt's first cell: a fresh draw of its initial state, from wherever the lane was;
- to a later cell: one step at some exposure and then, over steps that nobody observed, so many idle ones.

So a lane may hold one prompt after another, and cells without an observation need not be walked: histories in which
prompts are seen now and then cost what their observations cost.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["FRESH", "Sequences"]

# Level of the move to a prompt's first cell.
FRESH = -1
# Powers of the idle matrix are worth making while there are so many cells to walk instead for each.
CELLS_PER_POWER = 16


@dataclass(frozen=True)
class Sequences:
    """Lanes of cells; arrays are NumPy's when made, and may become a backend's. Axis words: cell lane move prompt.

    Attributes:
        symbols: (cell lane) column of the emission table; 0 is "not observed".
        moves: (cell lane) how the lane came to the cell, an index of the next three.
        level: (move,) exposure of its first step, or `FRESH`.
        gap: (move,) its steps, one and those idle after it.
        place: (move,) of its prompt on the chain's cluster axes.
        owner: (cell lane) prompt of the cell, `num_prompts` where empty; None where lanes are the prompts.
        num_prompts: prompts.
        longest_gap: the largest of `gap`.
    """

    symbols: Any
    moves: Any
    level: Any
    gap: Any
    place: Any
    owner: Any
    num_prompts: int
    longest_gap: int

    @classmethod
    def whole(cls, symbols: Any, exposure: Any, places: NDArray | None = None) -> Sequences:
        """A lane per prompt with a cell for every step, for what is asked of every step.

        Args:
            symbols: (step prompt), NumPy's or a backend's.
            exposure: (step prompt) 0, 1 or 2, likewise.
            places: (prompt,) of each prompt on the chain's cluster axes; None where one entry serves all.
        """
        num_prompts = symbols.shape[1]
        places = np.zeros(num_prompts, np.int64) if places is None else np.asarray(places)
        num_places = int(places.max(initial=0)) + 1
        # A move for each place and level, fresh ones first.
        level, place = (part.ravel() for part in np.mgrid[FRESH:3, :num_places])
        xp = exposure.__array_namespace__()
        levels = xp.concat([xp.full((1, num_prompts), FRESH), exposure[:-1]])
        moves = ((levels - FRESH) * num_places + places).astype(np.min_scalar_type(len(level)))
        return cls(symbols, moves, level, np.ones_like(level), place, None, num_prompts, 1)

    @classmethod
    def packed(
        cls,
        symbols: NDArray[np.integer],
        exposure: NDArray[np.integer],
        places: NDArray | None = None,
        num_lanes: int = 256,
        order: NDArray[np.integer] | None = None,
    ) -> Sequences:
        """Cells for observations only, prompts one after another in about `num_lanes` lanes of one length.

        A prompt that was never observed is in none of them.

        Args:
            symbols, exposure: (step prompt).
            places: (prompt,) of each prompt on the chain's cluster axes; None where one entry serves all.
            num_lanes: lanes to aim for; there are fewer where a lane must be longer to hold the prompt seen most.
            order: (prompt,) in which prompts are laid out; default as they stand.
        """
        num_prompts = symbols.shape[1]
        places = np.zeros(num_prompts, np.int64) if places is None else np.asarray(places)
        order = np.arange(num_prompts) if order is None else np.asarray(order)
        visited = (symbols > 0) | (exposure > 0)
        visited[0] |= visited.any(axis=0)  # where a prompt's chain begins
        rank, step = np.nonzero(visited.T[order])

        # A gap longer than there are powers of the idle matrix is crossed in several moves.
        last = np.append(rank[1:] != rank[:-1], True)
        gap = np.where(last, 0, np.append(np.diff(step), 0))
        num_powers = max(int(np.sqrt(symbols.size / (CELLS_PER_POWER * (places.max(initial=0) + 1)))), 1)
        crossings = np.maximum(-(-gap // num_powers), 1)
        event = np.repeat(np.arange(len(step)), crossings)
        crossing = np.arange(len(event)) - np.repeat(np.cumsum(crossings) - crossings, crossings)
        rank, step, shown = rank[event], step[event], crossing == 0
        gap = np.minimum(gap[event] - crossing * num_powers, num_powers)
        prompt = order[rank]

        # How each cell is come to: from the cell before it, unless that is another prompt's.
        fresh = np.append(True, rank[1:] != rank[:-1])
        level = np.where(fresh, FRESH, np.append(0, np.where(shown, exposure[step, prompt], 0)[:-1]))
        gap = np.where(fresh, 1, np.append(1, gap[:-1]))
        kinds = np.stack([level - FRESH, gap, places[prompt]])
        sizes = kinds.max(axis=1) + 1
        codes, moves = np.unique(np.ravel_multi_index(kinds, sizes), return_inverse=True)
        level, gap, place = np.unravel_index(codes, sizes)

        # Whole prompts, as many to a lane as it has room for.
        ends = np.append(np.flatnonzero(fresh)[1:], len(fresh))
        length = max(int(np.diff(ends, prepend=0).max()), -(-len(fresh) // num_lanes))
        begins = [0]
        while begins[-1] < len(fresh):
            begins.append(int(ends[np.searchsorted(ends, begins[-1] + length, side="right") - 1]))
        lane = np.repeat(np.arange(len(begins) - 1), np.diff(begins))
        at = np.arange(len(fresh)) - np.asarray(begins)[lane], lane

        def laid(values: NDArray, empty: int, dtype: Any) -> NDArray:
            out = np.full((length, len(begins) - 1), empty, dtype)
            out[at] = values
            return out

        return cls(
            laid(np.where(shown, symbols[step, prompt], 0), 0, symbols.dtype),
            laid(moves, 0, np.min_scalar_type(len(codes))),
            level + FRESH,
            gap,
            place,
            laid(prompt, num_prompts, np.int32),
            num_prompts,
            int(gap.max()),
        )

    @property
    def num_lanes(self) -> int:
        """Lanes."""
        return int(self.symbols.shape[1])

    @property
    def path_length(self) -> int:
        """Number of states on the paths of all cells, those at steps that nobody observed included."""
        steps = self.gap[self.moves]
        return int(steps.sum() if self.owner is None else steps[self.owner < self.num_prompts].sum())

    def lanes(self, chosen: Any) -> Sequences:
        """Some of the lanes; prompts keep their numbers."""
        owner = None if self.owner is None else self.owner[:, chosen]
        parts = (self.symbols[:, chosen], self.moves[:, chosen], self.level, self.gap, self.place, owner)
        return Sequences(*parts, self.num_prompts, self.longest_gap)

    def chunks(self, number: int) -> Iterator[Sequences]:
        """All lanes of packed sequences in so many parts of one size, so that a kernel compiles once.

        Lanes that the last part has too few of are empty ones.
        """
        number = min(number, self.num_lanes)
        size = -(-self.num_lanes // number)
        missing = size * number - self.num_lanes
        symbols, moves = (np.pad(part, ((0, 0), (0, missing))) for part in (self.symbols, self.moves))
        owner = np.pad(self.owner, ((0, 0), (0, missing)), constant_values=self.num_prompts)
        filled = Sequences(symbols, moves, self.level, self.gap, self.place, owner, self.num_prompts, self.longest_gap)
        for begin in range(0, size * number, size):
            yield filled.lanes(slice(begin, begin + size))

    def batches(self, num_lanes: int, seed: int) -> Iterator[Sequences]:
        """Without end, so many lanes at a time in random order; those left over in a pass wait for the next."""
        rng = np.random.default_rng(seed)
        while True:
            order = rng.permutation(self.num_lanes)
            for begin in range(0, self.num_lanes - num_lanes + 1, num_lanes):
                yield self.lanes(order[begin : begin + num_lanes])
