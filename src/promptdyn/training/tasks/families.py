"""Families of tasks: which kinds make up a pool, and in which shares."""

from __future__ import annotations

from dataclasses import dataclass, replace

from promptdyn.training.tasks import sources
from promptdyn.training.tasks.kinds import Kind

__all__ = ["FAMILIES", "Part"]


@dataclass(frozen=True)
class Part:
    """A part of a family: some kinds and their common share of a pool.

    Attributes:
        name: name of the part, such as "frontier".
        share: share of a pool's prompts; the shares of a family add up to 1.
        kinds: kinds with equal shares, as far as each has enough prompts.
    """

    name: str
    share: float
    kinds: tuple[Kind, ...]


_ARITHMETIC = (
    *(Kind("add", digits, sources.sum_of(2, digits, "+")) for digits in (1, 2, 3)),
    *(Kind("subtract", digits, sources.sum_of(2, digits, "-")) for digits in (1, 2, 3)),
    *(Kind("chain", digits, sources.sum_of(3, digits)) for digits in (1, 2)),
    *(Kind("multiply", level, sources.product(*digits)) for level, digits in ((1, (1, 1)), (2, (2, 1)), (3, (2, 2)))),
    Kind("gcd", 1, sources.of_two("gcd", max_value=99)),
    Kind("lcm", 1, sources.of_two("lcm", max_value=30)),
)
_SEQUENCES = (
    *(Kind("next", operations, sources.next_number(operations)) for operations in (1, 2)),
    *(Kind("reverse", length - 3, sources.digits("rev", lambda text: text[::-1], length)) for length in (4, 5, 6, 7)),
    *(
        Kind("sort", length - 3, sources.digits("sort", lambda text: "".join(sorted(text)), length))
        for length in (4, 5, 6, 7)
    ),
)

_KINDS = {
    kind.name: kind
    for kind in (
        *_ARITHMETIC,
        *_SEQUENCES,
        Kind("add", 4, sources.sum_of(2, 4, "+")),
        Kind("subtract", 4, sources.sum_of(2, 4, "-")),
        Kind("chain", 3, sources.sum_of(3, 3)),
        Kind("chain", 4, sources.sum_of(4, 2)),
        Kind("multiply", 4, sources.product(3, 2)),
        Kind("multiply", 5, sources.product(3, 3)),
    )
}


_COUNTDOWN = sources.countdown(
    min_numbers=3, max_numbers=5, min_value=1, max_value=15, min_target=1, max_target=250, operators=("+", "-", "*")
)

# What a general language model is shown first, so that it answers with a number and a new line.
_EXAMPLES = "2+3=5\n17-4=13\n6*7=42\n"


def _part(name: str, share: float, *kinds: str) -> Part:
    return Part(name, share, tuple(_KINDS[kind] for kind in kinds))


FAMILIES: dict[str, tuple[Part, ...]] = {
    "arithmetic": (Part("all", 1.0, _ARITHMETIC),),
    "sequences": (Part("all", 1.0, _SEQUENCES),),
    "mixed": (Part("all", 1.0, (*_ARITHMETIC, *_SEQUENCES)),),
    # A search task of one kind: only the prompt itself tells whether it is within reach. The embedded policy was
    # trained on none with five numbers; answers have up to 16 tokens.
    "countdown": (Part("all", 1.0, (Kind("countdown", 1, _COUNTDOWN, longest_prompt=19, longest_answer=15),)),),
    # Prompts that the embedded policy solves, that are out of its reach, and that it can learn, which are scarce.
    "scarce": (
        _part("solved", 0.45, "add-1", "subtract-1", "reverse-1", "sort-1"),
        _part("out of reach", 0.43, "add-4", "subtract-4", "chain-3", "chain-4", "multiply-4", "multiply-5"),
        _part("frontier", 0.12, "add-2", "subtract-2", "reverse-3", "reverse-4", "sort-3", "sort-4"),
    ),
    # Sums, differences and products for a general language model, each kind a part. There are few of one digit.
    "few_shot": tuple(
        Part(name, 0.06 if name.endswith("1") else 0.82 / 6, (replace(_KINDS[name], examples=_EXAMPLES),))
        for name in (f"{task}-{difficulty}" for difficulty in (1, 2, 3) for task in ("add", "subtract", "multiply"))
    ),
}
