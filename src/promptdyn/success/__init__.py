"""What a success is: the rule that turns the rewards of a rollout, one a reward function, into success or failure.

A rule is given, or found from a run's first rewards ("auto"). Selection, dynamic sampling, recording, the readers of
logs and races all grade by a `Grader`. Knows no trainer and no file format; NumPy only.

A rule in text is a number, or conditions on reward functions:

    0.5                               the folded reward (weighted sum over functions) is at least 0.5
    correct>=0.8                      the function `correct` gave at least 0.8
    correct>=1 and repetition<=0      both hold
    correct                           a bound for `correct` is found from the first rewards
    math>=1 or code>=1                either holds, of those whose functions graded the rollout
    auto                              everything is found from the first rewards
"""

from promptdyn.success.grader import Grader
from promptdyn.success.rewards import FOLDED, Rewards, moments, spread
from promptdyn.success.rules import AUTO, Rule, Success

__all__ = ["AUTO", "FOLDED", "Grader", "Rewards", "Rule", "Success", "moments", "spread"]
