"""Models run forward: the counts that they draw have the probabilities that the kernels say, and truth is recovered."""

import json
from itertools import product
from typing import Any

import numpy as np
import pytest

import promptdyn
from command_line import promptdyn_here
from configs import OneRate, OwnSpeed, TwoState, small_history
from known import known
from promptdyn.errors import InputError
from promptdyn.evaluation import simulate
from promptdyn.history import RewardHistory
from promptdyn.inference import Fit
from promptdyn.inference.densities import load_density
from promptdyn.models import DPS, DiscreteHMM, HierarchicalHMM

# Idle prompts stay, trained ones move forward, those trained on without variance fall back: exposures show.
MOVES = [[[0.95, 0.05], [0.1, 0.9]], [[0.4, 0.6], [0.05, 0.95]], [[0.9, 0.1], [0.7, 0.3]]]
CLUSTERED = Fit(
    DiscreteHMM(num_states=2, cluster="family"),
    {
        "initial": np.array([[0.9, 0.1], [0.3, 0.7]]),
        "transition": np.stack([MOVES, np.array(MOVES)[:, ::-1, ::-1]], axis=1),
        "gaps": np.array([0.2, 0.6, 0.2]),
    },
    ("a", "b"),
)


@pytest.mark.parametrize("label", ["a", "b"])
def test_counts_are_drawn_with_the_probabilities_of_the_kernel(label):
    size, num_steps, n = 20_000, 3, 2
    drawn = simulate(
        CLUSTERED, num_prompts=size, num_steps=num_steps, num_generations=n, columns={"family": [label] * size}, seed=3
    )
    patterns = np.array(list(product(range(n + 1), repeat=num_steps)))
    step, pattern = (grid.ravel() for grid in np.indices(patterns.T.shape))
    possible = RewardHistory.from_columns(
        step,
        pattern,
        num_successes=patterns.T.ravel(),
        num_rollouts=np.full(step.size, n),
        columns={"family": [label] * step.size},
    )
    dense = possible.dense("family")._replace(cluster=np.full(len(patterns), "ab".index(label), np.int32))
    dense = dense._replace(cluster_names=("a", "b"))
    chances = np.exp(load_density("numpyro")(CLUSTERED.model, dense).log_marginals(CLUSTERED.params))
    assert chances.sum() == pytest.approx(1.0)
    shown = drawn.history.num_successes.reshape(num_steps, size).T @ (n + 1) ** np.arange(num_steps)[::-1]
    found = np.bincount(shown, minlength=len(patterns)) / size
    np.testing.assert_array_less(np.abs(found - chances), 5 * np.sqrt(chances / size))
    assert np.bincount(drawn.states[0]) / size == pytest.approx(CLUSTERED.chain.initial["ab".index(label)], abs=0.02)


def test_states_and_exposures_move_prompts():
    drawn = simulate(CLUSTERED, num_prompts=4000, num_steps=30, prompts_per_step=1000, num_generations=4, seed=1)
    dense = drawn.history.dense("family")
    assert dense.cluster_names == ("a", "b")
    moves = np.zeros((3, 2, 2, 2))
    place = np.broadcast_to(dense.cluster, dense.exposure[:-1].shape)
    np.add.at(moves, (dense.exposure[:-1], place, drawn.states[:-1], drawn.states[1:]), 1)
    total = moves.sum(axis=-1, keepdims=True)
    assert total.min() > 100
    truth = CLUSTERED.chain.transition
    assert (np.abs(moves / total - truth) < 5 * np.sqrt(0.25 / total)).all()


def test_what_was_logged_can_be_drawn_again():
    history = small_history(2, num_prompts=9, num_steps=12)
    again = simulate(CLUSTERED.model, like=history, seed=5, backend="pyro")
    for column in ("prompt", "step", "num_rollouts", "trained"):
        np.testing.assert_array_equal(getattr(again.history, column), getattr(history, column))
    assert (again.history.num_successes <= history.num_rollouts).all()
    assert again.states.shape == (13, 9)
    for n, k, mean, std in zip(
        history.num_rollouts,
        again.history.num_successes,
        known(again.history.reward_mean),
        known(again.history.reward_std),
        strict=True,
    ):
        rewards = np.arange(n) < k
        assert (mean, std) == pytest.approx((rewards.mean(), rewards.std(ddof=1) if n > 1 else 0.0), abs=1e-6)
    assert again.truth.cluster_names == ("c0", "c1")
    same, other = (simulate(again.truth, like=history, seed=seed).history.num_successes for seed in (5, 6))
    np.testing.assert_array_equal(same, simulate(again.truth, like=history, seed=5).history.num_successes)
    assert (same != other).any()


def test_prompts_with_chains_of_their_own_are_those_of_the_fit():
    drawn = simulate(OwnSpeed(), num_prompts=4, num_steps=5, backend="pyro")
    assert drawn.truth.params["speed"].shape == (4,)
    assert simulate(drawn.truth, num_prompts=3, num_steps=2).states.shape == (2, 3)
    with pytest.raises(InputError, match="'p4' is none of those fitted"):
        simulate(drawn.truth, num_prompts=5)


def test_clusters_that_a_model_takes_of_itself():
    model = HierarchicalHMM(num_states=2)
    assert simulate(model, num_prompts=3, num_steps=2, backend="pyro").truth.cluster is None
    labels = {"task": ["x", "y"] * 10, "level": ["1", "1", "2", "2"] * 5}
    drawn = simulate(model, num_prompts=20, num_steps=2, columns=labels, backend="pyro")
    assert drawn.truth.cluster == ("task",)
    crossed = simulate(
        HierarchicalHMM(num_states=2, cluster=("task", "level")), num_prompts=20, columns=labels, backend="pyro"
    )
    again = simulate(crossed.truth, num_prompts=6)
    assert list(again.history.prompts.labels(("task", "level"))) == ["x|1", "x|2", "y|1", "y|2", "x|1", "x|2"]


def test_truth_is_recovered_and_forecasts_best():
    drawn = simulate(CLUSTERED, num_prompts=300, num_steps=60, prompts_per_step=150, seed=2)
    fit = promptdyn.fit(DiscreteHMM(num_states=2, cluster="family"), drawn.history.before(40))
    np.testing.assert_allclose(fit.success_rates, CLUSTERED.success_rates, atol=0.01)
    np.testing.assert_allclose(fit.params["transition"], CLUSTERED.params["transition"], atol=0.12)
    models: dict[str, Any] = {"truth": drawn.truth, "fit": fit, "dps": DPS()}
    scores = {score.model: score for score in promptdyn.compare(models, drawn.history, 40).scores}
    assert scores["truth"].log_loss < scores["fit"].log_loss < scores["dps"].log_loss
    assert scores["truth"].calibration_error < 0.02


@pytest.mark.parametrize(
    ("source", "sizes", "message"),
    [
        (OneRate(), {"num_prompts": 0}, "num_prompts=0 must be at least 1"),
        (OneRate(), {"num_steps": -1}, "num_steps=-1 must be"),
        (OneRate(), {"num_generations": 0}, "num_generations=0 must be"),
        (OneRate(), {"prompts_per_step": 0}, "prompts_per_step=0 must be"),
        (OneRate(), {"num_prompts": 3, "prompts_per_step": 4}, "prompts_per_step=4 of num_prompts=3"),
        (OneRate(), {"num_prompts": 3, "columns": {"task": ["a"]}}, "column 'task' has 1 labels for 3 prompts"),
        (TwoState("family"), {}, "there is no column 'family'"),
        (CLUSTERED, {"columns": {"family": ["z"] * 500}}, "cluster 'z' is none of those fitted"),
        (CLUSTERED, {"like": small_history().before(0)}, "like: the history has no rows"),
        (DPS(), {}, "DPS has no program, nothing to fit or to run forward"),
    ],
)
def test_what_cannot_be_drawn_is_told(source, sizes, message):
    with pytest.raises(InputError, match=message):
        simulate(source, **sizes)


def test_the_command_line_simulates(tmp_path):
    CLUSTERED.save(tmp_path / "fit.npz")
    done = promptdyn_here(
        "simulate", tmp_path / "fit.npz", tmp_path / "h.parquet", "--num-prompts", 40, "--num-steps", 9,
        "--prompts-per-step", 7, "--num-generations", 4, "--seed", 3, "--truth", tmp_path / "truth.npz", "--json", "-",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["rows"], told["rollouts"], told["columns"]) == (63, 252, {"family": 2})
    history = RewardHistory.from_parquet(tmp_path / "h.parquet")
    expected = simulate(CLUSTERED, num_prompts=40, num_steps=9, prompts_per_step=7, num_generations=4, seed=3)
    np.testing.assert_array_equal(history.num_successes, expected.history.num_successes)
    np.testing.assert_array_equal(Fit.load(tmp_path / "truth.npz").params["gaps"], CLUSTERED.params["gaps"])
