"""A reader of a format that the package does not know: lines "STEP PROMPT REWARD", one a rollout."""

from collections import Counter
from dataclasses import dataclass

from promptdyn.errors import InputError
from promptdyn.history import RewardHistory
from promptdyn.readers import Reader


@dataclass(frozen=True)
class Pairs(Reader):
    """Options are fields: `least` is the reward from which on a rollout succeeds."""

    least: float = 1.0

    name = "pairs"

    def recognizes(self, path):
        return path.suffix == ".pairs"

    def read(self, paths, source):
        rollouts: Counter[tuple[int, str]] = Counter()
        successes: Counter[tuple[int, str]] = Counter()
        for path in paths:
            for number, line in enumerate(path.read_text().splitlines(), 1):
                try:
                    step, prompt_id, reward = line.split()
                    group = int(step), prompt_id
                    successes[group] += float(reward) >= self.least
                except ValueError:
                    raise InputError(f"{path} line {number}: {line!r} is not STEP PROMPT REWARD") from None
                rollouts[group] += 1
        groups = sorted(rollouts)
        return RewardHistory.from_columns(
            [step for step, _ in groups],
            [prompt_id for _, prompt_id in groups],
            num_successes=[successes[group] for group in groups],
            num_rollouts=[rollouts[group] for group in groups],
        )
