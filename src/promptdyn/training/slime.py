"""Let a selector choose the prompts of a slime run, by two options and no code of one's own.

    --data-source-path promptdyn.training.slime.SelectionDataSource
    --rollout-all-samples-process-path promptdyn.training.slime.observe

Both work in slime's rollout manager, one process, which holds the data source and calls the rollout function. The
data source hands out the groups that the selector chooses; `observe` receives every group of a rollout that ended,
also those that slime's dynamic filter drops. Written for slime 0.2.2 and its main branch of October 2026.
"""

from __future__ import annotations

import copy
import logging
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

from promptdyn.errors import InputError, install_hint
from promptdyn.selection import Session
from promptdyn.selection.files import load_selector
from promptdyn.training.dataset import dataset_of
from promptdyn.training.driver import HISTORY_FILE, Driver, Settings, number

with install_hint():
    from slime.rollout.data_source import RolloutDataSourceWithBuffer
    from slime.utils.logging_utils import log
    from slime.utils.metric_utils import compute_rollout_step
    from slime.utils.misc import load_function

__all__ = ["SelectionDataSource", "note_trained", "observe"]

DATA_SOURCE = "--data-source-path promptdyn.training.slime.SelectionDataSource"
OBSERVE = "--rollout-all-samples-process-path promptdyn.training.slime.observe"
FILTER = "--dynamic-sampling-filter-path slime.rollout.filter_hub.dynamic_sampling_filters.check_reward_nonzero_std"
SETTINGS = "promptdyn"  # attribute of slime's arguments, set by the file of --custom-config-path

logger = logging.getLogger(__name__)


class SelectionDataSource(RolloutDataSourceWithBuffer):
    """slime's data source, but new groups are of the prompts that the selector chooses.

    slime makes it if one sets `--data-source-path promptdyn.training.slime.SelectionDataSource` and
    `--rollout-all-samples-process-path promptdyn.training.slime.observe`.

    The settings of selection are optional. They stand under `promptdyn` in the file of `--custom-config-path`:
    `selector` (default "auto"), parts of its `Recipe` to replace (`dynamics`, `strategy`, `score`, `success`,
    `refit_every`), `id_column`, `label_columns` and `history_path`; the history is in the folder of `--save` by
    default. Columns are the keys of the samples' metadata, see `--metadata-key`.

    A prompt is in flight while its group is rolled out or waits in slime's buffer (partial rollouts); groups that slime
    cancels are lost. Groups of a rollout are learned from and recorded together, under slime's number of the rollout,
    from 0. The state is in the folder of slime's own, `SAVE/rollout/promptdyn_{rollout}.npz`.

    Args:
        args: slime's arguments.

    Raises:
        InputError: the second option is missing; the rollout function is fully asynchronous; a setting is unknown or
            out of range; the settings do not fit the data; there are fewer prompts than slime rolls out at once.
    """

    def __init__(self, args: Namespace) -> None:
        settings = _read_settings(args)
        super().__init__(args)
        if self.dataset is None:
            raise InputError("slime has no prompts to choose from: set --prompt-data, and keep the global dataset on")
        samples = list(self.dataset.samples)
        self._driver = Driver(
            settings,
            _rows(samples, settings.id_column),
            num_generations=args.n_samples_per_prompt,
            seed=args.rollout_seed,
        )
        self._samples = {prompt_id: samples[row] for prompt_id, row in self._driver.rows.items()}
        at_once = max(args.rollout_batch_size, getattr(args, "over_sampling_batch_size", None) or 0)
        if len(self._samples) < at_once:
            raise InputError(
                f"the prompt data have {len(self._samples)} different prompts, and slime takes {at_once} at once: add "
                "prompts, or lower --rollout-batch-size or --over-sampling-batch-size"
            )
        if settings.history_path is None:
            logger.warning("no history is recorded: set --save, or promptdyn.history_path")
        self._rollout_id = 0
        self._begun = False  # whether the present rollout has asked for prompts
        self._reported = False  # whether a rollout has been reported
        self._prompt_of: dict[int, str] = {}  # slime's index of a group in flight -> its prompt
        # Only this hook tells which groups slime trains on.
        if args.rollout_sample_filter_path != NOTE_TRAINED:
            args.promptdyn_sample_filter_path = args.rollout_sample_filter_path
            args.rollout_sample_filter_path = NOTE_TRAINED

    @property
    def session(self) -> Session:
        """The session between slime and the selector."""
        return self._driver.session

    def get_samples(self, num_samples: int) -> list[list[Any]]:
        """Return groups to roll out: first those that wait in the buffer, then groups of chosen prompts.

        Raises:
            InputError: so many prompts are not left in this rollout.
        """
        if not self._begun:
            self._begin()
        groups: list[list[Any]] = self._get_samples_from_buffer(num_samples)
        missing = num_samples - len(groups)
        available = self.session.num_available
        if missing > available:
            raise InputError(
                f"rollout {self._rollout_id}: slime asks for {missing} more prompts, and {available} of "
                f"{len(self._samples)} are left, since the others are in flight or were rolled out in this rollout: "
                + self._reason()
            )
        return [*groups, *map(self._group, self.session.take(missing) if missing else ())]

    def _reason(self) -> str:
        if self.args.dynamic_sampling_filter_path is not None:
            return "too few groups pass --dynamic-sampling-filter-path: add prompts that vary"
        return "add prompts or lower --rollout-batch-size" if self._reported else self._silent()

    def _silent(self) -> str:
        return (
            f"no group has been reported yet: does {self.args.rollout_function_path} call the function of "
            "--rollout-all-samples-process-path?"
        )

    def _begin(self) -> None:
        """Begin a rollout. Groups in flight that slime did not put into its buffer are lost."""
        waiting = {group[0].group_index for group in self.buffer if group}
        self._prompt_of = {index: name for index, name in self._prompt_of.items() if index in waiting}
        self.session.lost(set(self.session.in_flight).difference(self._prompt_of.values()))
        self.session.begin(self._rollout_id)
        self._begun = True

    def _group(self, prompt_id: str) -> list[Any]:
        """Return a new group of a prompt, numbered as slime does."""
        group = [copy.deepcopy(self._samples[prompt_id]) for _ in range(self.args.n_samples_per_prompt)]
        for sample in group:
            sample.group_index, sample.index = self.sample_group_index, self.sample_index
            self.sample_index += 1
        self._prompt_of[self.sample_group_index] = prompt_id
        self.sample_group_index += 1
        return group

    def learn(self, groups: Sequence[Sequence[Any]]) -> None:
        """Learn from the groups of a rollout that ended, and log the selection's metrics as "rollout/selection/...".

        Args:
            groups: (group, rollout) slime's samples; lists of samples for rollouts of several. The last sample of a
                rollout has its reward. Groups that this data source did not hand out are left out.

        Raises:
            InputError: a reward is no number, or the rule of success names a number that no rollout has.
        """
        if not self._begun:
            self._begin()
        rollouts = [[item if isinstance(item, list) else [item] for item in group] for group in groups]
        infos = [_info(parts[-1]) for group in rollouts for parts in group if parts]
        self._driver.named.to_read(infos)
        noted = getattr(self.args, "promptdyn_trained", None)  # None: the rollout function calls no sample filter
        self.args.promptdyn_trained = None
        trained = set(self._prompt_of) if noted is None else set(noted)
        for group in rollouts:
            index = next((part.group_index for parts in group for part in parts), None)
            prompt_id = None if index is None else self._prompt_of.pop(index, None)
            if prompt_id is not None:
                last = [parts[-1] for parts in group if parts]
                rewards = self._driver.named.group(
                    [_reward(self.args, sample) for sample in last], [_info(sample) for sample in last]
                )
                self._driver.end(prompt_id, rewards, trained=index in trained)
        self._driver.named.check("its reward or metadata", self._rollout_id)
        self.session.step()
        if self._rollout_id + 1 >= self._num_rollouts():  # slime does not tell the end
            self.session.settle()
        metrics = {f"rollout/{name}": value for name, value in self.session.metrics().items()}
        step = compute_rollout_step(self.args, self._rollout_id)
        log(self.args, {**metrics, "rollout/step": step}, step_key="rollout/step")
        self._rollout_id += 1
        self._begun, self._reported = False, True

    def _num_rollouts(self) -> int:
        if self.args.num_rollout is not None:
            return int(self.args.num_rollout)
        return int(len(self.dataset) // self.args.rollout_batch_size * self.args.num_epoch)

    def save(self, rollout_id: int) -> None:
        """Write slime's state and the selector's, and bring the history up to date."""
        super().save(rollout_id)
        if not self._reported:
            logger.warning("rollout %s: %s", rollout_id, self._silent())
        path = _state_file(self.args.save, rollout_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.session.save(path)

    def load(self, rollout_id: int | None = None) -> None:
        """Go on after a rollout from what `save` wrote. Groups that were in flight are lost, as slime loses them.

        Raises:
            InputError: the state is that of another pool, model or selector, or is damaged.
        """
        super().load(rollout_id)
        self._rollout_id, self._begun = 0 if rollout_id is None else rollout_id + 1, False
        if self.args.load is None or self._rollout_id == 0:
            return
        path = _state_file(self.args.load, rollout_id)
        if path.is_file():
            load_selector(
                path, lambda state: self._driver.resume(state, "the saved state", "remove the file to start anew")
            )
        else:
            logger.warning("%s does not exist: the selector starts from what it knows now", path)


def observe(args: Namespace, all_samples: Sequence[Sequence[Any]], data_source: Any) -> None:
    """Let the selector learn from a rollout. slime calls it with every group that ended, dropped ones too.

    Args:
        args: slime's arguments.
        all_samples: (group, rollout) samples.
        data_source: slime's data source, or its bound method `get_samples`.

    Raises:
        InputError: the data source is another, or as in `SelectionDataSource.learn`.
    """
    source = getattr(data_source, "__self__", data_source)
    if not isinstance(source, SelectionDataSource):
        raise InputError(f"{OBSERVE} needs its data source: set {DATA_SOURCE}")
    source.learn(all_samples)


def note_trained(args: Namespace, groups: Sequence[Sequence[Any]]) -> None:
    """Note which groups slime trains on. The data source sets it as slime's `--rollout-sample-filter-path`.

    The function that a user set there runs first; groups of which it removes every sample count as not trained.
    """
    if args.promptdyn_sample_filter_path is not None:
        load_function(args.promptdyn_sample_filter_path)(args, groups)
    args.promptdyn_trained = [
        sample.group_index
        for group in groups
        for item in group
        for sample in (item if isinstance(item, list) else [item])
        if not sample.remove_sample
    ]


NOTE_TRAINED = "promptdyn.training.slime.note_trained"


def _read_settings(args: Namespace) -> Settings:
    """Read the settings of selection; raises InputError if prompts cannot be chosen under slime's arguments."""
    given = getattr(args, SETTINGS, None) or {}
    if not isinstance(given, Mapping):
        raise InputError(f"{SETTINGS}: {given!r} in the file of --custom-config-path is no mapping of settings")
    if "fully_async" in args.rollout_function_path:
        raise InputError(
            f"--rollout-function-path {args.rollout_function_path} does not report the groups that end: use "
            "slime.rollout.sglang_rollout.generate_rollout, also with train_async.py"
        )
    if args.rollout_all_samples_process_path is None:
        raise InputError(f"SelectionDataSource needs to hear of the groups that end: set {OBSERVE}")
    return Settings.read(
        given,
        process="slime's rollout manager",
        place=f"{SETTINGS} in the file of --custom-config-path",
        history_path=None if args.save is None else Path(args.save, HISTORY_FILE),
        filter_off=f"which slime does itself: set {FILTER} too" if args.dynamic_sampling_filter_path is None else None,
    )


def _rows(samples: Sequence[Any], id_column: str) -> Dataset:
    """Return the samples as rows: prompt, label, and what their metadata hold."""
    metadata = [sample.metadata if isinstance(sample.metadata, Mapping) else {} for sample in samples]
    has_ids = any(id_column in each for each in metadata)
    if not has_ids and any(sample.multimodal_inputs is not None for sample in samples):
        raise InputError(
            f"prompts with pictures or sounds need ids: add {id_column!r} to the metadata of every row (--metadata-key)"
        )
    return dataset_of(
        [
            {**each, "prompt": sample.prompt, "label": sample.label}
            for sample, each in zip(samples, metadata, strict=True)
        ]
    )


def _reward(args: Namespace, sample: Any) -> float | None:
    """Return a sample's reward; None if it was aborted."""
    if sample.reward is None or sample.status == type(sample).Status.ABORTED:
        return None
    reward = number(sample.get_reward_value(args))
    if reward is None:
        raise InputError(f"the reward {sample.reward!r} of a sample is no number: name its part by --reward-key")
    return reward


def _info(sample: Any) -> dict[str, Any]:
    """Return what came with a sample's reward, by name."""
    parts = (sample.metadata, sample.reward)
    return {name: value for part in parts if isinstance(part, Mapping) for name, value in part.items()}


def _state_file(folder: str, rollout_id: int | None) -> Path:
    return Path(folder, "rollout", f"promptdyn_{rollout_id}.npz")
