"""`promptdyn train`: GRPO on prompts chosen by a dynamics model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from promptdyn.cli.options import (
    DATASET_HELP,
    JsonPath,
    MaxCompletionLengthOption,
    ModelOption,
    NumGenerationsOption,
    NumPromptsOption,
    RewardOption,
    take_config,
)
from promptdyn.cli.process import check_targets, quiet
from promptdyn.cli.tables import console, show
from promptdyn.progress import bars

__all__ = ["train"]


def _take_config(context: typer.Context, path: Path | None) -> Path | None:
    take_config(context, path)
    return path


def train(
    context: typer.Context,
    output_dir: Annotated[Path, typer.Option(help="Folder for checkpoints, history and the trained model.")],
    config: Annotated[
        Path | None,
        typer.Option(
            is_eager=True,
            callback=_take_config,
            help="YAML file as TRL's GRPO script reads it; it may also set these options. The command line wins.",
        ),
    ] = None,
    model: ModelOption = "embedded",
    dataset: Annotated[
        str | None,
        typer.Option(help=DATASET_HELP),
    ] = None,
    eval_dataset: Annotated[
        str | None,
        typer.Option(
            help="Dataset to evaluate on, named as --dataset is; several with commas, NAME=DATASET; default none."
        ),
    ] = None,
    reward: RewardOption = None,
    selector: Annotated[
        str,
        typer.Option(
            help="auto (label columns, else the policy's reading), uniform, dynamic_sampling, greso, mopps, dps, kgps, "
            "rate:cluster=task, features, ..., a model (hmm:cluster=task, FILE.py:NAME), or a fit (.npz).",
        ),
    ] = "auto",
    strategy: Annotated[
        str | None,
        typer.Option(
            help="How prompts are chosen by their scores: proportional, top, thompson, gumbel, top_entropy, uniform, "
            "greso, history_resampling, or FILE.py:NAME; default the selector's own."
        ),
    ] = None,
    score: Annotated[
        str | None,
        typer.Option(
            help="Value of training on a prompt: informative, reward_variance, half_solved, or FILE.py:NAME; "
            "default the selector's own."
        ),
    ] = None,
    refit_every: Annotated[
        int | None,
        typer.Option(help="Steps between fits of a program (hmm:cluster=task) on the run; 0: no fits."),
    ] = None,
    refresh_features: Annotated[
        int | None, typer.Option(help="Steps between readings of the prompts by the policy; 0: it reads them once.")
    ] = None,
    max_rounds: Annotated[
        int | None,
        typer.Option(
            help="Dynamic sampling: most generations for a batch of groups that all teach; 1: no dynamic sampling."
        ),
    ] = None,
    at_cap: Annotated[
        Literal["train", "drop", "raise"] | None,
        typer.Option(parser=str, help="If the batch is not full after max_rounds: train, drop or raise."),
    ] = None,
    keep: Annotated[
        Literal["success", "reward"] | None,
        typer.Option(
            parser=str,
            help="Groups that teach: with mixed outcomes (success, default), or with different rewards (reward).",
        ),
    ] = None,
    success: Annotated[
        str | None,
        typer.Option(
            help="Rule of success: 1.5 (threshold on the folded reward), correct, 'correct>=0.8', FILE.py:FUNCTION; "
            "default found from the first rewards (auto)."
        ),
    ] = None,
    warm_start: Annotated[
        str | None,
        typer.Option(help="History that the selector knows before the first step: a recording, or an earlier run."),
    ] = None,
    num_prompts: NumPromptsOption = 1000,
    max_steps: Annotated[
        int | None, typer.Option(help="Optimizer steps; default 200 (embedded), else worked out from the epochs.")
    ] = None,
    num_train_epochs: Annotated[
        float | None, typer.Option(help="Epochs of the pool, from which TRL works out the steps; default 3.")
    ] = None,
    prompts_per_step: Annotated[
        int | None,
        typer.Option(help="Prompts in an optimizer step, over all devices; default 32 (embedded), or TRL's."),
    ] = None,
    num_generations: NumGenerationsOption = None,
    max_completion_length: MaxCompletionLengthOption = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Learning rate at the start; default 3e-5 (embedded), or TRL's.")
    ] = None,
    lr_scheduler_type: Annotated[
        str | None, typer.Option(help="Schedule of the learning rate: linear (default), constant, cosine, ...")
    ] = None,
    save_steps: Annotated[
        float | None,
        typer.Option(
            help="Steps between checkpoints, or their share of all steps; 0: none; default 0 (embedded), or TRL's."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed of sampling, pool and selection; default 0.")] = None,
    resume: Annotated[
        bool, typer.Option(help="Continue from the newest complete checkpoint in the output folder, or start.")
    ] = False,
    json_path: JsonPath = None,
) -> None:
    """Train with GRPO on prompts chosen by a dynamics model."""
    from promptdyn.training.recipes import Recipe, selector_recipe
    from promptdyn.training.run import RunSettings, run

    options = {name: value for name, value in locals().items() if value is not None}
    check_targets(json_path)
    recipe_changes = {name: value for name, value in options.items() if name in Recipe.__dataclass_fields__}
    run_settings = {name: value for name, value in options.items() if name in RunSettings.__dataclass_fields__}
    grpo, script = context.meta.get("grpo", {}), context.meta.get("script", {})
    if num_train_epochs is not None:
        grpo = {**grpo, "num_train_epochs": num_train_epochs}
        if max_steps is None:
            grpo.pop("max_steps", None)
    grpo = {name: value for name, value in grpo.items() if name not in run_settings}
    recipe = selector_recipe(selector, **recipe_changes)
    settings = RunSettings(**{**run_settings, "selector": recipe, "grpo": grpo, "script": script})
    quiet()
    with bars() as show_progress:

        def progress(step: int, steps: int, log: dict[str, float]) -> None:
            metrics = {"reward": log.get("reward", math.nan), "informative": log.get("selection/informative", math.nan)}
            show_progress("training", step, steps, metrics)

        result = run(settings, progress)
    summary: dict[str, Any] = {}
    first, last = None, None
    if (history := result.history) is not None:
        summary = history.summary()
        first, last = (
            history.select(history.step == summary[step]).summary()["reward_mean"]
            for step in ("first_step", "last_step")
        )
    row = {
        "steps": result.steps,
        "rollouts": summary.get("rollouts", 0),
        "trained": summary.get("trained"),
        "effective_sample_ratio": summary.get("partial"),
        "mean_reward_first": first,
        "mean_reward_last": last,
        "prompts_seen": summary.get("prompts", 0),
        "selection_overhead": result.mean("selection/overhead"),
        "seconds": result.seconds,
    }
    show([row], json_path, row)
    console.print(
        ("" if history is None else f"history {output_dir / 'history.parquet'}, ") + f"model {output_dir / 'final'}"
    )
