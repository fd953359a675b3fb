"""Let a selector choose the prompts of a SkyRL run, by one option and no code of one's own.

    python -m skyrl.train.entrypoints.main_base trainer.override_entrypoint=promptdyn.training.skyrl \
        selection.selector=auto ...

`main` is SkyRL's entrypoint with two parts replaced: the training data hand out the prompts that the selector chooses,
and the trainer tells it of every group that ended, before any filter. Who has an experiment class of their own derives
it from `SelectionExp`. Written for SkyRL 0.4.0; its fully asynchronous trainer is not supported.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptdyn.errors import InputError, install_hint
from promptdyn.selection import Session
from promptdyn.training.driver import HISTORY_FILE, Driver, Settings

with install_hint():
    import ray
    from skyrl.train.config import SkyRLTrainConfig
    from skyrl.train.entrypoints.main_base import BasePPOExp
    from skyrl.train.trainer import RayPPOTrainer
    from skyrl.train.utils import initialize_ray, validate_cfg

__all__ = ["SelectionConfig", "SelectionDataset", "SelectionExp", "SelectionMixin", "SelectionTrainer", "main"]

ENTRYPOINT = "trainer.override_entrypoint="
FULLY_ASYNC = "FullyAsyncRayPPOTrainer"
# Methods of SkyRL's trainer that `SelectionMixin` builds on and that SkyRL does not promise to keep.
OF_TRAINER = ("_remove_tail_data", "generate", "postprocess_generator_output", "train")

logger = logging.getLogger(__name__)


@dataclass
class SelectionConfig(SkyRLTrainConfig):
    """SkyRL's configuration, with the settings of selection under `selection`.

    Attributes:
        selection: all optional: `selector` (default "auto"), parts of its `Recipe` to replace (`dynamics`, `strategy`,
            `score`, `success`, `refit_every`), `id_column`, `label_columns` and `history_path`; the history is in
            `trainer.ckpt_path` by default. A rule of success may name "reward" and every number of a rollout's
            `env_metrics`.
    """

    selection: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.data.dataloader.num_workers is None:
            self.data.dataloader.num_workers = 0  # SkyRL takes 8, each of which would have a selector of its own
        super().__post_init__()


class SelectionDataset:
    """SkyRL's training data, but the rows are those that the selector chooses.

    In SkyRL's checkpoints the state of the data, in `data.pt`, is the session's.

    Args:
        dataset: SkyRL's `PromptDataset`, or another with its attributes `dataframe` and `prompt_key`.
        cfg: SkyRL's configuration; without `selection` all settings have their defaults.

    Attributes:
        driver: the selection of prompts.
        global_step: SkyRL's number of the present step. The trainer sets it.

    Raises:
        InputError: the dataloader has worker processes; a setting is unknown or out of range; the settings do not fit
            the data; there are fewer prompts than a batch has.
    """

    def __init__(self, dataset: Any, cfg: Any) -> None:
        self._dataset, self._cfg = dataset, cfg
        self.driver = Driver(
            _read_settings(cfg),
            dataset.dataframe,
            num_generations=cfg.generator.n_samples_per_prompt,
            seed=cfg.trainer.seed,
            prompt_column=dataset.prompt_key,
        )
        self.collate_fn = dataset.collate_fn
        self.global_step = 1
        self._begun = False
        batch, steps = cfg.trainer.train_batch_size, cfg.trainer.max_training_steps
        if len(self) < batch:
            raise InputError(
                f"the training data have {len(self)} different prompts, and trainer.train_batch_size={batch}: add "
                "prompts, or lower it"
            )
        last = len(self) // batch * cfg.trainer.epochs
        if steps is not None and last < steps:
            logger.warning(
                "the run will end after %d of trainer.max_training_steps=%d steps, as SkyRL counts trainer.epochs=%d "
                "of the data: raise trainer.epochs",
                last,
                steps,
                cfg.trainer.epochs,
            )

    @property
    def session(self) -> Session:
        """The session between SkyRL and the selector."""
        return self.driver.session

    def __len__(self) -> int:
        return len(self.driver.rows)

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Any, Any, dict[str, Any], str]]:
        """Return as many chosen rows as there are indices, each with its prompt's id as SkyRL's uid.

        Raises:
            InputError: so many prompts are not left in this step.
        """
        self.begin()
        k, available = len(indices), self.session.num_available
        if k > available:
            raise InputError(
                f"step {self.global_step}: SkyRL asks for {k} more prompts, and {available} of {len(self)} are left, "
                "since the others were rolled out in this step: too few groups vary for "
                "trainer.algorithm.dynamic_sampling: add prompts or lower trainer.train_batch_size"
            )
        chosen = self.session.take(k)
        return [(*self._dataset[self.driver.rows[prompt_id]][:3], prompt_id) for prompt_id in chosen]

    def begin(self) -> None:
        """Begin the step that SkyRL is in; SkyRL counts from 1."""
        if not self._begun and self.global_step <= 1:
            self.session.begin(0)  # a new run has a new history
        self._begun = True
        self.session.begin(self.global_step)

    def state_dict(self) -> dict[str, Any]:
        """Return the session's state, and bring the history up to date."""
        self.session.write()
        return self.session.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.driver.resume(state, "data.pt of the checkpoint", "trainer.resume_mode=none starts anew")
        self.session.lost(self.session.in_flight)
        self._begun = True


if TYPE_CHECKING:
    Trainer: Any = RayPPOTrainer
else:
    Trainer = object


class SelectionMixin(Trainer):
    """Lets a trainer derived from SkyRL's tell the selector of every group that ended.

    Its training data must be a `SelectionDataset`. Groups of a step are learned from and recorded together, under
    SkyRL's number of the step. Groups that SkyRL's dynamic sampling or its filter of groups without variance leaves
    out count as not trained. Metrics are logged as "selection/...".

    Raises:
        InputError: the training data are of another class; the trainer is the fully asynchronous one; or the version
            of SkyRL lacks what this class uses.
    """

    train_dataset: SelectionDataset

    def __init__(self, *positional: Any, **named: Any) -> None:
        super().__init__(*positional, **named)
        skyrls = super()
        missing = [name for name in OF_TRAINER if not hasattr(skyrls, name)]
        if missing:
            raise InputError(
                f"selection relies on {', '.join(missing)} of SkyRL's trainer, which it does not have here: install "
                "SkyRL 0.4"
            )
        if any(cls.__name__ == FULLY_ASYNC for cls in type(self).__mro__):
            raise InputError(f"{FULLY_ASYNC} asks for prompts one by one, ahead of its steps: use RayPPOTrainer")
        if not isinstance(self.train_dataset, SelectionDataset):
            raise InputError(
                "selection needs its training data: let get_train_dataset of the experiment return a SelectionDataset, "
                "as SelectionExp does"
            )

    @property
    def global_step(self) -> int:
        return self._global_step

    @global_step.setter
    def global_step(self, step: int) -> None:
        self._global_step = self.train_dataset.global_step = step

    async def train(self) -> None:
        """Train as SkyRL does. The history is complete also if the run stops or fails."""
        try:
            await super().train()
        finally:
            self.train_dataset.session.close()

    def _remove_tail_data(self, entries: list[Any]) -> list[Any]:
        kept: list[Any] = super()._remove_tail_data(entries)
        self.train_dataset.session.lost(entry["uid"] for entry in entries[len(kept) :])
        return kept

    async def generate(self, input_batch: Mapping[str, Any]) -> Any:
        """Generate as SkyRL does, and hand the groups of a training batch to the session."""
        output = await super().generate(input_batch)
        if input_batch["batch_metadata"].training_phase == "train":
            count = len(output["rewards"])
            rollouts = output.get("trajectory_ids") or input_batch["trajectory_ids"]
            self._end(
                [rollout.instance_id for rollout in rollouts],
                [float(sum(reward)) if isinstance(reward, list) else reward for reward in output["rewards"]],
                output.get("env_metrics") or [{}] * count,
                output.get("is_last_step") or [True] * count,
            )
        return output

    def _end(
        self,
        uids: Iterable[str],
        rewards: Iterable[float | None],
        infos: Sequence[Mapping[str, Any] | None],
        is_last: Iterable[bool],
    ) -> None:
        """Hand groups to the session: (row,) of each turn or rollout. The last turn has the rollout's reward."""
        driver = self.train_dataset.driver
        driver.named.to_read(info or {} for info in infos)
        groups: dict[str, list[tuple[float | None, Mapping[str, Any]]]] = {}
        for uid, reward, info, last in zip(uids, rewards, infos, is_last, strict=True):
            if last:
                groups.setdefault(uid, []).append((reward, info or {}))
        for uid, rollouts in groups.items():
            values, named = zip(*rollouts, strict=True)
            driver.end(uid, driver.named.group(values, named), trained=False)
        driver.named.check("env_metrics", self.global_step)

    def postprocess_generator_output(self, generator_output: Any, uids: list[str], *more: Any, **named: Any) -> Any:
        """Do what SkyRL does, and let the selector learn: what comes out is what SkyRL trains on."""
        result = super().postprocess_generator_output(generator_output, uids, *more, **named)
        output, trained_uids = result
        session = self.train_dataset.session
        session.step({uid for uid, mask in zip(trained_uids, output["loss_masks"], strict=True) if any(mask)})
        self.all_metrics.update(session.metrics())
        return result


class SelectionTrainer(SelectionMixin, RayPPOTrainer):
    """SkyRL's `RayPPOTrainer` with prompts chosen by a selector, see `SelectionMixin`."""


class SelectionExp(BasePPOExp):
    """SkyRL's experiment with prompts chosen by a selector. Derive from it to replace the generator or other parts."""

    def get_train_dataset(self) -> SelectionDataset:
        """Return SkyRL's training data as a `SelectionDataset`."""
        return SelectionDataset(super().get_train_dataset(), self.cfg)

    def get_trainer(
        self,
        cfg: Any,
        tracker: Any,
        tokenizer: Any,
        train_dataset: Any,
        eval_dataset: Any,
        inference_engine_client: Any,
        generator: Any,
        colocate_pg: Any,
    ) -> SelectionTrainer:
        """Return a `SelectionTrainer`."""
        return SelectionTrainer(
            cfg=cfg,
            tracker=tracker,
            tokenizer=tokenizer,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            inference_engine_client=inference_engine_client,
            generator=generator,
            colocate_pg=colocate_pg,
        )


def _read_settings(cfg: Any) -> Settings:
    """Read the settings of selection; raises InputError if prompts cannot be chosen under SkyRL's configuration."""
    workers = cfg.data.dataloader.num_workers
    if workers:
        raise InputError(
            f"data.dataloader.num_workers={workers}: each worker would have a copy of the selector, which learns "
            "nothing: set data.dataloader.num_workers=0"
        )
    folder = str(cfg.trainer.ckpt_path)
    given = getattr(cfg, "selection", {})
    if "://" in folder and "history_path" not in given:
        raise InputError(
            f"trainer.ckpt_path={folder} is no local folder: set selection.history_path to a local file for the history"
        )
    filters = cfg.trainer.algorithm.dynamic_sampling.type is not None
    return Settings.read(
        given,
        process="SkyRL's driver",
        place="selection",
        history_path=Path(folder, HISTORY_FILE),
        filter_off=None
        if filters
        else "which SkyRL does itself: set trainer.algorithm.dynamic_sampling.type=filter too",
    )


@ray.remote(num_cpus=1)
def _run(cfg: SelectionConfig) -> None:
    SelectionExp(cfg).run()


def main() -> None:
    """Run SkyRL with the command line's settings; SkyRL calls it for `trainer.override_entrypoint`."""
    cfg = SelectionConfig.from_cli_overrides([word for word in sys.argv[1:] if not word.startswith(ENTRYPOINT)])
    _read_settings(cfg)  # refuse what can be refused before Ray starts
    validate_cfg(cfg)
    initialize_ray(cfg)
    ray.get(_run.remote(cfg))
