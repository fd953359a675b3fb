"""What the tests of verl share: its environment, its queue, and inputs of a run."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import verl_run


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, policy and reward of a run."""
    folder = tmp_path_factory.mktemp("inputs")
    verl_run.write_inputs(folder, verl_run.sums())
    return folder


@pytest.fixture(scope="session")
def _queue() -> Iterator[None]:
    """Ray and verl's TransferQueue, which all drivers of a process share."""
    os.environ.update(verl_run.ENVIRONMENT)
    import ray
    import transfer_queue
    from omegaconf import open_dict

    ray.init(
        num_cpus=8,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=200_000_000,
        runtime_env={"env_vars": {**verl_run.ENVIRONMENT, "PYTHONPATH": os.pathsep.join(sys.path)}},
    )
    config = verl_run.composed("data.train_files=none", "data.val_files=none")
    with open_dict(config):
        config.transfer_queue.enable = True
        config.transfer_queue.backend.SimpleStorage.num_data_storage_units = 1
    transfer_queue.init(config.transfer_queue)
    yield
    transfer_queue.close()
    ray.shutdown()


@pytest.fixture
def driver(_queue: None, inputs: Path, tmp_path: Path) -> Callable[..., verl_run.Driver]:
    """Function that makes a driver; the queue is empty at the start of a test."""
    verl_run.empty_queue()

    def make(*more: str, **named: object) -> verl_run.Driver:
        return verl_run.Driver(inputs, tmp_path / "run", *more, **named)  # type: ignore[arg-type]

    return make
