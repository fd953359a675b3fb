"""How a run chooses its prompts, before there is a pool to choose from: what forecasts, and which are taken.

`SELECTORS` holds what is published and what is offered here, by name, each as a `Recipe`: a model, a strategy, and
whether dynamic sampling goes with it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, cast

from promptdyn.clusters import LABEL_COLUMNS
from promptdyn.errors import InputError
from promptdyn.inference import Fit, Refitted
from promptdyn.models import MODELS, FeatureRate, InformativeRate
from promptdyn.models.base import check_dynamics, check_forecaster
from promptdyn.online import Forecaster, OnlineFilter
from promptdyn.prompts import AUTO, POLICY, Prompts, column_names
from promptdyn.registry import settings_of
from promptdyn.selection import Selector
from promptdyn.selection.scores import SCORES
from promptdyn.selection.strategies import STRATEGIES
from promptdyn.success import Success

__all__ = ["SELECTORS", "Plan", "Recipe", "selector_recipe"]

if TYPE_CHECKING:
    from promptdyn.training.dynamic_sampling import AtCap, Keep

logger = logging.getLogger(__name__)

# Rounds of dynamic sampling in selectors that it is part of: where an eighth of the groups vary, batches get full.
ROUNDS = 20


@dataclass(frozen=True)
class Recipe:
    """What a `Selector` is made of, for the prompts of a dataset.

    Attributes:
        dynamics: what forecasts: "auto" (default: label columns such as "task" and "difficulty" where the dataset has
            them, else the policy's own reading of each prompt), a model as in "dps:decay=0.7", or a fit (.npz; of a
            model of your own "FILE.py:NAME@FIT.npz").
        strategy: which prompts are taken, as in "proportional" (default), "uniform" or "FILE.py:NAME"; see
            `promptdyn.selection.strategies`.
        score: what a prompt is worth, as in "informative" (default) or "FILE.py:NAME"; see
            `promptdyn.selection.scores`.
        success: what a success is: a number (threshold on the folded reward), a reward function's name, "correct>=0.8",
            a function of the rewards by name (or "FILE.py:FUNCTION"), or "auto" (default): see `promptdyn.success`.
        refit_every: steps after which `dynamics`, a program such as "hmm:cluster=task", is fitted again on the run, in
            the background (`promptdyn.Refitted`); 0, the default: never.
        refresh_features: steps after which the policy reads the prompts anew, where `dynamics` goes by its reading; 0,
            the default: never.
        max_rounds: generations at most for a batch of groups that all teach
            (`promptdyn.training.dynamic_sampling.DynamicSampling`); 1, the default: no dynamic sampling.
        at_cap: what is done where the batch is not full then: "train" (default), "drop" or "raise".
        keep: which groups teach: those with mixed outcomes ("success", default), or whose rewards differ ("reward").

    Raises:
        InputError: an unknown strategy or score, or a setting of one that is out of range.
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

    def __post_init__(self) -> None:
        STRATEGIES.resolve(self.strategy)
        SCORES.resolve(self.score)

    def plan(self, prompts: Prompts, num_generations: int, seed: int) -> Plan:
        """Check all that can be before the policy is there.

        Args:
            prompts: the pool, without the policy's reading of it.
            num_generations: rollouts per prompt.
            seed: of the selector.

        Raises:
            InputError: an unknown model, a setting out of range, or a column that the pool has not or that cannot be
                used.
        """
        strategy, score = STRATEGIES.resolve(self.strategy), SCORES.resolve(self.score)
        model, words, by_kinds = self._forecaster(prompts)
        features = column_names(model.features)
        reads = POLICY in features
        if self.refresh_features < 0 or (self.refresh_features and features != (POLICY,)):
            raise InputError(
                f"refresh_features={self.refresh_features}: give 0, or, with features that the policy reads, the steps "
                "after which it reads them anew"
            )

        def selector(prompts: Prompts) -> Selector:
            return Selector(
                model.online(prompts),
                strategy=strategy,
                score=score,
                num_generations=num_generations,
                success=self.success,
                seed=seed,
            )

        def like(described: Mapping[str, Any]) -> OnlineFilter | None:
            could_be: Any = InformativeRate() if self.dynamics == AUTO else model
            if self.dynamics == AUTO and described == FeatureRate().describe():
                raise InputError(
                    f"prompts were chosen by 'features' before, and 'auto' finds {words} in the dataset as it is now: "
                    "to go on as before, set selector='features'"
                )
            columns = described.get("cluster")
            before = replace(could_be, cluster=tuple(columns) if isinstance(columns, list) else columns)
            return before.online(prompts) if before.describe() == described else None

        keeps = by_kinds and not self.refit_every
        return Plan(
            strategy.rule or f"by {words}",
            reads,
            selector if reads else _given(selector(prompts)),
            like if keeps else None,
        )

    def _forecaster(self, prompts: Prompts) -> tuple[Forecaster, str, bool]:
        """What forecasts, what it goes by in words, and whether those are the pool's own kinds or the lack of them."""
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
        reads_policy: whether it needs the policy's reading of the prompts.
        selector: makes the selector, given the pool, with the policy's reading of it where that is needed.
        like: makes a fresh filter with a model that `describe` gave, where a run goes on that began when the dataset
            had other columns to go by; it gives None for a model that the recipe never makes. None where the recipe
            says which columns.
    """

    choice: str
    reads_policy: bool
    selector: Callable[[Prompts], Selector]
    like: Callable[[Mapping[str, Any]], OnlineFilter | None] | None

    def go_on(self, selector: Selector, model: Mapping[str, Any]) -> None:
        """Let a selector go by the model that a run went by before, where the dataset as it is now suggests another.

        Args:
            selector: one that this plan made, and that will load that run's state.
            model: what `describe` gave, see `promptdyn.selection.files.model_of`.

        Raises:
            InputError: it went by the policy's reading of the prompts, and does no more.
        """
        if self.like is None or model == selector.online.model.describe():
            return
        online = self.like(model)
        if online is not None:
            selector.online = online
            logger.warning("prompts are chosen by %s, as before: the dataset would suggest others now", model)


def _given(selector: Selector) -> Callable[[Prompts], Selector]:
    return lambda prompts: selector


SELECTORS: dict[str, Recipe] = {
    "auto": Recipe(),
    # Published. What goes by no forecast has the rate of the whole pool, which tells how many prompts a round of
    # dynamic sampling needs.
    "uniform": Recipe("rate", strategy="uniform"),
    "dynamic_sampling": Recipe("rate", strategy="uniform", max_rounds=ROUNDS),
    "history_resampling": Recipe("rate", strategy="history_resampling"),
    "greso": Recipe("rate", strategy="greso", max_rounds=ROUNDS),
    "mopps": Recipe("mopps", strategy="thompson", score="half_solved"),
    "dps": Recipe("dps", strategy="top"),
    "kgps": Recipe("kgps", strategy="top"),
    # Ours: what one prompt shows tells of others.
    "pooled": Recipe("mopps:cluster=auto,step_decay=0.95", strategy="thompson"),
    "rate": Recipe("rate:cluster=auto"),
    "features": Recipe("features"),
    "refitted": Recipe("hierarchical:num_states=6", refit_every=50),
    "auto+dynamic_sampling": Recipe(max_rounds=ROUNDS),
}


def selector_recipe(text: str, **changes: object) -> Recipe:
    """The recipe that a text names.

    Args:
        text: one of `SELECTORS`, with settings of its model or strategy where that has the same name ("dps:decay=0.5",
            "greso:change=0.02"), or a model, which is chosen from as the default recipe does: "hmm:cluster=task",
            "FILE.py:NAME", a fit (.npz).
        **changes: parts of the recipe that are to be others; those that are None stay.

    Raises:
        InputError: settings for a selector that takes none, or a name that is neither a selector nor a model.
    """
    name, settings, _ = text.partition(":")
    # A name of one's own is fine where `changes` say what forecasts.
    known = name in SELECTORS or name in MODELS or changes.get("dynamics") is not None
    if not known and re.fullmatch(r"[\w+-]+(:\w+=.*)?", text):
        near = get_close_matches(name, [*SELECTORS, *MODELS], n=3, cutoff=0.5)
        mend = f": did you mean {' or '.join(map(repr, near))}? It" if near else ": it"
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
