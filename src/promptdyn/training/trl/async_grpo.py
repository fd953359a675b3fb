"""Experimental: a selector that chooses the prompts of TRL's asynchronous GRPO trainer.

    from promptdyn.training.trl.async_grpo import SelectionAsyncGRPOTrainer

    trainer = SelectionAsyncGRPOTrainer(model, reward_funcs, args=AsyncGRPOConfig(...), train_dataset=dataset)
    trainer.train()

TRL rolls out in a process of its own, whose groups end one by one while the trainer trains on earlier ones. The session
lives in that process, next to the dataset and the reward functions. The trainer's process asks it for its state,
through a queue, when it saves a checkpoint. Written for `trl.experimental.async_grpo` of TRL 1.16, which may change.
"""

from __future__ import annotations

import asyncio
import logging
import math
import pickle
import queue
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import trl
from datasets import Dataset
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl.experimental.async_grpo import AsyncGRPOConfig, AsyncGRPOTrainer
from trl.experimental.async_grpo.async_rollout_worker import AsyncRolloutWorker, _AsyncRolloutLoop

from promptdyn.errors import InputError
from promptdyn.prompts import AUTO
from promptdyn.selection import Session
from promptdyn.selection.files import load_selector, write_selector
from promptdyn.success import Success
from promptdyn.training.driver import HISTORY_FILE, Driver, Settings
from promptdyn.training.trl.mixin import SELECTOR_FILE

__all__ = ["SelectionAsyncGRPOTrainer", "SelectionRolloutLoop", "SelectionRolloutWorker"]

# Methods of TRL's that the classes here replace or use, and that TRL does not promise to keep.
OF_LOOP = ("_generate_loop", "_push_metrics", "_repeat_iterator", "_run_loops", "_score_group", "run")
OF_WORKER = ("_loop_cls", "check_health", "start")
ANSWER_WITHIN = 60.0  # seconds for the rollout process to send its state

logger = logging.getLogger(__name__)


class Selection(NamedTuple):
    """What the rollout process needs to choose prompts.

    Attributes:
        settings: the settings of selection.
        groups_per_step: groups of an optimizer step.
        seed: random seed of the selector.
        state: a session's saved state to go on from, or None.
        asked: event that is set when the trainer wants the session's state.
        states: queue that takes the states.
    """

    settings: Settings
    groups_per_step: int
    seed: int
    state: Mapping[str, Any] | None
    asked: Any
    states: Any

    def driver(self, dataset: Dataset, num_generations: int) -> Driver:
        """Make the selection of prompts, and go on from the saved state if there is one."""
        driver = Driver(
            self.settings, dataset, num_generations=num_generations, seed=self.seed, block=self.groups_per_step
        )
        if self.state is not None:
            driver.resume(self.state, "the saved state", "remove the file to start anew")
            driver.session.lost(driver.session.in_flight)  # TRL rolls out nothing again
        return driver


class SelectionRolloutLoop(_AsyncRolloutLoop):
    """TRL's rollout loop, which runs in the rollout process, on prompts that the selector chooses.

    A prompt is in flight until its group is graded. As many groups as an optimizer step takes are learned from and
    recorded together, in the order in which they end; the number of a step in the history counts these.

    Args:
        selection: see `Selection`.
        **named: what TRL passes to its loop.
    """

    def __init__(self, *, selection: Selection, **named: Any) -> None:
        super().__init__(**named)
        told = logging.getLogger("promptdyn")  # by the trainer's process
        level = told.level
        told.setLevel(logging.ERROR)
        try:
            self._driver = selection.driver(self.dataset, self.num_generations)
        finally:
            told.setLevel(level)
        self._selection = selection
        self._prompt_of: dict[int, str] = {}  # TRL's number of a group -> its prompt

    @property
    def selection(self) -> Session:
        """The session between the loop and the selector; `session` is the loop's with vLLM."""
        return self._driver.session

    def run(self) -> None:
        """Roll out, as TRL does, until the trainer stops or the loop fails; then complete the history."""
        try:
            super().run()
        finally:
            self.selection.close()

    async def _run_loops(self, stop_event: asyncio.Event) -> None:
        answering = asyncio.create_task(self._answer())
        try:
            await super()._run_loops(stop_event)
        finally:
            answering.cancel()

    async def _answer(self) -> None:
        """Send the session's state whenever the trainer asks for it."""
        while True:
            if self._selection.asked.is_set():
                self._selection.asked.clear()
                self.selection.write()
                self._selection.states.put(self.selection.state_dict())
            await asyncio.sleep(0.05)

    def _repeat_iterator(self) -> Iterator[tuple[int, dict[str, Any]]]:
        group_id = 0
        while True:
            (prompt_id,) = self.selection.take(1)
            self._prompt_of[group_id] = prompt_id
            row = self.dataset[self._driver.rows[prompt_id]]
            for _ in range(self.num_generations):
                yield group_id, row
            group_id += 1

    async def _score_group(self, group: Any) -> list[Any]:
        samples = await super()._score_group(group)
        prompt_id = self._prompt_of.pop(group.group_id)
        rewards: dict[str, list[float]] = {name: [] for name in self.reward_func_names}
        first = 0  # a rollout has a sample for every sequence that is trained on
        for sequences in group.completions_sequences:
            if sequences:
                for name, values in rewards.items():
                    values.append(samples[first].metrics[f"rewards/{name}"])
            first += len(sequences)
        if first:
            self.selection.end(prompt_id, rewards)
        else:
            self.selection.lost([prompt_id])
        if len(self.selection.ended) >= self._selection.groups_per_step:
            self.selection.step()
            metrics: dict[str, Any] = self.selection.metrics()
            self._push_metrics(metrics)
        return samples


class SelectionRolloutWorker(AsyncRolloutWorker):
    """TRL's handle on the rollout process, with a way to the session's state.

    Args:
        settings: the settings of selection.
        groups_per_step: groups of an optimizer step.
        seed: random seed of the selector.
        **named: what TRL passes to its worker: `dataset`, `reward_funcs`, `num_generations`, `max_inflight_tasks`, ...

    Attributes:
        loop: class of the loop that the rollout process runs; a derived worker may name another.

    Raises:
        InputError: the settings do not fit the data, a setting cannot be sent to another process, or there are fewer
            prompts than TRL may have in flight.
    """

    loop: type[SelectionRolloutLoop] = SelectionRolloutLoop

    def __init__(self, *, settings: Settings, groups_per_step: int, seed: int, **named: Any) -> None:
        missing = [name for name in OF_LOOP if not hasattr(_AsyncRolloutLoop, name)]
        missing += [name for name in OF_WORKER if not hasattr(AsyncRolloutWorker, name)]
        if missing:
            raise InputError(
                f"selection relies on {', '.join(missing)} of TRL's rollout worker, which TRL {trl.__version__} lacks: "
                "install the version that promptdyn is made for, pip install 'promptdyn[train]'"
            )
        super().__init__(**named)
        try:
            pickle.dumps(settings)
        except (pickle.PicklingError, AttributeError, TypeError):
            raise InputError(
                "the rule of success cannot be sent to TRL's rollout process: write the function in a file, and give "
                "success='FILE.py:FUNCTION'"
            ) from None
        self._selection = Selection(
            settings, groups_per_step, seed, None, self._mp_ctx.Event(), self._mp_ctx.Queue(maxsize=1)
        )
        options = self._loop_kwargs
        driver = self._selection.driver(options["dataset"], options["num_generations"])  # to refuse what cannot work
        waiting = options.get("score_queue_maxsize", 16) + groups_per_step
        at_once = math.ceil(options["max_inflight_tasks"] / options["num_generations"]) + waiting
        if len(driver.rows) < at_once:
            raise InputError(
                f"the dataset has {len(driver.rows)} different prompts, and TRL's rollout process may have {at_once} "
                f"in flight (max_inflight_tasks={options['max_inflight_tasks']}): add prompts, or lower it"
            )

    @property
    def _loop_cls(self) -> Any:  # type: ignore[override]  # TRL calls it with the loop's arguments
        return partial(self.loop, selection=self._selection)

    def resume(self, state: Mapping[str, Any]) -> None:
        """Let the rollout process go on from a session's saved state, once it starts.

        Raises:
            InputError: the state is that of another pool, model or selector, or is damaged.
        """
        selection = self._selection._replace(state=state)
        selection.driver(self._loop_kwargs["dataset"], self._loop_kwargs["num_generations"])
        self._selection = selection

    def state(self) -> dict[str, Any]:
        """Ask the rollout process for the session's state.

        Raises:
            RuntimeError: the rollout process has failed, or does not answer within a minute.
        """
        self._selection.asked.set()
        try:
            state: dict[str, Any] = self._selection.states.get(timeout=ANSWER_WITHIN)
        except queue.Empty:
            self.check_health(math.inf)
            raise RuntimeError(f"the rollout process sent no state within {ANSWER_WITHIN:.0f} s") from None
        return state


class SelectionAsyncGRPOTrainer(AsyncGRPOTrainer):
    """Experimental: TRL's `AsyncGRPOTrainer` with prompts chosen by a selector.

    Choices lag behind training by what is in flight, as all of TRL's asynchronous rollouts do. Every graded group
    counts as trained, also those that the trainer drops as stale later. A run that resumes goes on with all that had
    been learned when the checkpoint was saved; groups that were under way are lost.

    Args:
        model, reward_funcs, args, train_dataset: as for TRL's trainer; `train_dataset` is a `datasets.Dataset`.
        *positional, **named: further arguments of TRL's trainer, but for `rollout_worker`.
        selector: name of a selector, see `promptdyn.training.recipes.selector_recipe`. Default "auto", which needs
            label columns here, as the rollout process has no policy that could read the prompts.
        success: the rule of success, see `promptdyn.success`; a Python function must stand in a module or a file.
        history_path: file of the history; default `history.parquet` in `args.output_dir`.
        id_column, label_columns: as in `SelectionMixin`.

    Raises:
        InputError: `args` is missing; a setting is out of range, or does not fit the dataset; there are fewer prompts
            than TRL may have in flight; a run resumes from a checkpoint of another pool or model.
    """

    def __init__(
        self,
        model: str,
        reward_funcs: Any = None,
        args: AsyncGRPOConfig | None = None,
        train_dataset: Dataset | None = None,
        *positional: Any,
        selector: str = AUTO,
        success: Success | None = None,
        history_path: str | Path | None = None,
        id_column: str = "prompt_id",
        label_columns: Sequence[str] | None = None,
        **named: Any,
    ) -> None:
        if args is None:
            raise InputError("args is not given: pass TRL's AsyncGRPOConfig, with max_steps or num_train_epochs")
        if named.get("rollout_worker") is not None:
            raise InputError("rollout_worker is given, and selection needs its own: leave it out")
        given = {"selector": selector, "success": success, "id_column": id_column, "label_columns": label_columns}
        settings = Settings.read(
            {name: value for name, value in given.items() if value is not None},
            process="TRL's rollout process",
            place="selector",
            history_path=Path(str(args.output_dir), HISTORY_FILE) if history_path is None else Path(history_path),
            filter_off="which TRL's asynchronous trainer cannot: choose another",
        )
        super().__init__(model, reward_funcs, args, train_dataset, *positional, **named)
        self._selection_worker: SelectionRolloutWorker | None = None  # on the main process
        if self.accelerator.is_main_process:
            trls: Any = self.rollout_worker
            size = args.per_device_train_batch_size * args.gradient_accumulation_steps * self.accelerator.num_processes
            self._selection_worker = SelectionRolloutWorker(
                settings=settings,
                groups_per_step=max(size // args.num_generations, 1),
                seed=args.seed,
                **trls._loop_kwargs,
            )
            own: Any = self._selection_worker
            self.rollout_worker, self.rollout_queue = own, own.rollout_buffer

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self._selection_worker is not None:
            folder = Path(self._get_output_dir(trial=trial), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
            folder.mkdir(parents=True, exist_ok=True)
            write_selector(folder / SELECTOR_FILE, self._selection_worker.state())
        super()._save_checkpoint(model, trial)

    def _inner_training_loop(self, *positional: Any, **named: Any) -> Any:
        checkpoint = named.get("resume_from_checkpoint")
        if checkpoint is not None and self._selection_worker is not None:
            path = Path(checkpoint, SELECTOR_FILE)
            if path.is_file():
                load_selector(path, self._selection_worker.resume)
            else:
                logger.warning("%s does not exist: the selector starts anew", path)
        return super()._inner_training_loop(*positional, **named)
