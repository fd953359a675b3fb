"""verl's dataset, which hands out the rows that a selector chooses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from verl.utils.dataset.rl_dataset import RLHFDataset

from promptdyn.errors import InputError
from promptdyn.training.verl.run import ID_COLUMN, Run

__all__ = ["SelectionDataset"]


class SelectionDataset(RLHFDataset):
    """verl's dataset, but the rows are those that the selector chooses. Validation data stay as they are.

    Use it together with `SelectionReplayBuffer`, which takes the settings. verl makes it if one sets
    `data.custom_cls.path=pkg://promptdyn.training.verl`, `data.custom_cls.name=SelectionDataset` and
    `data.dataloader_num_workers=0`.

    The distinct rows of the data are the prompts, see `promptdyn.training.dataset.prompt_rows`. In verl's checkpoints
    the state of the dataset is the session's.

    Raises:
        InputError: `SelectionReplayBuffer` is not set; an id is empty or that of two rows that differ; there are fewer
            prompts than verl takes at once; the selector's settings do not fit the data; or a run resumes from a
            checkpoint of another pool or model.
    """

    def __init__(self, *positional: Any, **named: Any) -> None:
        super().__init__(*positional, **named)
        run = Run.current
        if run is None:
            raise InputError(
                "SelectionDataset needs its replay buffer: set trainer.use_v1=True, "
                "trainer.v1.sampler.custom_sampler.path=pkg://promptdyn.training.verl and "
                "trainer.v1.sampler.custom_sampler.name=SelectionReplayBuffer"
            )
        self._run = run if run.dataset is None else None  # verl makes the training data first
        if self._run is not None:
            self.dataframe = self._run.open(self)

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        """Return as many chosen rows as there are indices; of validation data, the rows at the indices."""
        if self._run is None:
            return [self[index] for index in indices]
        return [{**self[row], ID_COLUMN: prompt_id} for prompt_id, row in self._run.take(len(indices))]

    def state_dict(self) -> dict[str, Any]:
        """Return the session's state, and bring the history up to date. Validation data have no state."""
        if self._run is None:
            return {}
        self._run.session.write()
        return self._run.session.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        if self._run is not None:
            self._run.resume(state)
