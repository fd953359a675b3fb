"""Record a pool: roll out its prompts with one model, for a warm start or to check a checkpoint."""

from promptdyn.training.record.log import RolloutLog
from promptdyn.training.record.record import Progress, Recording, record
from promptdyn.training.record.settings import RecordSettings

__all__ = ["Progress", "RecordSettings", "Recording", "RolloutLog", "record"]
