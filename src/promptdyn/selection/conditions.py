"""Conditions on what is forecast of a prompt: which prompts of a pool to look at."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError
from promptdyn.online import OnlineFilter
from promptdyn.selection.scores import SCORES, entropy
from promptdyn.success import Rewards
from promptdyn.success.rules import Conditions, parse

__all__ = ["meets"]

# The entropy of the forecast outcome is a measure of doubt and no score: it also counts what training cannot use.
ENTROPY = "entropy"


def meets(condition: str, online: OnlineFilter, num_rollouts: int) -> NDArray[np.bool_]:
    """Tell which prompts' forecasts meet a condition.

    Args:
        condition: as a rule of success is written, with names of scores: "informative>=0.2", "entropy>=0.5" (in nats,
            at most log 3: the doubt whether none, some or all rollouts succeed), "success_rate<=0.9 and entropy>=0.3",
            "FILE.py:SCORE>=1".
        online: a filter over the pool.
        num_rollouts: number of rollouts per prompt that are forecast.

    Returns:
        (prompt,) flags.

    Raises:
        InputError: `condition` is no condition, or names an unknown score.
    """
    rule = parse(condition, "where")
    if not isinstance(rule, Conditions) or not rule.is_complete or None in _names(rule):
        raise InputError(f"where={condition!r}: write SCORE>=NUMBER, as in 'informative>=0.2' or 'entropy>=0.5'")
    values = {}
    for name in rule.functions:
        if name == ENTROPY:
            values[name] = entropy(online.outcome(num_rollouts))
        elif name == "success_rate":
            values[name] = online.success_rate()
        else:
            score = SCORES.resolve(name)
            values[name] = np.asarray(score(online, num_rollouts, None), float)
    forecasts = Rewards(tuple(values), np.ones(len(values)), np.stack(list(values.values()), axis=1))
    return rule.grades(forecasts) == 1


def _names(rule: Conditions) -> list[str | None]:
    return [condition.function for conditions in rule.alternatives for condition in conditions]
