"""Pools as tables: ids and columns, what "auto" stands for, and who is asked for what."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

import promptdyn
from promptdyn import Prompts
from promptdyn.errors import InputError
from promptdyn.history import RewardHistory
from promptdyn.inference import Refitted
from promptdyn.models import DPS, MODELS, DiscreteHMM, FeatureRate, InformativeRate
from promptdyn.online import Forecaster

IDS = [f"p{i}" for i in range(32)]
TASK, LEVEL = [f"task {i % 2}" for i in range(32)], [i % 4 // 2 for i in range(32)]
POOL = Prompts(IDS, {"task": TASK, "level": LEVEL, "length": np.arange(32.0), "embedding": np.eye(32)})


class Lazy(Mapping):
    """Columns that note which of them were read."""

    def __init__(self, columns):
        self.columns, self.read = columns, []

    def __getitem__(self, name):
        value = self.columns[name]
        self.read.append(name)
        return value

    def __iter__(self):
        return iter(self.columns)

    def __len__(self):
        return len(self.columns)

    def __contains__(self, name):
        return name in self.columns


def test_labels_are_texts_and_gaps_a_level_of_their_own():
    ids: list[Any] = [1, 2, 3, 4]
    pool = Prompts(ids, {"task": ["a|b", None, "", float("nan")], "level": np.array([1, 2, 2, 10])})
    assert pool.ids == ("1", "2", "3", "4")
    assert pool.labels("task").tolist() == ["a|b", "(none)", "(none)", "(none)"]
    assert pool.labels(("task", "level")).tolist() == [r"a\|b|1", "(none)|2", "(none)|2", "(none)|10"]
    assert pool.labels("prompt_id").tolist() == ["1", "2", "3", "4"]
    assert repr(pool) == "Prompts(4 ids, columns task, level)"


def test_features_are_made_of_columns_and_the_policys_reading_stands_as_it_is():
    read = np.random.default_rng(0).normal(3.0, 2.0, (32, 2))
    found = POOL.with_column("policy", read).features(("policy", "length", "task"))
    np.testing.assert_allclose(found[:, :2], read, rtol=1e-6)
    np.testing.assert_allclose(found[:, 2], promptdyn.features.from_columns({"length": np.arange(32.0)})[:, 0])
    assert set(found[:, 3]) == {-1.0, 1.0}
    assert POOL.features("embedding").shape == (32, 16)


def test_auto_stands_for_columns_that_tell_kinds():
    assert POOL.auto_columns == ("task", "level")
    assert Prompts(IDS, {"task": TASK, "level": LEVEL}, label_columns=["task"]).auto_columns == ("task",)
    assert (
        Prompts(IDS, {"length": range(32)}).auto_columns == Prompts(IDS).auto_columns == Prompts([]).auto_columns == ()
    )
    assert (POOL.resolve("auto"), POOL.resolve("length"), POOL.resolve(None)) == (("task", "level"), "length", None)
    assert Prompts(IDS).resolve("auto") is None
    assert POOL.with_column("auto", TASK).resolve("auto") == "auto"  # a column may be called so


def test_auto_is_named_wherever_a_filter_is_made():
    online = InformativeRate(cluster="auto").online(POOL)
    assert online.model == InformativeRate(cluster=("task", "level"))
    assert set(online.state_dict()["clusters"]) == {f"task {i}|{j}" for i in range(2) for j in range(2)}
    assert InformativeRate(cluster="auto").online(IDS).model == InformativeRate()
    plain, named = (
        Refitted(DiscreteHMM(num_states=2, cluster=cluster)).online(POOL) for cluster in ("auto", ("task", "level"))
    )
    assert plain.describe() == named.describe()
    assert plain.state_dict()["clusters"] == online.state_dict()["clusters"]
    history = RewardHistory.from_columns(
        [0] * 32 + [1] * 32, IDS * 2, num_successes=[4] * 64, num_rollouts=[8] * 64, columns={"task": TASK * 2}
    )
    scores = promptdyn.compare({"auto": DPS(cluster="auto"), "task": DPS(cluster="task")}, history, 1).scores
    assert scores[0].log_loss == scores[1].log_loss


def test_columns_are_read_when_they_are_asked_for():
    columns = Lazy({"task": TASK, "level": LEVEL, "length": range(31), "picture": [None] * 32})
    pool = Prompts(IDS, columns, label_columns=["task", "level"])
    assert "picture" in repr(pool)
    DPS(cluster="task").online(pool)
    assert columns.read == ["task"]
    assert pool.auto_columns == pool.with_column("policy", np.ones((32, 1))).auto_columns == ("task", "level")
    with pytest.raises(InputError, match="column 'length' has 31 values for 32 prompts: give one per prompt"):
        pool.features("length")
    assert "picture" not in columns.read


def test_some_rows_are_a_pool():
    some = POOL.with_column("policy", np.ones((32, 3))).select([3, 0])
    assert some.ids == ("p3", "p0")
    assert some.labels("task").tolist() == ["task 1", "task 0"]
    assert some.features("policy").shape == (2, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Prompts(["a", "b", "a"]), "prompt id 'a' is in the pool twice: ids must be unique"),
        (lambda: Prompts("ab"), r"ids='ab' is no list of ids: give one, as in Prompts\(\['a', 'b'\]\)"),
        (lambda: Prompts(["a"], {"task": "x"}), "column 'task' is 'x': give 1 values, one per prompt"),
        (lambda: Prompts(["a"], {"task": 3}), "column 'task' is 3: give"),  # type: ignore[dict-item]
        (lambda: POOL.labels("topic"), "no column 'topic': give one of task, level, length, embedding, or add it"),
        (lambda: Prompts(IDS).labels("task"), "no column 'task': the prompts have none: add it to them"),
        (lambda: DPS().online("ab"), "ids='ab' is no list of ids"),
        (
            lambda: DPS(cluster="topic").online(POOL),
            "model 'dps', cluster='topic': there is no column 'topic'",
        ),
        (lambda: FeatureRate().online(POOL), "features='policy': there is no column 'policy': it is the policy's own"),
        (lambda: POOL.with_column("policy", [[1.0]]), "column 'policy' has 1 values for 32 prompts"),
    ],
)
def test_bad_pools_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


class Doubled:
    """A forecaster of no kind that the package has: another's, after it has seen its first groups twice."""

    name, cluster, features = "doubled", "task", None

    def online(self, prompts):
        online = DPS(cluster=self.cluster).online(prompts)
        online.step(list(Prompts.of(prompts).ids)[:2], [4, 4], 8)
        return online


def test_whatever_forecasts_is_compared_and_shown(tmp_path):
    history = promptdyn.simulate(DiscreteHMM(num_states=2), num_prompts=32, num_steps=6, columns={"task": TASK}).history
    fit = promptdyn.fit(DiscreteHMM(num_states=2), history.before(3), max_iterations=2, backend="pyro")
    forecasters: dict[str, Any] = {
        "doubled": Doubled(),
        "fit": fit,
        "refitted": Refitted(DiscreteHMM(), every=50),
        "dps": DPS(),
    }
    assert all(isinstance(each, Forecaster) for each in forecasters.values())
    assert not any(isinstance(each, Forecaster) for each in (DiscreteHMM(), 3))
    result = promptdyn.compare(forecasters, history, 3)
    assert result.models == forecasters
    from promptdyn.report import write_report

    assert "doubled" in write_report(tmp_path / "page.html", history, Doubled(), comparison=result).read_text()


@pytest.mark.parametrize("name", MODELS)
def test_programs_are_no_forecasters_until_they_are_fitted(name):
    model = MODELS.create(name)
    assert isinstance(model, Forecaster) != hasattr(model, "program")
