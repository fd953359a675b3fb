"""Rules of success: a rule turns a rollout's rewards, one per reward function, into success or failure.

Users give a rule, or let it be found from a run's first rewards ("auto"). Selection, dynamic sampling, recording, the
readers of logs and races all grade with a `Grader`. This room knows no trainer and no file format; it uses NumPy only.

A rule in text is a number, or conditions on reward functions:

    0.5                               the folded reward (weighted sum over functions) is at least 0.5
    correct>=0.8                      the function `correct` gave at least 0.8
    correct>=1 and repetition<=0      both hold
    correct                           a bound for `correct` is found from the first rewards
    math>=1 or code>=1                either holds, among the functions that graded the rollout
    auto                              everything is found from the first rewards
"""

from promptdyn.success.grader import Grader
from promptdyn.success.rewards import FOLDED, Rewards, moments, spread
from promptdyn.success.rules import AUTO, Rule, Success

__all__ = ["AUTO", "FOLDED", "Grader", "Rewards", "Rule", "Success", "moments", "spread"]
