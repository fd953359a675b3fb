"""Let a selector choose the prompts of a verl run (trainer V1 of verl 0.9), by configuration alone.

verl's driver process makes the replay buffer first, then the training data, then the validation data; both data are of
the class `SelectionDataset`. The training data ask the run's session which rows to hand out. The replay buffer sees
every group that ends, also those that verl drops, and tells the session. Worker processes have no part in it.

    data.custom_cls.path=pkg://promptdyn.training.verl
    data.custom_cls.name=SelectionDataset
    data.dataloader_num_workers=0
    trainer.v1.sampler.custom_sampler.path=pkg://promptdyn.training.verl
    trainer.v1.sampler.custom_sampler.name=SelectionReplayBuffer
"""

from importlib.metadata import version

from promptdyn.errors import InputError, install_hint

try:
    with install_hint():
        from promptdyn.training.verl.dataset import SelectionDataset
        from promptdyn.training.verl.replay_buffer import SelectionReplayBuffer
except ModuleNotFoundError as error:
    if not (error.name or "").startswith("verl."):
        raise
    raise InputError(
        f"verl {version('verl')} has no {error.name}: promptdyn chooses prompts in trainer V1 of verl 0.9; install it"
    ) from None

__all__ = ["SelectionDataset", "SelectionReplayBuffer"]
