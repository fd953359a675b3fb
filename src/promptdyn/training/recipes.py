"""Declare how a run chooses its prompts, before its pool is known: a model, a strategy, and dynamic sampling.

`SELECTORS` holds published selectors and those of this package by name, each as a `Recipe`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, cast

from promptdyn.clusters import LABEL_COLUMNS
from promptdyn.errors import InputError
from promptdyn.history import RewardHistory
from promptdyn.inference import Fit, Refitted
from promptdyn.models import MODELS, FeatureRate, InformativeRate
from promptdyn.models.checks import check_dynamics, check_forecaster
from promptdyn.online import Forecaster, OnlineFilter
from promptdyn.prompts import AUTO, POLICY, Prompts, column_names
from promptdyn.readers import read_history
from promptdyn.registry import settings_of
from promptdyn.selection import STRATEGIES, Selector, Strategy, warm_start
from promptdyn.selection.scores import SCORES
from promptdyn.success import Success

__all__ = ["SELECTORS", "Plan", "Recipe", "check_selector", "selector_recipe"]

if TYPE_CHECKING:
    from promptdyn.training.dynamic_sampling import AtCap, Keep

logger = logging.getLogger(__name__)

# Rounds of dynamic sampling in the selectors that use it: enough to fill batches if one group in eight is mixed.
ROUNDS = 20


@dataclass(frozen=True)
class Recipe:
    """The parts of a `Selector`, to be made for the prompts of a dataset.

    Attributes:
        dynamics: the forecaster. "auto" (default) uses label columns such as "task" and "difficulty" if the dataset
            has them, else the policy's own reading of each prompt. Otherwise a model as in "dps:decay=0.7", or a fit
            (.npz; for a fit of your own model, "FILE.py:NAME@FIT.npz").
        strategy: how prompts are chosen by their scores: "proportional" (default), "uniform", "FILE.py:NAME", ...; see
            `promptdyn.selection.strategies`.
        score: the value of training on a prompt: "informative" (default), "FILE.py:NAME", ...; see
            `promptdyn.selection.scores`.
        success: the rule of success: a number (threshold on the folded reward), a reward function's name,
            "correct>=0.8", a function of the rewards (or "FILE.py:FUNCTION"), or "auto" (default); see
            `promptdyn.success`.
        refit_every: number of steps between fits of `dynamics` on the run, in the background (`promptdyn.Refitted`).
            `dynamics` is then a program such as "hmm:cluster=task". Default 0: no refits.
        refresh_features: number of steps between readings of the prompts by the policy, if `dynamics` uses its reading.
            Default 0: it reads them once.
        max_rounds: most generations for a batch of groups that all teach
            (`promptdyn.training.dynamic_sampling.DynamicSampling`). Default 1: no dynamic sampling.
        at_cap: what happens if the batch is not full after `max_rounds`: "train" (default), "drop" or "raise".
        keep: which groups teach: those with mixed outcomes ("success", default), or whose rewards differ ("reward").
        warm_start: history that the forecaster learns before the first step, of an earlier run or a recording: a file,
            or a run's folder. Default: none.

    Raises:
        InputError: a strategy or score is unknown, or one of its settings is out of range.
    """

    dynamics: str = AUTO
    strategy: str = "proportional"
    score: str = "informative"
    success: Success = "auto"
    refit_every: int = 0
    refresh_features: int = 0
    max_rounds: int = 1
    at_cap: AtCap = "train"
    keep: Keep = "success"
    warm_start: str | None = None

    def __post_init__(self) -> None:
        STRATEGIES.resolve(self.strategy)
        SCORES.resolve(self.score)

    def plan(self, prompts: Prompts, num_generations: int, seed: int) -> Plan:
        """Check everything that can be checked before the policy is loaded.

        Args:
            prompts: the pool, without the policy's reading of it.
            num_generations: rollouts per prompt.
            seed: random seed of the selector.

        Raises:
            InputError: the model is unknown, a setting is out of range, a column is absent or cannot be used, or the
                history of the warm start cannot be read or has no prompt of the pool.
        """
        strategy, score = STRATEGIES.resolve(self.strategy), SCORES.resolve(self.score)
        model, words, by_kinds = self._forecaster(prompts)
        features = column_names(model.features)
        reads_policy = POLICY in features
        if self.refresh_features < 0 or (self.refresh_features and features != (POLICY,)):
            raise InputError(
                f"refresh_features={self.refresh_features}: give 0 or, with features that the policy reads, the number "
                "of steps between its readings"
            )

        known = self._known(strategy)

        def selector(prompts: Prompts) -> Selector:
            online = model.online(prompts)
            if known is not None:
                warm_start(online, known, str(self.warm_start))
            return Selector(
                online,
                strategy=strategy,
                score=score,
                num_generations=num_generations,
                success=self.success,
                seed=seed,
            )

        def filter_of(description: Mapping[str, Any]) -> OnlineFilter | None:
            candidate: Any = InformativeRate() if self.dynamics == AUTO else model
            if self.dynamics == AUTO and description == FeatureRate().describe():
                raise InputError(
                    f"prompts were chosen by 'features' before, and 'auto' finds {words} in the dataset as it is now: "
                    "to go on as before, set selector='features'"
                )
            columns = description.get("cluster")
            earlier = replace(candidate, cluster=tuple(columns) if isinstance(columns, list) else columns)
            return earlier.online(prompts) if earlier.describe() == description else None

        may_differ = by_kinds and not self.refit_every
        return Plan(
            strategy.rule or f"by {words}",
            reads_policy,
            selector if reads_policy else _always(selector(prompts)),
            filter_of if may_differ else None,
        )

    def _known(self, strategy: Strategy) -> RewardHistory | None:
        """Read the history of the warm start."""
        if self.warm_start is None:
            return None
        if strategy.rule:
            raise InputError(
                f"warm_start={self.warm_start!r}: strategy {strategy.name!r} chooses without a forecast, which is what "
                "would start warm: leave it out, or choose another selector"
            )
        return read_history(self.warm_start)

    def _forecaster(self, prompts: Prompts) -> tuple[Forecaster, str, bool]:
        """Return the forecaster, its basis in words, and whether that basis depends on the pool's label columns."""
        if self.dynamics == AUTO:
            if prompts.auto_columns:
                size = len(set(prompts.labels(prompts.auto_columns)))
                kinds = f"prompts of like {' and '.join(prompts.auto_columns)} ({size} kinds)"
                return InformativeRate(cluster=prompts.auto_columns), f"how often {kinds} teach", True
            words = f"the policy's reading of each, since no column ({', '.join(LABEL_COLUMNS)}) tells kinds"
            return FeatureRate(), words, True
        model = MODELS.parse_one(self.dynamics, load=Fit.load)
        forecaster = check_forecaster(
            Refitted(check_dynamics(model), every=self.refit_every) if self.refit_every else model
        )
        return forecaster, self.dynamics, prompts.resolve(forecaster.cluster) != forecaster.cluster


@dataclass(frozen=True)
class Plan:
    """A recipe for the prompts of one dataset.

    Attributes:
        choice: how prompts are chosen, in words: "by dps", "uniformly, ...".
        reads_policy: whether the forecaster needs the policy's reading of the prompts.
        selector: function that makes the selector for a pool, which holds the policy's reading if that is needed.
        filter_of: function that makes a fresh filter with the model of a description (`describe`), or returns None for
            a model that the recipe never makes. For runs that resume after the dataset's label columns changed. None
            if the recipe names the columns itself.
    """

    choice: str
    reads_policy: bool
    selector: Callable[[Prompts], Selector]
    filter_of: Callable[[Mapping[str, Any]], OnlineFilter | None] | None

    def keep_model(self, selector: Selector, model: Mapping[str, Any]) -> None:
        """Give a selector the model that its run used before, if the dataset now suggests another.

        Args:
            selector: selector that this plan made, and that will load the run's state.
            model: description of the earlier model, see `promptdyn.selection.files.model_of`.

        Raises:
            InputError: the earlier model used the policy's reading of the prompts, and the present one does not.
        """
        if self.filter_of is None or model == selector.online.model.describe():
            return
        online = self.filter_of(model)
        if online is not None:
            selector.online = online
            logger.warning("prompts are chosen by %s, as before: the dataset would suggest others now", model)


def _always(selector: Selector) -> Callable[[Prompts], Selector]:
    return lambda prompts: selector


SELECTORS: dict[str, Recipe] = {
    "auto": Recipe(),
    # Published selectors. Those that choose without a forecast still have the rate of the whole pool, from which
    # dynamic sampling works out how many prompts a round needs.
    "uniform": Recipe("rate", strategy="uniform"),
    "dynamic_sampling": Recipe("rate", strategy="uniform", max_rounds=ROUNDS),
    "history_resampling": Recipe("rate", strategy="history_resampling"),
    "greso": Recipe("rate", strategy="greso", max_rounds=ROUNDS),
    "mopps": Recipe("mopps", strategy="thompson", score="half_solved"),
    "dps": Recipe("dps", strategy="top"),
    "kgps": Recipe("kgps", strategy="top"),
    # Selectors of this package: outcomes of one prompt inform the forecasts of others.
    "pooled": Recipe("mopps:cluster=auto,step_decay=0.95", strategy="thompson"),
    "rate": Recipe("rate:cluster=auto"),
    "features": Recipe("features"),
    # A fit's states are those of single prompts: drawn, they would say more of chance than of what is not known.
    "refitted": Recipe("hierarchical:num_states=6", strategy="proportional:drawn=false", refit_every=50),
    "auto+dynamic_sampling": Recipe(max_rounds=ROUNDS),
}


def selector_recipe(text: str, **changes: object) -> Recipe:
    """Read a recipe from text.

    Args:
        text: one of `SELECTORS`, with settings of its model or strategy if that has the same name ("dps:decay=0.5",
            "greso:change=0.02"). Or a model, used with the default strategy: "hmm:cluster=task", "FILE.py:NAME", a fit
            (.npz).
        **changes: parts of the recipe to replace; None leaves a part as it is.

    Raises:
        InputError: the name is neither a selector nor a model, or the selector takes no settings.
    """
    name, settings, _ = text.partition(":")
    # Any name will do if `changes` name the forecaster.
    known = name in SELECTORS or name in MODELS or changes.get("dynamics") is not None
    if not known and re.fullmatch(r"[\w+-]+(:\w+=.*)?", text):
        similar = get_close_matches(name, [*SELECTORS, *MODELS], n=3, cutoff=0.5)
        mend = f": did you mean {' or '.join(map(repr, similar))}? It" if similar else ": it"
        raise InputError(
            f"no selector is called {text!r}{mend} may be {', '.join(SELECTORS)}, a model ({', '.join(MODELS)}), "
            "FILE.py:NAME or a fit (.npz)"
        )
    recipe = SELECTORS.get(name, Recipe(text))
    if name in SELECTORS and settings:
        if name in MODELS:
            recipe = replace(recipe, dynamics=text)
        elif name in STRATEGIES and settings_of(STRATEGIES[name]):
            recipe = replace(recipe, strategy=text)
        else:
            raise InputError(
                f"selector {text!r}: {name!r} has no settings; those of a model are given as in 'rate:decay=0.9'"
            )
    return replace(cast(Any, recipe), **{part: value for part, value in changes.items() if value is not None})


def check_selector(ids: Sequence[str], selector: Selector, group_size: int, success: Success | None) -> None:
    """Raise InputError unless a ready selector fits the ids of a dataset's prompts and the trainer's settings."""
    if success is not None:
        raise InputError("the selector says what a success is: give success to the Selector, not to the trainer")
    if selector.num_generations != group_size:
        raise InputError(
            f"the selector forecasts groups of {selector.num_generations} rollouts, and the trainer makes "
            f"{group_size}: pass num_generations={group_size} to the Selector"
        )
    known = set(selector.prompt_ids)
    if known != set(ids):
        example = min(known.symmetric_difference(ids))
        location = "not in the dataset" if example in known else "not in the selector's pool"
        raise InputError(
            f"prompt {example!r} is {location} ({len(known)} prompts in the pool, {len(ids)} in the dataset): "
            "build the selector from prompts(train_dataset)"
        )
