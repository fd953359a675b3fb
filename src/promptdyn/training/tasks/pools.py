"""Draw pools of prompts to train on, and held-out prompts to measure on."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from promptdyn.errors import InputError
from promptdyn.training.tasks.families import FAMILIES, Part
from promptdyn.training.tasks.kinds import stream

__all__ = ["held_out", "make_pool"]

PATIENCE = 2000  # draws without a new prompt after which a kind counts as exhausted


def make_pool(
    name: str = "arithmetic", num_prompts: int = 1000, seed: int = 0, split: str = "train"
) -> list[dict[str, Any]]:
    """Draw a pool of distinct prompts, with each part of a family in its share.

    Args:
        name: family, one of `FAMILIES`.
        num_prompts: prompts in the pool, at least 1.
        seed: random seed; the same arguments give the same pool on every machine.
        split: "train" or "test"; they share no prompt, whatever the other arguments.

    Returns:
        One row per prompt, with the kinds of a part interleaved. Columns: `prompt_id` (such as "add-2/47+85=", the same
        in every pool), `prompt` (of the family "few_shot", with solved examples before the question), `answer`, `task`,
        `difficulty` (int).

    Raises:
        InputError: the family or split is unknown, or `num_prompts` is below 1 or more than the family has.
    """
    parts = _parts(name)
    if num_prompts < 1:
        raise InputError(f"num_prompts is {num_prompts}: ask for at least 1")
    pool: dict[str, dict[str, Any]] = {}  # by prompt, since two kinds may draw the same prompt
    share = 0.0
    for part in parts:
        share += part.share
        target_size = round(num_prompts * share)
        streams = [stream(kind, seed, split) for kind in part.kinds]
        while len(pool) < target_size:
            if not streams:
                source = f"family {name!r}" + (f", part {part.name!r}," if len(parts) > 1 else "")
                raise InputError(
                    f"{source} has {len(pool)} prompts in split {split!r}: ask for no more, not {target_size}"
                )
            for rows in list(streams):
                row = _fresh(rows, pool)
                if row is None:
                    streams.remove(rows)
                elif len(pool) < target_size:
                    pool[row["prompt"]] = row
    return list(pool.values())


def held_out(name: str, prompts_per_kind: int, seed: int = 0) -> list[dict[str, Any]]:
    """Draw distinct prompts of the test split, equally many of each kind of a family, to measure accuracy by kind.

    Args:
        name: family, one of `FAMILIES`.
        prompts_per_kind: at least 1; a kind with fewer prompts gives all it has.
        seed: random seed.

    Returns:
        Rows as those of `make_pool`, kind after kind.

    Raises:
        InputError: the family is unknown, or `prompts_per_kind` is below 1.
    """
    parts = _parts(name)
    if prompts_per_kind < 1:
        raise InputError(f"prompts_per_kind is {prompts_per_kind}: ask for at least 1")
    rows_by_prompt: dict[str, dict[str, Any]] = {}
    for kind in (kind for part in parts for kind in part.kinds):
        rows, missing = stream(kind, seed, "test"), prompts_per_kind
        while missing and (row := _fresh(rows, rows_by_prompt)):
            rows_by_prompt[row["prompt"]] = row
            missing -= 1
    return list(rows_by_prompt.values())


def _parts(name: str) -> tuple[Part, ...]:
    if name not in FAMILIES:
        raise InputError(f"no task family {name!r}: choose one of {', '.join(FAMILIES)}")
    return FAMILIES[name]


def _fresh(rows: Iterator[dict[str, Any]], pool: dict[str, Any]) -> dict[str, Any] | None:
    """Return the next row whose prompt is not in the pool; None if the kind is exhausted."""
    return next((row for row in islice(rows, PATIENCE) if row["prompt"] not in pool), None)
