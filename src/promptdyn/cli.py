"""The command line: `promptdyn import | fit | simulate | compare | report | train | race | demo`.

It reads options, calls the library and prints results.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from promptdyn.errors import InputError, PromptdynWarning
from promptdyn.history import Observed, Repeated
from promptdyn.models import MODELS
from promptdyn.ppl import Backend
from promptdyn.progress import bars
from promptdyn.readers import read_history
from promptdyn.storage import atomic, check_target

if TYPE_CHECKING:
    from promptdyn.history import RewardHistory

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Model prompt learning dynamics: forecast which prompts will teach, before rolling them out.",
)
# Progress and messages go to stderr; tables and JSON, which may be piped, go to stdout. Markup is off, because names of
# files and prompts may hold "[...]".
console = Console(stderr=True, markup=False)
# Package -> the extra that installs it, for the message to someone who lacks the package.
EXTRA_OF = {
    **dict.fromkeys(("jax", "jaxtyping", "numpyro", "arviz"), "fit"),
    **dict.fromkeys(("pyro", "array_api_compat"), "pyro"),
    **dict.fromkeys(("matplotlib", "jinja2"), "plot"),
}
PLOT_SUFFIXES = (".svg", ".png", ".pdf")

HistoryPath = Annotated[Path, typer.Argument(help="Reward history: a run's folder, Parquet, CSV or JSONL.")]
JsonPath = Annotated[Path | None, typer.Option("--json", help="Also write the result as JSON ('-' for stdout).")]
AllowSeen = Annotated[bool, typer.Option("--allow-seen", help="Score fits also on the steps that they were fitted on.")]
# Options with a few choices are read as plain text (`parser=str`): the library reports another value in one line.
ObservedOption = Annotated[
    Observed, typer.Option(parser=str, help="Rows that models observe: 'trained' (as in live training) or 'all'.")
]


@app.command("import")
def import_(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="A run's folder, TRL's completions, a table of groups or of rollouts (Parquet, CSV, JSONL, JSON; .gz, "
            ".zst), a folder of such files, or a glob; several are allowed."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="History file to write (Parquet).")],
    reader: Annotated[
        str | None,
        typer.Option(
            help="Format: run, trl, rollouts or groups, with options (rollouts:reward=score), or your own, "
            "FILE.py:NAME; default the one that recognizes the sources."
        ),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(help="Tables of groups: columns with other names, as in step=global_step,prompt_id=uid."),
    ] = None,
    drop: Annotated[str | None, typer.Option(help="Tables of groups: columns to leave out, comma-separated.")] = None,
    label_columns: Annotated[
        str | None,
        typer.Option(
            help="Label columns to keep, comma-separated; default, in a table of groups: all columns that are the same "
            "in all rows of a prompt; in rollouts: none.",
        ),
    ] = None,
    repeated: Annotated[
        Repeated | None,
        typer.Option(
            parser=str,
            help="Tables of groups: rows of one prompt and step: error (default), merge (add up), last (keep the last) "
            "or apart (steps of their own).",
        ),
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out bad rows, and say how many.")] = False,
    reward: Annotated[
        str | None,
        typer.Option(help="Rollouts: column(s) of the reward functions, comma-separated; default those of the format."),
    ] = None,
    reward_weights: Annotated[
        str | None, typer.Option(help="Rollouts: their weights, as in 1,0.2; default 1 each.")
    ] = None,
    success: Annotated[
        str | None,
        typer.Option(
            help="Rollouts: rule of success: 0.5 (threshold on the folded reward), correct, 'correct>=0.8', "
            "FILE.py:FUNCTION; default found from the first rewards (auto)."
        ),
    ] = None,
    prompt_key: Annotated[str | None, typer.Option(help="Rollouts: column that identifies the prompt.")] = None,
    step_key: Annotated[
        str | None, typer.Option(help="Rollouts: column of the step; default 'step', or the number in a file's name.")
    ] = None,
    keep_superseded: Annotated[
        bool,
        typer.Option("--keep-superseded", help="Rollouts: keep files that an earlier run left in the same folder."),
    ] = False,
    json_path: JsonPath = None,
) -> None:
    """Turn rollout logs into a history file."""
    _check_targets(out, json_path, sources=[Path(source) for source in sources])
    options = {
        "columns": _pairs(columns) if columns else None,
        "drop": _names(drop),
        "label_columns": _names(label_columns),
        "repeated": repeated,
        "skip_bad": skip_bad or None,
        "reward": _names(reward),
        "reward_weights": _names(reward_weights),
        "success": success,
        "prompt_key": prompt_key,
        "step_key": step_key,
        "keep_superseded": keep_superseded or None,
    }
    reader_options: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    history = read_history(sources[0] if len(sources) == 1 else sources, reader, **reader_options)
    history.to_parquet(out)
    summary = history.summary()
    _show([{"history": name.replace("_", " "), "": fact} for name, fact in summary.items()], json_path, summary)
    console.print(f"wrote {out}")


@app.command()
def fit(
    history_path: HistoryPath,
    out: Annotated[Path, typer.Option(help="Where to write the fit (.npz).")],
    model: Annotated[
        str, typer.Option(help="Model and settings: hmm:num_states=6,cluster=task; your own: FILE.py:NAME.")
    ] = "hmm",
    fit_steps: Annotated[int | None, typer.Option(help="Fit on the first steps only, this many; default all.")] = None,
    observed: ObservedOption = "trained",
    method: Annotated[
        str | None,
        typer.Option(
            help="em, map, svi or nuts, with settings (svi:num_steps=5000), or your own, FILE.py:NAME; default the one "
            "that suits the model."
        ),
    ] = None,
    backend: Annotated[
        Backend, typer.Option(parser=str, help="Library that evaluates the program: numpyro or pyro.")
    ] = "numpyro",
    seed: Annotated[int, typer.Option(help="Random seed of svi and nuts.")] = 0,
    json_path: JsonPath = None,
) -> None:
    """Fit a model to a history and save it."""
    from promptdyn.errors import ConvergenceWarning
    from promptdyn.evaluation.forecast import split
    from promptdyn.inference import fit as fit_model
    from promptdyn.models.checks import check_dynamics

    _check_targets(out, json_path, sources=[history_path])
    declared = check_dynamics(MODELS.parse_one(model))
    history = read_history(history_path)
    if fit_steps is not None:
        history = history.before(split(history, fit_steps))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # printed below
        result = fit_model(declared, history, method, backend=backend, seed=seed, observed=observed, progress=True)
    result.save(out)
    row = {
        "model": model,
        "method": result.method["name"],
        "groups": result.num_observed,
        "converged": result.converged,
        "log_marginal": result.log_marginal,
        "per_group": result.log_marginal / result.num_observed,
        "seconds": result.seconds,
    }
    _show([row], json_path, {**row, "verdict": result.verdict, "diagnostics": result.diagnostics})
    console.print(result.verdict, style=None if result.converged else "yellow")
    console.print(f"wrote {out}")


@app.command()
def simulate(
    source: Annotated[
        str,
        typer.Argument(help="A fit (.npz), or a model and its settings, whose parameters are drawn from the prior."),
    ],
    out: Annotated[Path, typer.Argument(help="History file to write (Parquet).")],
    like: Annotated[Path | None, typer.Option(help="History whose prompts, steps and group sizes to copy.")] = None,
    num_prompts: Annotated[int, typer.Option(help="Pool size.")] = 500,
    num_steps: Annotated[int, typer.Option(help="Training steps.")] = 100,
    prompts_per_step: Annotated[int | None, typer.Option(help="Groups in a step; default the whole pool.")] = None,
    num_generations: Annotated[int, typer.Option(help="Rollouts in a group.")] = 8,
    truth: Annotated[Path | None, typer.Option(help="Also write the parameters, as a fit (.npz).")] = None,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    json_path: JsonPath = None,
) -> None:
    """Draw a history from a model run forward."""
    from promptdyn.evaluation import simulate as run_forward
    from promptdyn.inference import Fit
    from promptdyn.models.checks import check_dynamics

    _check_targets(out, truth, json_path, sources=[like, Path(source)])
    declared = MODELS.parse_one(source, load=Fit.load)
    simulated = run_forward(
        declared if isinstance(declared, Fit) else check_dynamics(declared),
        num_prompts=num_prompts,
        num_steps=num_steps,
        prompts_per_step=prompts_per_step,
        num_generations=num_generations,
        like=None if like is None else read_history(like),
        seed=seed,
    )
    simulated.history.to_parquet(out)
    if truth is not None:
        simulated.truth.save(truth)
    summary = simulated.history.summary()
    _show([{"history": name.replace("_", " "), "": fact} for name, fact in summary.items()], json_path, summary)
    console.print(f"wrote {out}" + (f" and {truth}" if truth else ""))


@app.command()
def compare(
    history_path: HistoryPath,
    models: Annotated[
        str, typer.Option(help="Models, with settings after a colon; FILE.py:NAME for your own; fits (.npz).")
    ] = "dps,mopps,hmm",
    fit_steps: Annotated[int | None, typer.Option(help="First steps, for fitting only; default half.")] = None,
    observed: ObservedOption = "trained",
    allow_seen: AllowSeen = False,
    json_path: JsonPath = None,
    plot: Annotated[Path | None, typer.Option(help="Write the reliability diagram here (.svg, .png, .pdf).")] = None,
) -> None:
    """Score models on one-step-ahead forecasts of which prompts will be informative."""
    from promptdyn.evaluation import compare as compare_models
    from promptdyn.inference import Fit

    _check_targets(json_path, plot, sources=[history_path])
    if plot is not None and plot.suffix not in PLOT_SUFFIXES:
        raise InputError(f"{plot}: a plot is one of {', '.join(PLOT_SUFFIXES)}: name the file so")
    declared = MODELS.parse(models, load=Fit.load)
    history = read_history(history_path)
    with bars() as show_progress:
        result = compare_models(
            declared, history, _fit_steps(history, fit_steps), observed, show_progress, allow_seen=allow_seen
        )
    _show(result.table(), json_path, result.to_records())
    console.print(f"{result.scores[0].num_scored:,} rows forecast one step ahead, of {history.num_prompts:,} prompts")
    console.print(result.verdict)
    if plot is not None:
        from promptdyn.plots import reliability_diagram

        with atomic(plot) as part:
            reliability_diagram(result.forecasts).savefig(part, format=plot.suffix[1:])
        console.print(f"wrote {plot}")


@app.command()
def report(
    history_path: HistoryPath,
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("report.html"),
    model: Annotated[
        str | None,
        typer.Option(
            help="Forecaster whose beliefs to show: a model or a fit; default the one with the least log loss."
        ),
    ] = None,
    models: Annotated[str, typer.Option(help="Models whose forecasts to compare.")] = "dps,mopps,hmm",
    fit_steps: Annotated[int | None, typer.Option(help="First steps, for fitting only; default half.")] = None,
    observed: ObservedOption = "trained",
    allow_seen: AllowSeen = False,
    pool_size: Annotated[
        int | None,
        typer.Option(
            help="Number of prompts that the run could choose from; default the number in the history's file."
        ),
    ] = None,
    baseline: Annotated[list[str] | None, typer.Option(help="Another run to compare with, NAME=HISTORY.")] = None,
) -> None:
    """Write one self-contained HTML page of plots and scores."""
    from promptdyn.evaluation import compare as compare_models
    from promptdyn.inference import Fit
    from promptdyn.models.checks import check_forecaster
    from promptdyn.report import RUN, all_runs, findings, pool_size_of, write_report

    sources = [history_path, Path(model or ""), *(Path(text.partition("=")[2]) for text in baseline or [])]
    _check_targets(out, sources=sources)
    history = read_history(history_path)
    forecaster = None
    if model is not None:
        forecaster = check_forecaster(MODELS.parse_one(model, load=Fit.load))
    declared = MODELS.parse(models, load=Fit.load)
    baselines: dict[str, RewardHistory] = {}
    for text in baseline or []:
        name, separator, path = text.partition("=")
        if not separator or name in baselines:
            raise InputError(f"baseline {text!r} is not NAME=HISTORY, with a name of its own")
        baselines[name] = read_history(path)
    pool_size_of(all_runs(RUN, history, baselines), pool_size)  # before the long work
    with bars() as show_progress:
        comparison = compare_models(
            declared, history, _fit_steps(history, fit_steps), observed, show_progress, allow_seen=allow_seen
        )
        write_report(
            out,
            history,
            forecaster,
            title=f"Prompt learning dynamics: {history_path}",
            baselines=baselines,
            comparison=comparison,
            observed=observed,
            pool_size=pool_size,
            progress=show_progress,
        )
    console.print(findings(RUN, {RUN: history, **baselines}, comparison, pool_size))
    console.print(f"wrote {out}")


def _take_config(context: typer.Context, path: Path | None) -> Path | None:
    """Make a file's settings the defaults of the command's options, and store those of TRL in the context."""
    if path is not None and not context.resilient_parsing:
        from promptdyn.training.config import read_config

        options = [str(option.name) for option in context.command.params]
        context.default_map, context.meta["grpo"] = read_config(path, options)
        context.meta["script"] = {name: value for name, value in context.default_map.items() if name not in options}
    return path


@app.command()
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
    model: Annotated[str, typer.Option(help="'embedded', or a Hugging Face model name or folder.")] = "embedded",
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Embedded family (default arithmetic), a data file with a 'prompt' column, or a Hugging Face dataset."
        ),
    ] = None,
    eval_dataset: Annotated[
        str | None,
        typer.Option(
            help="Dataset to evaluate on, named as --dataset is; several with commas, NAME=DATASET; default none."
        ),
    ] = None,
    reward: Annotated[
        str | None,
        typer.Option(
            help="'exact_answer' (default), accuracy_reward or another of TRL's, MODULE:FUNCTION or FILE.py:FUNCTION; "
            "several with commas."
        ),
    ] = None,
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
    num_prompts: Annotated[int, typer.Option(help="Pool size, for embedded tasks.")] = 1000,
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
    num_generations: Annotated[int | None, typer.Option(help="Rollouts of a prompt; default TRL's, 8.")] = None,
    max_completion_length: Annotated[
        int | None, typer.Option(help="Most tokens of a rollout; default 8 (embedded), or TRL's.")
    ] = None,
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
    _check_targets(json_path)
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
    _quiet()
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
    _show([row], json_path, row)
    console.print(
        ("" if history is None else f"history {output_dir / 'history.parquet'}, ") + f"model {output_dir / 'final'}"
    )


@app.command()
def race(
    race_file: Annotated[Path, typer.Argument(metavar="RACE", help="YAML file that declares the race.")],
    out: Annotated[Path, typer.Option(help="Folder of results; runs that have a result are not made again.")],
    only: Annotated[str | None, typer.Option(help="Selectors to run now, comma-separated; default all.")] = None,
    json_path: JsonPath = None,
) -> None:
    """Train with each selector from the same start, on several seeds, with one budget; then compare the results."""
    from promptdyn.training.race import Run, read_race, total_rollouts
    from promptdyn.training.race import race as run_race
    from promptdyn.training.standings import standings, tables, write_standings

    _check_targets(json_path, out / "report.html", sources=[race_file])
    declared = read_race(race_file)
    names = only.split(",") if only else None
    with _RaceBar(total_rollouts(declared, names)) as bar:

        def progress(run: Run, spent: int) -> None:
            bar.update(f"{run.entrant}, {run.learning_rate:g}, seed {run.seed}", spent)

        entrants = standings(declared, run_race(declared, out, names, progress))
    page = write_standings(out, f"Race: {race_file.stem}", declared, entrants)
    console_of_tables = _table_console(json_path)
    for title, rows in tables(declared, entrants).items():
        console_of_tables.print(title)
        _print_table(console_of_tables, rows)
    _write_json(json_path, [standing.record() for standing in entrants])
    console.print(f"report {page}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for runs and report.")] = Path("runs/demo"),
    budget: Annotated[int, typer.Option(help="Rollouts of each run.")] = 19_200,
    seed: Annotated[int, typer.Option(help="Random seed of pool, sampling and selection.")] = 0,
    json_path: JsonPath = None,
) -> None:
    """Train with four selectors (uniform, dynamic sampling, DPS, auto), then compare forecasters on the history."""
    from promptdyn.training.demo import demo as run_demo
    from promptdyn.training.demo import demo_race
    from promptdyn.training.race import total_rollouts

    _check_targets(json_path, out / "report.html")
    with _RaceBar(total_rollouts(demo_race(budget, seed))) as bar:
        result = run_demo(
            out, budget, seed, lambda run, spent: bar.update(f"{run.entrant}, seed {run.seed}", spent), bar.stage
        )
    runs = [standing.record() for standing in result.standings]
    _write_json(json_path, {"budget": budget, "seed": seed, "runs": runs, "forecasts": result.comparison.to_records()})
    console_of_tables = _table_console(json_path)
    for title, rows in result.tables.items():
        console_of_tables.print(title)
        _print_table(console_of_tables, rows)
    console_of_tables.print("One-step-ahead forecasts of the second half of the uniform run")
    _print_table(console_of_tables, result.comparison.table())
    console.print(f"report: {result.report}, plot: {result.plot}")


class _RaceBar:
    """A progress bar over all the rollouts of a race, with the time left."""

    def __init__(self, rollouts: int) -> None:
        _quiet()
        self.logger = logging.getLogger("promptdyn")
        self.level = self.logger.level
        self.done, self.current, self.spent = 0, "", 0
        self.progress = Progress(
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.description}", markup=False),
            console=console,
        )
        self.task = self.progress.add_task("", total=rollouts)

    def __enter__(self) -> _RaceBar:
        self.logger.setLevel(logging.ERROR)  # else each run logs how its prompts are chosen
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
        self.logger.setLevel(self.level)

    def update(self, name: str, spent: int) -> None:
        if name != self.current:
            self.done, self.current = self.done + self.spent, name
        self.spent = spent
        self.progress.update(self.task, completed=self.done + spent, description=name)

    def stage(self, text: str) -> None:
        self.progress.console.print(text)


def _quiet() -> None:
    """Turn off the progress bars of transformers."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()


def _check_targets(*paths: Path | None, sources: Sequence[Path | None] = ()) -> None:
    """Raise InputError unless each file can be written, is not a source, and is named once."""
    targets = [path for path in paths if path is not None and str(path) != "-"]
    for i, path in enumerate(targets):
        check_target(path)
        if any(
            source is not None and source.exists() and path.exists() and path.samefile(source) for source in sources
        ):
            raise InputError(f"{path}: is the source, too: name another file to write")
        if path.resolve() in [other.resolve() for other in targets[:i]]:
            raise InputError(f"{path}: is to be written twice: name another file for one of the two")


def _pairs(text: str) -> dict[str, str]:
    """Read "step=global_step,..." as {"step": "global_step", ...}; raise InputError for other text."""
    pairs = [part.partition("=") for part in text.split(",")]
    for name, _, value in pairs:
        if not name or not value or [part[0] for part in pairs].count(name) > 1:
            raise InputError(f"columns {text!r}: write each once, as in step=global_step,prompt_id=uid")
    return {name: value for name, _, value in pairs}


def _names(text: str | None) -> list[str] | None:
    return text.split(",") if text else None


def _fit_steps(history: RewardHistory, fit_steps: int | None) -> int:
    return len(history.steps) // 2 if fit_steps is None else fit_steps


def _show(records: list[dict[str, Any]], json_path: Path | None, value: Any = None) -> None:
    """Print records as a table, and write `value` (default: the records) as JSON if `json_path` is set."""
    _print_table(_table_console(json_path), records)
    _write_json(json_path, records if value is None else value)


def _table_console(json_path: Path | None) -> Console:
    """Return the console for tables: stdout, or stderr with "--json -", where stdout holds the JSON alone."""
    return Console(stderr=str(json_path) == "-", markup=False)


def _as_table(records: list[dict[str, Any]]) -> Table:
    """Make a table with a row for each record; a single record has a row for each of its fields."""
    cells = [{name.replace("_", " "): _cell(cell) for name, cell in record.items()} for record in records]
    if len(cells) == 1:
        table = Table.grid(padding=(0, 2))
        for fact in cells[0].items():
            table.add_row(*fact)
        return table
    # Only headers may break, between words; no cell is cut.
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in cells[0]:
        parts = [*name.split(), *(record[name] for record in cells)]
        table.add_column(name, min_width=max(map(len, parts)))
    for record in cells:
        table.add_row(*record.values())
    return table


def _print_table(target: Console, records: list[dict[str, Any]]) -> None:
    """Print records as a table, wider than the terminal if necessary."""
    table = _as_table(records)
    least_width = target.measure(table, options=target.options.update(width=10_000)).minimum
    target.print(table, width=max(target.width, least_width), crop=False)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def _without_nan(value: Any) -> Any:
    """Replace NaN and infinities, which JSON does not have, by None."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_json(path: Path | None, value: Any) -> None:
    if path is None:
        return
    text = json.dumps(_without_nan(value), indent=2, allow_nan=False)
    if str(path) == "-":
        print(text)
        return
    with atomic(path) as part:
        part.write_text(text + "\n", encoding="utf-8")


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """Exit with code 2 and one line on stderr if input cannot be used or an extra is missing."""
    try:
        yield
    except InputError as error:
        print(f"promptdyn: {error}", file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package == "promptdyn":
            raise
        extra = EXTRA_OF.get(package, "train")
        print(f"promptdyn: this needs {package}: pip install 'promptdyn[{extra}]'", file=sys.stderr)
        sys.exit(2)


@contextmanager
def _own_warnings() -> Iterator[None]:
    """Print each warning and log entry of this package as one line on stderr, and no warnings of other packages.

    `python -W` overrides this.
    """
    log = logging.StreamHandler()
    log.setFormatter(logging.Formatter("promptdyn: %(message)s"))
    logging.getLogger("promptdyn").addHandler(log)
    try:
        with warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.simplefilter("ignore")
                warnings.simplefilter("always", PromptdynWarning)
                warnings.showwarning = lambda message, *_: print(f"promptdyn: {message}", file=sys.stderr)
            yield
    finally:
        logging.getLogger("promptdyn").removeHandler(log)


def main() -> None:
    """Run the `promptdyn` command."""
    with _one_line_errors(), _own_warnings():
        app()
