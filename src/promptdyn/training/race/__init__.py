"""Race selectors: each trains from the same start with the same budget of rollouts, on several seeds.

A YAML file declares a race (`read_race`). `race` makes its runs one by one and saves each result, so a race that was
cut off continues where it stopped. `standings` compares the results.
"""

from promptdyn.training.race.declared import Entrant, Race, Run, read_race
from promptdyn.training.race.runs import RESULT_FILE, race, total_rollouts
from promptdyn.training.race.standings import Standing, bands, standings, tables, write_standings

__all__ = [
    "RESULT_FILE",
    "Entrant",
    "Race",
    "Run",
    "Standing",
    "bands",
    "race",
    "read_race",
    "standings",
    "tables",
    "total_rollouts",
    "write_standings",
]
