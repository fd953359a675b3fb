"""Selectors by name, and that every one of them trains."""

from dataclasses import replace
from pathlib import Path

import pytest

import grpo_run
from grpo_run import Grader
from promptdyn.errors import InputError
from promptdyn.training.recipes import SELECTORS, Recipe, selector_recipe
from promptdyn.training.trl import SelectionGRPOTrainer


def test_selectors_by_name_with_settings_and_changes():
    assert selector_recipe("auto") == Recipe()
    assert selector_recipe("dps:decay=0.5") == Recipe("dps:decay=0.5", strategy="top")
    assert selector_recipe("greso:change=0.02") == replace(SELECTORS["greso"], strategy="greso:change=0.02")
    assert selector_recipe("mopps").score == "half_solved"
    assert selector_recipe("auto", strategy="uniform", score=None) == Recipe(strategy="uniform")
    assert selector_recipe("hmm:cluster=task", refit_every=20) == Recipe("hmm:cluster=task", refit_every=20)
    assert selector_recipe("mine.py:Mine:rate=2").dynamics == "mine.py:Mine:rate=2"
    assert selector_recipe("run/fit.npz").strategy == "proportional"
    with pytest.raises(InputError, match="selector 'uniform:power=2': 'uniform' has no settings"):
        selector_recipe("uniform:power=2")


@pytest.mark.parametrize("name", SELECTORS)
def test_every_selector_trains(tmp_path: Path, name: str) -> None:
    trainer = SelectionGRPOTrainer(
        grpo_run.model(),
        Grader(),
        grpo_run.config(tmp_path, max_steps=3),
        grpo_run.POOL,
        processing_class=grpo_run.tokenizer(),
        selector=name,
    )
    trainer.train()
    assert len(trainer.state.log_history) == 4
    rolled_out = sum(entry.get("selection/groups", 2) for entry in trainer.state.log_history[:-1])
    assert trainer.selector.metrics()["coverage"] > 0
    assert (trainer.dynamic_sampling is not None) == ("dynamic_sampling" in name or name == "greso")
    assert rolled_out >= 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dsp", "no selector is called 'dsp': did you mean 'dps'"),
        ("mops:decay=0.5", "did you mean 'mopps'"),
        ("grseo", "did you mean 'greso'"),
        ("zebra", "it may be auto, uniform, dynamic_sampling"),
    ],
)
def test_a_selector_that_is_none_names_those_near_it(text, message):
    assert selector_recipe(text, dynamics="rate").dynamics == "rate"  # as a race names an entrant
    with pytest.raises(InputError) as refused:
        selector_recipe(text)
    assert message in str(refused.value)
