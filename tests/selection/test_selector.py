"""A selector: what it observes, saves and refuses."""

import numpy as np
import pytest

import promptdyn
from promptdyn.errors import InputError
from promptdyn.history import RewardHistory
from promptdyn.inference import Fit
from promptdyn.models import DPS, BetaBernoulli, DiscreteHMM
from promptdyn.selection import SCORES, STRATEGIES, Selector
from taught import IDS, taught


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("model", [DPS(), BetaBernoulli()], ids=lambda model: model.name)
def test_every_strategy_and_score_chooses_distinct_prompts_repeatably(strategy, score, model):
    first, second = (taught(model, strategy=strategy, score=score, seed=3) for _ in range(2))
    for _ in range(3):
        chosen = first.select(5, exclude=IDS[:2])
        assert chosen == second.select(5, exclude=IDS[:2])
        assert len(set(chosen)) == 5
        assert not set(chosen) & set(IDS[:2])


def test_rewards_without_a_grade_are_counted_out():
    selector = Selector(BetaBernoulli().online(IDS), success=0.5)
    seen = selector.observe(
        ["p0", "p1", "p2"],
        [[1.0, None, 0.0, float("nan")], [None, float("nan"), None, None], [1.0, 1.0, 0.9, 0.2]],
    )
    assert seen.prompt_ids == ["p0", "p2"]
    assert seen.num_rollouts.tolist() == [2, 4]
    assert seen.num_successes.tolist() == [1, 3]
    assert seen.informative.tolist() == [True, True]
    assert selector.metrics()["ungraded_groups"] == 1
    assert selector.metrics()["coverage"] == pytest.approx(2 / 12)
    assert selector.online.success_rate()[1] == 0.5


def test_threshold_and_groups_of_different_length():
    selector = Selector(DPS().online(IDS), success=2.0)
    seen = selector.observe(["p0", "p1"], [[1.9, 2.0, 2.1], [0.0, 1.0]])
    assert seen.num_rollouts.tolist() == [3, 2]
    assert seen.num_successes.tolist() == [2, 0]


def test_metrics_compare_the_forecast_with_what_came_true():
    selector = taught(strategy="top")
    forecast = selector.online.informative(8)
    chosen = selector.select(4)
    selector.observe(chosen, [[0, 1]] * 3 + [[1, 1]])
    metrics = selector.metrics()
    assert metrics["predicted_informative"] == pytest.approx(forecast[:4].mean())
    assert metrics["informative"] == 0.75
    assert metrics["coverage"] == pytest.approx(8 / 12)
    assert 0 < metrics["belief_entropy"] < np.log(3)
    assert metrics["select_time_s"] > 0
    assert metrics["observe_time_s"] > 0


def test_new_prompts_join_and_are_chosen():
    selector = taught(strategy="top")
    selector.add(["late"])
    assert "late" in selector.select(9)
    selector.observe(["late"], [[0, 1]])
    assert selector.metrics()["coverage"] == pytest.approx(9 / 13)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_saved_selector_goes_on_as_if_never_stopped(strategy, tmp_path):
    rng = np.random.default_rng(0)
    rewards = rng.random((20, 3, 8)).round()

    def run(selector, steps):
        chosen = []
        for step in steps:
            chosen.append(selector.select(3))
            selector.observe(chosen[-1], rewards[step])
        return chosen

    whole = taught(strategy=strategy)
    whole.add(["late"])
    expected = run(whole, range(20))
    stopped = taught(strategy=strategy)
    stopped.add(["late"])
    run(stopped, range(8))
    stopped.save(tmp_path / "selector.npz")
    resumed = Selector(DPS().online(IDS), strategy=strategy, seed=99)
    resumed.load(tmp_path / "selector.npz")
    assert run(resumed, range(8, 20)) == expected[8:]
    timeless = [{k: v for k, v in s.metrics().items() if not k.endswith("time_s")} for s in (resumed, whole)]
    assert timeless[0] == timeless[1]
    assert [path.name for path in tmp_path.iterdir()] == ["selector.npz"]  # no temporary file is left


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda s: s.select(13), "cannot select k=13 of 12 prompts: k must be from 1 to 12"),
        (lambda s: s.select(0), "k=0"),
        (lambda s: s.select(11, exclude=["p0", "p1", "p1"]), "k=11 of 12 prompts less 2 excluded"),
        (lambda s: s.select(1, exclude=["ghost"]), "'ghost' is not among"),
        (lambda s: s.observe(["ghost"], [[1, 0]]), "'ghost' is not among"),
        (lambda s: s.observe(["ghost"], [[None, None]]), "'ghost' is not among"),
        (lambda s: s.observe(["p0", "p0"], [[1, 0], [1, 0]]), "'p0' appears twice"),
        (lambda s: s.observe(["p0", "p1"], [[1, 0]]), "1 rows of rewards for 2 prompts"),
        (lambda s: s.observe(["p0"], [["good", "bad"]]), "rewards of prompt 'p0' are not numbers"),
        (lambda s: s.observe(["p0"], [["1", "0"]]), "rewards of prompt 'p0' are not numbers"),
        (lambda s: s.observe(["p0", "p0"], [[None], [1, 0]]), "'p0' appears twice"),
        (lambda s: Selector(s.online, success=float("nan")), "success=nan"),
        (lambda s: Selector(s.online, strategy="top_entropy:weight=nan"), "weight='nan' is not a finite number"),
        (lambda s: s.observe(["p0"], [1.0]), r"rewards of prompt 'p0' have shape \(\)"),
        (lambda s: s.add(["p0"]), "'p0' is in the pool twice"),
        (lambda s: Selector(DPS()), r"Selector is given a DPS: give it a filter over the pool, .online\(prompts\)"),  # type: ignore[arg-type]
        (lambda s: Selector(DPS), "Selector is given a DPS: give it a filter"),  # type: ignore[arg-type]
        (lambda s: Selector("dps"), "Selector is given a str: give it a filter"),  # type: ignore[arg-type]
        (lambda s: Selector(Fit(DiscreteHMM(), {}, ("all",))), "Selector is given a Fit: give it a filter"),  # type: ignore[arg-type]
        (lambda s: Selector(s.online, strategy="best"), "strategy 'best' is none of proportional, top"),
        (lambda s: Selector(s.online, strategy="gumbel:heat=1"), "has no setting 'heat'; it has temperature"),
        (lambda s: Selector(s.online, strategy="gumbel:temperature=0"), "temperature=0"),
        (lambda s: Selector(s.online, strategy="gumbel:temperature=hot"), "strategy 'gumbel': temperature='hot'"),
        (lambda s: Selector(s.online, score="hard"), "score 'hard' is none of informative"),
        (lambda s: Selector(s.online, num_generations=1), "num_generations=1"),
    ],
)
def test_bad_input_is_named(act, message):
    selector = taught()
    before = selector.online.belief
    with pytest.raises(InputError, match=message):
        act(selector)
    np.testing.assert_array_equal(selector.online.belief, before)


def test_bad_state_files_are_named(tmp_path):
    path = tmp_path / "selector.npz"
    selector = taught()
    with pytest.raises(InputError, match="no such file"):
        selector.load(path)
    path.write_bytes(b"garbage")
    with pytest.raises(InputError, match="not a promptdyn selector file, or damaged"):
        selector.load(path)
    selector.save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="damaged"):
        selector.load(path)
    selector.save(path)
    with pytest.raises(InputError, match=r"saved with choice proportional.*, this one has thompson"):
        taught(strategy="thompson").load(path)
    with pytest.raises(InputError, match="saved with num_generations 8, this one has 4"):
        taught(num_generations=4).load(path)
    with pytest.raises(InputError, match=r"selector\.npz: the state was saved by model"):
        taught(DPS(0.5)).load(path)
    with pytest.raises(InputError, match="another pool"):
        Selector(DPS().online(["more"])).load(path)
    with pytest.raises(InputError, match="on score half_solved"):
        taught(score="half_solved").load(path)


def test_a_state_that_is_not_whole_changes_nothing():
    selector = taught()
    state = taught(seed=5).state_dict()
    before = selector.state_dict()
    for part in ("rng", "times_seen", "online", "metrics"):
        with pytest.raises(InputError, match="not whole"):
            selector.load_state_dict({key: value for key, value in state.items() if key != part})
    with pytest.raises(InputError, match="array it should be"):
        selector.load_state_dict({**state, "online": {**state["online"], "arrays": {}}})
    assert selector.state_dict()["rng"] == before["rng"]
    np.testing.assert_array_equal(selector.state_dict()["times_seen"], before["times_seen"])


def test_a_fit_with_crossed_clusters_resumes_from_its_file(tmp_path):
    history = RewardHistory.from_columns(
        [0, 0, 1, 1],
        ["a", "b", "a", "b"],
        num_successes=[0, 8, 1, 8],
        num_rollouts=[8] * 4,
        columns={"x": list("uvuv"), "y": list("wwww")},
    )
    fit = promptdyn.fit(DiscreteHMM(num_states=3, cluster=("x", "y")), history, max_iterations=2)
    first, second = (Selector(fit.online(history.prompts)) for _ in range(2))
    first.observe(first.select(1), [[1, 0]])
    first.save(tmp_path / "selector.npz")
    second.load(tmp_path / "selector.npz")
    np.testing.assert_array_equal(first.online.belief, second.online.belief)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64", "int64", "bool"])
def test_tensors_of_any_kind_are_rewards(dtype):
    torch = pytest.importorskip("torch")
    given = [[1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]]
    tensor = torch.tensor(given).to(getattr(torch, dtype))
    kinds = [tensor, list(tensor), [list(row) for row in tensor], {"correct": tensor}]
    if tensor.is_floating_point():
        tensor.requires_grad_()
        kinds += [tensor * 1.0, [list(row) for row in tensor], [[None, *row[1:]] for row in tensor]]
    for rewards in kinds:
        seen = Selector(DPS().online(IDS), num_generations=4, success=0.5).observe(IDS[:3], rewards)
        first = [1, 0, 3] if isinstance(rewards, list) and rewards[0][0] is None else [2, 0, 4]
        assert seen.num_successes.tolist() == first
