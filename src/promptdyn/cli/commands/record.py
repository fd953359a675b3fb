"""`promptdyn record`: a pool rolled out by one model, as a history."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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

__all__ = ["record"]


def _take_config(context: typer.Context, path: Path | None) -> Path | None:
    if path is not None:
        from promptdyn.training.recipes import Recipe
        from promptdyn.training.run import RunSettings

        take_config(context, path, {*RunSettings.__dataclass_fields__, *Recipe.__dataclass_fields__})
        for name in ("selector", "warm_start"):  # those of the training, while --where has its own
            (context.default_map or {}).pop(name, None)
    return path


def record(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="History file to write (Parquet); the log of rollouts lies beside it.")],
    config: Annotated[
        Path | None,
        typer.Option(
            is_eager=True,
            callback=_take_config,
            help="YAML file of a training run: its model, prompts, rewards and sampling hold. The command line wins.",
        ),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            help="transformers or vllm, with settings (transformers:batch_size=256,dtype=bfloat16; "
            "vllm:tensor_parallel_size=2), or FILE.py:NAME."
        ),
    ] = "transformers",
    model: ModelOption = "embedded",
    dataset: Annotated[
        str | None,
        typer.Option("--prompts", "--dataset", help=DATASET_HELP),
    ] = None,
    reward: RewardOption = None,
    success: Annotated[
        str,
        typer.Option(
            help="Rule of success: 1.5 (threshold on the folded reward), correct, 'correct>=0.8', FILE.py:FUNCTION; "
            "default found from the rewards (auto)."
        ),
    ] = "auto",
    num_generations: NumGenerationsOption = None,
    max_completion_length: MaxCompletionLengthOption = None,
    temperature: Annotated[float | None, typer.Option(help="Sampling temperature; default TRL's, 1.")] = None,
    where: Annotated[
        str | None,
        typer.Option(
            help="Only prompts of which the selector forecasts so: 'entropy>=0.5' (unsure), 'informative>=0.2', "
            "'success_rate<=0.9 and entropy>=0.3'."
        ),
    ] = None,
    selector: Annotated[str, typer.Option(help="With --where: selector, model or fit (.npz) that forecasts.")] = "auto",
    warm_start: Annotated[
        str | None, typer.Option(help="With --where: history that it knows, a file or a run's folder.")
    ] = None,
    max_prompts: Annotated[
        int | None, typer.Option(help="Most prompts to roll out, drawn at random; default all.")
    ] = None,
    step: Annotated[
        int | None, typer.Option(help="Training step of the model; default that of a checkpoint's folder, else 0.")
    ] = None,
    num_prompts: NumPromptsOption = 1000,
    seed: Annotated[int | None, typer.Option(help="Random seed of sampling and pool; default 0.")] = None,
    log_completions: Annotated[
        bool, typer.Option("--log-completions", help="Keep the completions in the log of rollouts.")
    ] = False,
    json_path: JsonPath = None,
) -> None:
    """Roll out prompts with one model into a history; a recording that was cut off goes on."""
    options = dict(locals())
    check_targets(out, json_path)
    from promptdyn.training.record import RecordSettings
    from promptdyn.training.record import record as record_prompts

    fields = RecordSettings.__dataclass_fields__
    own = {name: value for name, value in options.items() if name in fields and value is not None}
    # What is typed wins over the file.
    grpo: dict[str, Any] = {name: value for name, value in context.meta.get("grpo", {}).items() if name not in own}
    if temperature is not None:
        grpo["temperature"] = temperature
    quiet()
    with bars() as show_progress:
        settings = RecordSettings(**own, grpo=grpo, script=context.meta.get("script", {}))
        recording = record_prompts(settings, lambda *report: show_progress("rolling out", *report))
    summary = recording.history.summary()
    row = {
        "prompts": recording.prompts,
        "rollouts": summary["rollouts"],
        "success_rate": summary["success_rate"],
        **{share: summary[share] for share in ("unsolved", "partial", "solved", "success")},
        "cut_off": recording.cut_off,
        "tokens": recording.tokens,
        "seconds": recording.seconds,
        "prompts_per_second": recording.prompts_per_second,
    }
    show([row], json_path, row)
    console.print(f"history {out}, log of rollouts {recording.log_path}")
