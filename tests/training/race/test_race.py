"""Races: read, run, resumed, and what is said of them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from datasets import Dataset
from scipy.stats import ttest_rel

import promptdyn
from command_line import promptdyn_here
from promptdyn.errors import InputError
from promptdyn.training import tasks
from promptdyn.training.race import Run, race, read_race, standings, tables, total_rollouts, write_standings
from promptdyn.training.recipes import ROUNDS, Recipe

SMALL = {
    "dataset": "scarce",
    "num_prompts": 60,
    "held_out": 2,
    "budget": 64,
    "prompts_per_step": 4,
    "num_generations": 4,
    "evaluations": 2,
    "held_out_samples": 2,
    "seeds": [9],
    "learning_rates": "1e-4",
    "target": "frontier",
    "selectors": {"uniform": {}, "dynamic_sampling": {"max_rounds": 2}},
}


def written(path: Path, **changes) -> Path:
    given = {name: value for name, value in {**SMALL, **changes}.items() if value is not None}
    path.write_text(yaml.safe_dump(given, sort_keys=False), encoding="utf-8")
    return path


def test_a_race_is_read(tmp_path):
    selectors = {
        "uniform": None,
        "dynamic_sampling": None,
        "mine": {"selector": "dps:decay=0.5", "strategy": "thompson", "budget": 128, "learning_rates": [1e-4, 3e-4]},
    }
    declared = read_race(written(tmp_path / "a.yaml", selectors=selectors, tuning_seeds=[0, 1], reference="mine"))
    assert declared.baseline == "uniform"
    assert declared.entrants["uniform"].recipe == Recipe("rate", strategy="uniform")
    assert declared.entrants["dynamic_sampling"].recipe.max_rounds == ROUNDS
    mine = declared.entrants["mine"]
    assert mine.recipe == Recipe("dps:decay=0.5", strategy="thompson")
    assert (mine.budget, mine.learning_rates) == (128, (1e-4, 3e-4))
    assert total_rollouts(declared) == 2 * 64 + 5 * 128
    for path in Path(promptdyn.__file__).parents[2].glob("races/*.yaml"):
        shipped = read_race(path)
        assert len(shipped.seeds) >= (3 if path.stem == "smollm2" else 5)
        assert min(shipped.seeds) >= 2  # 0 and 1 are for choices
        assert shipped.baseline == "uniform"


def test_a_race_is_run_and_resumed_run_by_run(tmp_path, monkeypatch):
    path, out = written(tmp_path / "a.yaml"), tmp_path / "out"
    declared = read_race(path)
    progress = []
    first = race(declared, out, ["uniform"], progress=lambda run, spent: progress.append((run.entrant, spent)))
    assert progress == [("uniform", spent) for spent in (16, 32, 48, 64, 64)]
    (uniform,) = first.values()
    assert [point["rollouts"] for point in uniform["curve"]] == [0, 32, 64]
    assert (uniform["rollouts"], uniform["steps"]) == (64, 4)
    assert set(uniform["curve"][0]["accuracy"]) == {"solved", "out of reach", "frontier", "all", "mix"}
    assert sum(uniform["rollout_shares"].values()) == pytest.approx(1)
    folder = Run("uniform", 1e-4, 9).folder(out)
    history = promptdyn.read_history(folder / "history.parquet")
    assert history.num_rollouts.sum() == 64
    assert uniform["effective_sample_ratio"] == history.informative.mean()
    assert not (folder / "work").exists()

    # Cut off in the second run: the first is not run again, the second is.
    (Run("dynamic_sampling", 1e-4, 9).folder(out) / "work").mkdir(parents=True)
    written_at = (folder / "result.json").stat().st_mtime_ns
    both = race(declared, out)
    assert (folder / "result.json").stat().st_mtime_ns == written_at
    assert both[Run("uniform", 1e-4, 9)] == uniform
    sampled = both[Run("dynamic_sampling", 1e-4, 9)]
    assert sampled["rollouts"] >= 64
    assert sampled["trained_informative"] >= sampled["effective_sample_ratio"]

    # A result of a time when recipes had fewer parts is one still.
    older = json.loads((folder / "result.json").read_text())
    del older["settings"]["recipe"]["keep"]
    (folder / "result.json").write_text(json.dumps(older))
    assert race(declared, out, ["uniform"])[Run("uniform", 1e-4, 9)]["curve"] == uniform["curve"]

    again = race(declared, tmp_path / "again", ["uniform"])[Run("uniform", 1e-4, 9)]
    assert again["curve"] == uniform["curve"]  # chosen and measured the same
    with pytest.raises(InputError, match=r"result.json: was made with held_out=2, the race has 3"):
        race(replace(declared, held_out=3), out)
    with pytest.raises(InputError, match="'dps' is none of the selectors uniform, dynamic_sampling"):
        race(declared, out, ["dps"])
    (folder / "result.json").write_text("{}")
    with pytest.raises(InputError, match="is no result of a race: delete it"):
        race(declared, out)


def test_files_of_ones_own_are_raced_on(tmp_path):
    for name, split in (("pool", "train"), ("held_out", "test")):
        rows = [
            {"prompt": row["prompt"], "answer": row["answer"]} for row in tasks.make_pool("arithmetic", 30, split=split)
        ]
        Dataset.from_list(rows).to_json(tmp_path / f"{name}.jsonl")
    files = {"dataset": str(tmp_path / "pool.jsonl"), "held_out": str(tmp_path / "held_out.jsonl"), "target": "all"}
    declared = read_race(written(tmp_path / "a.yaml", **files, selectors={"uniform": {}}, evaluations=1))
    (result,) = race(declared, tmp_path / "out").values()
    start, end = (point["accuracy"] for point in result["curve"])
    assert start.keys() == {"all", "mix"}
    assert 0.2 < start["all"] == start["mix"] < 0.8
    assert end["all"] != start["all"]


def test_learning_rates_are_chosen_on_seeds_of_their_own(tmp_path):
    path = written(tmp_path / "a.yaml", tuning_seeds=[0, 1], learning_rates=[1e-5, 1e-4], selectors={"uniform": {}})
    declared, out = read_race(path), tmp_path / "out"
    # Results that are there are not run again: the higher rate does better on the tuning seeds, worse on the others.
    for rate, seed, accuracy in (
        (1e-5, 0, 0.5),
        (1e-5, 1, 0.4),
        (1e-4, 0, 0.3),
        (1e-4, 1, 0.7),
        (1e-5, 9, 0.9),
        (1e-4, 9, 0.1),
    ):
        run = Run("uniform", rate, seed)
        run.folder(out).mkdir(parents=True)
        curve = [{"rollouts": 64, "accuracy": {"frontier": accuracy}}]
        result = {"settings": declared.settings(run), "curve": curve}
        (run.folder(out) / "result.json").write_text(json.dumps(result))
    ((run, found),) = race(declared, out).items()
    assert run == Run("uniform", 1e-4, 9)
    assert found["curve"][-1]["accuracy"]["frontier"] == 0.1


def made_up(declared, accuracies) -> dict:
    """Results of runs whose `frontier` is given at the start, in the middle and at the end; `mix` is a tenth of it."""
    quantities = dict.fromkeys(
        ("effective_sample_ratio", "coverage", "forecast", "calibration_error", "tokens", "seconds", "overhead"), 0.5
    )
    results = {}
    for (name, seed), values in accuracies.items():
        budget = declared.entrants[name].budget
        points = zip((0, budget // 2, budget), values, strict=True)
        curve = [{"rollouts": at, "accuracy": {"frontier": value, "mix": value / 10}} for at, value in points]
        results[Run(name, 1e-4, seed)] = {"curve": curve, "steps": 4, "rollouts": budget, **quantities}
    return results


def test_standings_by_hand(tmp_path):
    selectors = {"uniform": {}, "auto": {}, "long": {"selector": "uniform", "budget": 256}}
    declared = read_race(written(tmp_path / "a.yaml", selectors=selectors, seeds=[9, 10, 11], reference="long"))
    uniform = [(0.5, 0.5, 0.6), (0.5, 0.6, 0.6), (0.5, 0.4, 0.6)]
    auto = [(0.5, 0.7, 0.8), (0.5, 0.7, 0.7), (0.5, 0.7, 0.9)]
    accuracies = {
        **{("uniform", 9 + i): values for i, values in enumerate(uniform)},
        **{("auto", 9 + i): values for i, values in enumerate(auto)},
        **{("long", 9 + i): (0.5, 0.6, 0.75) for i in range(3)},
    }
    found = {standing.name: standing for standing in standings(declared, made_up(declared, accuracies))}
    auto_, long = found["auto"], found["long"]
    expected = ttest_rel([0.8, 0.7, 0.9], [0.6] * 3).confidence_interval()
    np.testing.assert_allclose(auto_.from_baseline["frontier"], (0.2, *expected))
    # Areas: auto .675, .65, .7; uniform .525, .575, .475.
    area = auto_.area_from_baseline["frontier"]
    assert area.mean == pytest.approx(0.15)
    assert 0.075 - 1e-9 <= area.low < area.mean < area.high <= 0.225 + 1e-9
    assert long.area_from_baseline == {}  # another budget
    assert auto_.to_reference["frontier"] == pytest.approx(48)  # half way from .7 at 32 to .8 at 64
    assert found["uniform"].to_reference["frontier"] is None
    assert long.to_reference["mix"] == 256
    assert found["uniform"].from_baseline == {}
    assert json.loads(json.dumps(auto_.record()))["from_baseline"]["frontier"]["mean"] == pytest.approx(0.2)
    end, over, cost = tables(declared, list(found.values())).values()
    assert end[1]["frontier"] == "0.800 ± 0.058"
    assert end[1]["frontier, from uniform"].startswith("+0.200 [-0.048")
    assert over[1]["rollouts to its frontier"] == "48"
    assert cost[0]["overhead"] == "50.0%"
    page = write_standings(tmp_path / "page", "A race", declared, list(found.values())).read_text()
    assert page.count("<svg") == 2
    assert "+0.200 [" in page
    assert (tmp_path / "page" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_race_of_one_seed_has_no_intervals(tmp_path):
    declared = read_race(written(tmp_path / "a.yaml"))
    results = made_up(declared, {("uniform", 9): (0.5, 0.5, 0.5), ("dynamic_sampling", 9): (0.5, 0.6, 0.7)})
    _, sampled = standings(declared, results)
    assert str(sampled.from_baseline["frontier"]) == "+0.200"
    assert sampled.to_reference == {}


def test_the_command_races_and_shows(tmp_path):
    written(tmp_path / "a.yaml")
    done = promptdyn_here(*("race", tmp_path / "a.yaml", "--out", tmp_path / "out", "--only", "uniform", "--json", "-"))
    assert done.returncode == 0, done.stderr
    (record,) = json.loads(done.stdout)
    assert record["selector"] == "uniform"
    assert len(record["curves"]["frontier"][0]) == 3
    assert " 25%  uniform, 0.0001, seed 9: 16 rollouts" in done.stderr  # the first of a line a minute
    assert (tmp_path / "out" / "report.html").is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sedes": [1]}, "a.yaml: 'sedes' is none of selectors, dataset"),
        ({"budget": None}, "'budget' is missing"),
        ({"budget": "many"}, "budget: 'many' is not a whole number"),
        ({"budget": 0}, "budget: 0 is not a whole number, 1 or more"),
        ({"seeds": []}, "seeds: give at least one"),
        ({"tuning_seeds": [9]}, "seeds: 9 is one of tuning_seeds too"),
        ({"learning_rates": [1e-4, 2e-4]}, "uniform: 2 learning_rates and no tuning_seeds"),
        ({"learning_rates": "fast"}, "learning_rates: 'fast' are not numbers"),
        ({"learning_rates": [-1.0]}, r"learning_rates: \[-1.0\] are not numbers above 0"),
        ({"baseline": "dps"}, "baseline: 'dps' is none of the selectors uniform, dynamic_sampling"),
        ({"target": "frontiers"}, "target: 'frontiers' is none of solved, out of reach, frontier, all, mix"),
        ({"whole_batches": "no way"}, "whole_batches: 'no way': give true or false"),
        ({"grpo": "bf16"}, "grpo: 'bf16': give a mapping from names to values"),
        ({"grpo": {"seed": 1}}, "grpo: 'seed' is not free in a race: it follows from the race's own settings"),
        ({"held_out": "tests.jsonl"}, "held_out: 'tests.jsonl' for dataset 'scarce'"),
        ({"dataset": "mine.jsonl"}, "held_out: 2 for dataset 'mine.jsonl'"),
        ({"selectors": ["uniform"]}, "selectors: give a mapping"),
        ({"selectors": {}}, "selectors: name at least one"),
        ({"selectors": {"uniform": {"decay": 0.5}}}, "selectors: uniform: 'decay' is none of selector, dynamics"),
        ({"selectors": {"uniform:power=2": {}}}, "'uniform' has no settings"),
        ({"selectors": {"dps": {"score": "best"}}}, "a.yaml: score 'best' is none of informative, reward_variance"),
        ({"selectors": {"dps": {"strategy": "mine.py:Mine"}}}, "strategy 'mine.py:Mine': mine.py: no such file"),
    ],
)
def test_bad_races_are_named(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        read_race(written(tmp_path / "a.yaml", **changes))


def test_what_is_no_race_is_named(tmp_path):
    path = tmp_path / "a.yaml"
    with pytest.raises(InputError, match="cannot be read"):
        read_race(path)
    for text, message in (("a: [", "is no YAML"), ("- a", "holds no mapping")):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_race(path)
