"""The online filter's contract, for every model: what it forecasts, refuses, saves and restores."""

import tracemalloc
from dataclasses import replace
from typing import Any, cast

import jax
import numpy as np
import pytest

import promptdyn
from promptdyn.errors import InputError, PromptdynWarning
from promptdyn.history import RewardHistory
from promptdyn.inference import Fit
from promptdyn.kernels import jax as kernels
from promptdyn.models import (
    DPS,
    MODELS,
    BetaBernoulli,
    DiscreteHMM,
    DynamicsLike,
    FeatureRate,
    InformativeRate,
    Pool,
    emissions,
)
from promptdyn.online import DiscountedBeta, FrozenChain, OnlineFilter
from promptdyn.ppl import load_backend
from promptdyn.prompts import Prompts
from promptdyn.testing import check_online

IDS = ["a", "b", "c", "d", "e", "f"]
LABELS = ["x", "y", "x", "y", "x", "y"]


def frozen(model: DiscreteHMM, cluster_names=("all",), seed=0) -> FrozenChain:
    """A model at random parameters, as something that filters."""
    rng = np.random.default_rng(seed)
    num_states, num_clusters = model.num_states, len(cluster_names)
    params = {
        "initial": rng.dirichlet(np.ones(num_states), num_clusters),
        "transition": rng.dirichlet(np.ones(num_states), (model.num_exposures, num_clusters, num_states)),
        "gaps": np.full(num_states + 1, 1 / (num_states + 1)),
        "precision": np.array(20.0),
    }
    chain = Fit(model, params, cluster_names).frozen()
    assert isinstance(chain, FrozenChain)
    return chain


FEATURES = np.random.default_rng(0).normal(size=(len(IDS) + 1, 3))


def prompts(rows=tuple(range(6))):
    """Some of seven prompts, with the columns that the models here go by."""
    ids, labels = [*IDS, "g"], [*LABELS, "x"]
    return Prompts(
        [ids[i] for i in rows], {"family": [labels[i] for i in rows], "policy": FEATURES[list(rows)].tolist()}
    )


def ready(model):
    """A registered model as something that filters, its parameters drawn from the prior."""
    if not isinstance(model, DynamicsLike):
        return model
    plain = replace(cast(Any, model), cluster=None)
    drawn = load_backend("pyro").Program(plain, Pool(np.zeros(1, np.int32), ("all",))).prior(1, seed=0)
    return Fit(plain, {name: value[0] for name, value in drawn.items()}, ("all",)).frozen()


FILTERS = {
    **{f"registered {name}": ready(MODELS.create(name)) for name in MODELS},
    "mopps": BetaBernoulli(decay=0.9),
    "mopps with clusters": BetaBernoulli(0.7, cluster="family", step_decay=0.95),
    "rate with clusters": InformativeRate(cluster="family"),
    "dps with clusters": DPS(cluster="family"),
    "hmm": frozen(DiscreteHMM(num_states=4)),
    "hmm without exposure": frozen(DiscreteHMM(num_states=4, num_exposures=1)),
    "hmm with clusters": frozen(DiscreteHMM(num_states=5, cluster="family"), ("x", "y")),
    "hmm with two exposures": frozen(DiscreteHMM(num_states=3, num_exposures=2, emission="beta_binomial")),
    "ternary hmm": frozen(DiscreteHMM(num_states=3, emission="ternary", noise=0.1)),
    "ternary hmm by moments": DiscountedBeta(frozen(DiscreteHMM(num_states=3, emission="ternary"))),
    "by moments": DiscountedBeta(frozen(DiscreteHMM(num_states=4, cluster="family"), ("x", "y"))),
}


@pytest.fixture(params=list(FILTERS.values()), ids=list(FILTERS))
def model(request):
    return request.param


def drive(online: OnlineFilter, num_steps: int, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(num_steps):
        seen = rng.choice(IDS, 3, replace=False)
        n = rng.integers(1, 9, 3)
        online.step(seen, rng.integers(0, n + 1), n, trained=rng.random(3) < 0.7)


def test_filters_pass_the_kit(model):
    check_online(model, prompts())


@pytest.mark.parametrize(
    "name", ["hmm", "hmm without exposure", "hmm with clusters", "hmm with two exposures", "ternary hmm"]
)
def test_online_filter_equals_the_offline_kernel(name):
    model = FILTERS[name]
    rng = np.random.default_rng(2)
    online = model.online(prompts())
    records = []
    for step in range(20):
        seen = rng.permutation(6)[:3] if step else np.arange(6)
        n = rng.choice([1, 4, 8], len(seen))
        k, trained = rng.integers(0, n + 1), rng.random(len(seen)) < 0.5
        online.step([IDS[i] for i in seen], k, n, trained)
        records += [
            {
                "step": step,
                "prompt_id": IDS[i],
                "num_rollouts": int(n[j]),
                "num_successes": int(k[j]),
                "trained": bool(trained[j]),
                "family": LABELS[i],
            }
            for j, i in enumerate(seen)
        ]
    dense = RewardHistory.from_records(records).dense(model.cluster_names and "family")
    assert list(dense.prompt_ids) == IDS
    with jax.enable_x64(True):
        chain = model.initial, model.transition, model.log_emission(**dense.counts._asdict())
        cluster_index = dense.cluster if model.cluster_names else None
        # A further step, of which nothing is known yet.
        symbols, exposure = (np.concatenate([part, 0 * part[:1]]) for part in (dense.symbols, dense.exposure))
        filtered = kernels.filter(
            kernels.Markov(*chain), kernels.Sequences.whole(symbols, exposure, cluster_index)
        ).filtered
        np.testing.assert_allclose(online.belief, np.asarray(filtered[-1]).T, atol=1e-12)


@pytest.mark.parametrize(("num_states", "num_clusters", "num_groups"), [(3, 1, 500), (3, 40, 60), (20, 5, 400)])
def test_a_frozen_chain_equals_a_loop_over_prompts(num_states, num_clusters, num_groups):
    """Many prompts that share a matrix, and many matrices of few prompts each, are worked on in different ways."""
    rng = np.random.default_rng(0)
    names = tuple(f"c{i}" for i in range(num_clusters))
    model = DiscreteHMM(num_states=num_states, cluster="family" if num_clusters > 1 else None)
    chain = frozen(model, names if num_clusters > 1 else ("all",))
    codes = rng.integers(0, num_clusters, 500)
    state = chain.init(Pool.from_labels([names[code] for code in codes]))
    expected = state.belief.T.copy()
    for _ in range(3):
        rows = rng.permutation(500)[:num_groups]
        n = rng.choice([1, 8], num_groups)
        k, trained = rng.integers(0, n + 1), rng.random(num_groups) < 0.7
        state = chain.step(state, rows, k, n, trained)
        exposure = np.zeros(500, int)
        for row, size, successes, fed in zip(rows, n, k, trained, strict=True):
            expected[row] *= np.exp(
                chain.log_emission(num_successes=np.array([successes]), num_rollouts=np.array([size]))[:, 0]
            )
            expected[row] /= expected[row].sum()
            exposure[row] = fed * (1 + (successes in (0, size)))
        expected = np.stack([expected[i] @ chain.transition[exposure[i], codes[i]] for i in range(500)])
        np.testing.assert_allclose(state.belief.T, expected, atol=1e-12)


def test_a_step_of_a_frozen_chain_takes_the_memory_of_a_few_beliefs():
    """Not that of a matrix for each group, which at 50 states is 50 times as much as the beliefs themselves."""
    num_prompts = 20_000
    chain = frozen(DiscreteHMM(num_states=50))
    state = chain.init(Pool.of_one_cluster(num_prompts))
    rng = np.random.default_rng(0)
    k, trained = rng.integers(0, 9, num_prompts), rng.random(num_prompts) < 0.7
    tracemalloc.start()
    try:
        chain.step(state, np.arange(num_prompts), k, np.full(num_prompts, 8), trained)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5 * state.belief.nbytes


def test_an_impossible_count_is_taken_at_its_word():
    """Without noise a transition of chance zero can be contradicted; the belief then follows the data, not NaN."""
    chain = FrozenChain("absorbing", np.array([[1.0, 0.0, 0.0]]), np.eye(3)[None, None], emissions.Ternary().log_prob)
    online = OnlineFilter(chain, ["a"])
    online.step(["a"], [8], [8])
    assert online.belief.tolist() == [[0.0, 0.0, 1.0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["nobody"], [1], [8]), "'nobody' is not among the pool's 6 prompts"),
        ((["a", "a"], [1, 1], [8, 8]), "'a' appears twice"),
        ((["a", "b"], [1, 9], [8, 8]), "'b' has num_successes=9 of num_rollouts=8"),
        ((["a"], [-1], [8]), "num_successes=-1"),
        ((["a"], [0], [0]), "n >= 1"),
        ((["a"], [float("nan")], [8]), "num_successes=nan of prompt 'a' is not a whole number"),
        ((["a"], [1.5], [8]), r"num_successes=1\.5"),
        ((["a"], [1, 2], [8]), r"shape \(2,\) for 1 prompts"),
        ((["a"], [float("inf")], [float("inf")]), "num_successes=inf of prompt 'a' is not a whole number"),
        ((["a"], ["1"], [8]), "num_successes of type <U1 are not whole numbers"),
        ((["a"], [1], [8], [True, False]), r"trained has shape \(2,\) for 1 prompts"),
        ((["a"], [1], [8], ["no"]), "trained of type <U2 are not booleans"),
    ],
)
def test_bad_counts_are_named_and_nothing_is_absorbed(model, arguments, message):
    online = model.online(prompts())
    drive(online, 2)
    before = online.belief
    with pytest.raises(InputError, match=message):
        online.step(*arguments)
    np.testing.assert_array_equal(online.belief, before)
    assert online.steps == 2


def test_bad_pools_are_named():
    with pytest.raises(InputError, match="pool is empty"):
        DPS().online([])
    with pytest.raises(InputError, match="'a' is in the pool twice"):
        DPS().online(["a", "b", "a"])
    with pytest.raises(InputError, match="column 'family' has 2 values for 3 prompts"):
        Prompts(["a", "b", "c"], {"family": ["x", "y"]})
    online = DPS().online(["a"])
    with pytest.raises(InputError, match="'a' is in the pool twice"):
        online.add(["b", "a"])
    assert online.prompt_ids == ["a"]
    with pytest.raises(InputError, match="cluster 'z' is none of those fitted"):
        FILTERS["hmm with clusters"].online(Prompts(["a"], {"family": ["z"]}))
    with pytest.raises(InputError, match="'hmm', cluster='family': there is no column 'family': the prompts have no"):
        FILTERS["hmm with clusters"].online(["a"])
    online = FILTERS["dps with clusters"].online(Prompts(["a", "b"], {"family": ["x", None]}))
    assert online.state_dict()["clusters"] == ["x", "(none)"]


def test_states_of_other_models_and_pools_are_refused():
    state = DPS(0.7).online(IDS).state_dict()
    with pytest.raises(InputError, match="saved by model"):
        DPS(0.5).online(IDS).load_state_dict(state)
    with pytest.raises(
        InputError, match="another pool: none of its 6 prompts, such as 'a', is among this one's 2, such"
    ):
        DPS(0.7).online(["y", "z"]).load_state_dict(state)
    with pytest.raises(InputError, match="the state has prompt 'a' twice"):
        DPS(0.7).online(IDS).load_state_dict({**state, "prompt_ids": ["a", "b", "c", "d", "e", "a"]})
    with pytest.raises(InputError, match="the state has no prompts"):
        DPS(0.7).online(IDS).load_state_dict({**state, "prompt_ids": [], "clusters": []})


@pytest.mark.parametrize("name", FILTERS)
def test_states_go_by_ids(name):
    """In another order, with prompts that join and with some that only the state has."""
    model = FILTERS[name]
    saved = model.online(prompts(range(5)))
    saved.step(["a", "d"], [3, 8], 8)
    loaded = model.online(prompts([6, 3, 0, 5, 2]))  # b and e are gone, f and g join
    loaded.load_state_dict(saved.state_dict())
    saved.add(prompts([6, 5]))
    assert loaded.prompt_ids == saved.prompt_ids == ["a", "b", "c", "d", "e", "g", "f"]
    for online in (saved, loaded):
        online.step(["c", "f"], [0, 5], 8)
    assert loaded.steps == saved.steps == 2
    for one, other in zip(loaded._state, saved._state, strict=True):
        np.testing.assert_array_equal(one, other)


def test_labels_that_changed_since_are_told():
    state = DPS(cluster="family").online(prompts()).state_dict()
    online = DPS(cluster="family").online(Prompts(IDS, {"family": ["x", "z", *LABELS[2:]]}))
    with pytest.warns(PromptdynWarning, match="1 prompts had another cluster label .* such as 'b': 'y', now 'z'"):
        online.load_state_dict(state)
    assert online.state_dict()["clusters"] == LABELS


def test_features_are_read_anew_for_some_prompts():
    features = np.random.default_rng(0).normal(size=(3, 4))
    online = FeatureRate().online(Prompts(["a", "b", "c"], {"policy": features}))
    online.refresh(Prompts(["c", "a"], {"policy": features[[2, 0]] + 1.0}))
    np.testing.assert_allclose(online._state.features.T, features + np.array([[1.0], [0.0], [1.0]]), rtol=1e-6)
    with pytest.raises(InputError, match="prompt 'd' is not among"):
        online.refresh(Prompts(["d"], {"policy": features[:1]}))


def test_a_fit_runs_online(tmp_path):
    history = RewardHistory.from_columns(
        [0, 0, 1, 1], ["a", "b", "a", "b"], num_successes=[0, 8, 1, 8], num_rollouts=[8] * 4
    )
    fit = promptdyn.fit(DiscreteHMM(num_states=3), history, max_iterations=3)
    online = fit.online(["a", "b", "new"])
    online.step(["a", "b"], [0, 8], 8)
    assert online.success_rate().argsort().tolist() == [0, 2, 1]


def test_ids_that_are_no_strings_are_known_by_their_text():
    ids: list[Any] = [7, 8]
    online = DPS().online(ids)
    online.step(ids[:1], [8], [8])
    assert online.rows(["7", ids[1]]).tolist() == DPS().online(np.array(ids)).rows(np.array(ids)).tolist() == [0, 1]
    assert online.prompt_ids == ["7", "8"]


def test_states_that_are_not_whole_are_refused(model):
    online = model.online(prompts())
    drive(online, 2)
    before = online.belief
    state = online.state_dict()
    name = next(iter(state["arrays"]))
    changes: list[tuple[dict[str, Any], str]] = [
        ({"arrays": {}}, "(is|are) not"),
        ({"arrays": {**state["arrays"], name: state["arrays"][name][..., :-1]}}, f"{name!r} is not the .* array"),
        ({"clusters": LABELS[:2]}, "the state has 2 clusters for 6 prompts"),
    ]
    for change, message in changes:
        with pytest.raises(InputError, match=message):
            online.load_state_dict({**state, **change})
    with pytest.raises(InputError, match="the state has no 'steps'"):
        online.load_state_dict({key: value for key, value in state.items() if key != "steps"})
    np.testing.assert_array_equal(online.belief, before)
