"""The recursions against enumeration of every path, against each other, against finite differences and a peer."""

from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from brute_force import joint, path_sums
from promptdyn.history import Counts
from promptdyn.kernels import jax as kernels
from promptdyn.kernels import torch as torch_kernels
from promptdyn.kernels.sequences import FRESH, Sequences
from promptdyn.models import emissions

NUM_PROMPTS = 4
COUNTS = Counts(*np.array([(0, 0)] + [(k, n) for n in (1, 4, 8) for k in range(n + 1)]).T)


def in_numpy(initial: Any, transition: Any, log_emission: Any) -> kernels.Markov:
    """A chain of NumPy's arrays, which JAX's functions take as well."""
    return kernels.Markov(initial, transition, log_emission)


def random_case(seed: int, num_states: int, num_steps: int, num_exposures: int, num_clusters: int, emission: str):
    """A random chain with groups of 1, 4 and 8 rollouts, about half of the cells missing."""
    rng = np.random.default_rng(seed)
    shown: emissions.Binomial | emissions.Ternary = emissions.Binomial(np.sort(rng.uniform(0.01, 0.99, num_states)))
    if emission == "ternary":
        shown = emissions.Ternary(noise=0.1)
    shape = (num_steps, NUM_PROMPTS)
    symbols = np.where(rng.random(shape) < 0.5, rng.integers(1, len(COUNTS.num_rollouts), shape), 0).astype(np.uint8)
    markov = in_numpy(
        initial=rng.dirichlet(np.ones(num_states), num_clusters),
        transition=rng.dirichlet(np.ones(num_states), (num_exposures, num_clusters, num_states)),
        log_emission=shown.log_prob(*COUNTS),
    )
    cluster_index = None if num_clusters == 1 else rng.integers(0, num_clusters, NUM_PROMPTS)
    return markov, symbols, rng.integers(0, 3, shape).astype(np.uint8), cluster_index


def of_prompt(markov: Any, cluster_index: np.ndarray | None, i: int) -> tuple[Any, Any, Any]:
    """Prompt i's own initial, transition and log-emission."""
    place = 0 if cluster_index is None else cluster_index[i]
    return markov.initial[place], markov.transition[:, place], markov.log_emission


CASES = [
    (num_states, num_steps, num_exposures, num_clusters, emission)
    for num_states, num_steps, emission in [
        (2, 6, "binomial"),
        (3, 5, "binomial"),
        (3, 5, "ternary"),
        (4, 1, "binomial"),
    ]
    for num_exposures in (1, 3)
    for num_clusters in (1, 3)
]
# Above the number of states whose sums are unrolled.
LARGE = [(kernels.UNROLLED_STATES + 1, 3, 2, 1, "binomial"), (kernels.UNROLLED_STATES + 1, 3, 3, 3, "binomial")]


# Few and many states, one set and one per exposure and cluster, a single step, either emission.
BRIEF = [CASES[0], CASES[7], CASES[11], CASES[13], *LARGE]


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[] if case in BRIEF else pytest.mark.long) for case in CASES + LARGE], ids=str
)
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.long)])
def test_recursions_equal_the_sum_over_paths(case, seed):
    markov, symbols, exposure, cluster_index = random_case(seed, *case)
    whole = Sequences.whole(symbols, exposure, cluster_index)
    with jax.enable_x64(True):
        filtered = kernels.filter(markov, whole)
        smoothed = np.asarray(kernels.smoother(markov, whole))
        counts = kernels.expected_counts(markov, whole)
        paths = np.asarray(kernels.viterbi(markov, whole))

    initial, transition = np.zeros_like(markov.initial), np.zeros_like(markov.transition)
    emission = np.zeros_like(markov.log_emission)
    for i in range(NUM_PROMPTS):
        c = 0 if cluster_index is None else cluster_index[i]
        chain = of_prompt(markov, cluster_index, i)
        truth = path_sums(*chain, symbols[:, i], exposure[:, i])
        np.testing.assert_allclose(filtered.log_marginal[i], truth.log_marginal, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(counts.log_marginal[i], truth.log_marginal, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(filtered.filtered[:, :, i], truth.filtered, atol=1e-12)
        np.testing.assert_allclose(smoothed[:, :, i], truth.smoothed, atol=1e-12)
        chances = joint(*chain, symbols[:, i], exposure[:, i], len(symbols))
        assert chances[tuple(paths[:, i])] == pytest.approx(max(chances.values()))
        initial[c] += truth.smoothed[0]
        transition[:, c] += truth.transitions
        for t, symbol in enumerate(symbols[:, i]):
            emission[:, symbol] += truth.smoothed[t]
    np.testing.assert_allclose(counts.initial, initial, atol=1e-12)
    np.testing.assert_allclose(counts.transition, transition, atol=1e-12)
    np.testing.assert_allclose(counts.emission, emission, atol=1e-12)


@pytest.mark.parametrize(("case", "num_lanes"), [(CASES[3], 1), (LARGE[0], 100), (LARGE[1], 1)], ids=str)
def test_packed_cells_say_what_all_steps_say(case, num_lanes, monkeypatch):
    markov, symbols, exposure, cluster_index = random_case(4, *case)
    num_steps, num_gaps = 30, 3
    rng = np.random.default_rng(5)
    at = np.sort(rng.choice(num_steps, len(symbols), replace=False))
    symbols, exposure = (np.zeros((num_steps, NUM_PROMPTS), np.uint8) for _ in range(2))
    _, seen, shown, _ = random_case(4, *case)
    symbols[at], exposure[at] = seen, shown
    symbols[:, 1] = exposure[:, 1] = 0  # never observed
    monkeypatch.setattr("promptdyn.kernels.sequences.CELLS_PER_POWER", symbols.size / num_gaps**2)
    whole = Sequences.whole(symbols, exposure, cluster_index)
    packed = Sequences.packed(symbols, exposure, cluster_index, num_lanes, order=rng.permutation(NUM_PROMPTS))
    assert packed.num_lanes <= 2 * num_lanes - 1
    assert packed.longest_gap <= num_gaps
    weight = np.arange(1.0, NUM_PROMPTS + 1)
    with jax.enable_x64(True):

        def total(arrays, sequences):
            each = kernels.log_marginal(kernels.Markov(*arrays), sequences)
            return weight @ each, each

        arrays = tuple(map(jnp.asarray, markov))
        (slopes, each), (expected, each_step) = (
            jax.grad(total, has_aux=True)(arrays, sequences) for sequences in (packed, whole)
        )
        counts = jax.device_get(kernels.expected_counts(markov, packed))
    np.testing.assert_allclose(each, each_step, rtol=1e-10, atol=1e-12)
    # Rows of the gradient differ by what is the same for all columns: what it is with respect to is a probability.
    axes: Any
    for slope, other, axes in zip(slopes, expected, (-1, -1, ()), strict=True):
        slope, other = np.asarray(slope, float), np.asarray(other, float)
        if axes == ():
            slope, other = slope[:, 1:], other[:, 1:]
        else:
            slope, other = (part - part.mean(axis=axes, keepdims=True) for part in (slope, other))
        np.testing.assert_allclose(slope, other, rtol=1e-8, atol=1e-8)
    assert counts.initial.sum() + counts.transition.sum() == pytest.approx(packed.path_length)

    tensors = [torch.tensor(part, requires_grad=True) for part in markov]
    for sequences, in_jax in ((packed, slopes), (whole, expected)):
        result = torch_kernels.log_marginal(tensors[0], tensors[1], tensors[2], sequences)
        np.testing.assert_allclose(result.detach(), each, rtol=1e-10, atol=1e-12)
        for slope, other in zip(torch.autograd.grad(torch.tensor(weight) @ result, tensors), in_jax, strict=True):
            np.testing.assert_allclose(slope, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", [CASES[3], CASES[6], CASES[9], LARGE[1]], ids=str)
def test_gradients_equal_finite_differences(case):
    markov, symbols, exposure, cluster_index = random_case(3, *case)
    sequences = Sequences.packed(symbols, exposure, cluster_index)
    weight = np.arange(1.0, NUM_PROMPTS + 1)
    with jax.enable_x64(True):

        def total(*arrays):
            return weight @ kernels.log_marginal(kernels.Markov(*arrays), sequences)

        slopes = jax.grad(total, argnums=(0, 1, 2))(*map(jnp.asarray, markov))
        for which, array in enumerate(markov):
            numeric = np.zeros_like(array)
            for at in np.ndindex(array.shape):
                ends = []
                for step in (1e-6, -1e-6):
                    moved = [part.copy() for part in markov]
                    moved[which][at] += step
                    ends.append(float(total(*moved)))
                numeric[at] = (ends[0] - ends[1]) / 2e-6
            np.testing.assert_allclose(slopes[which], numeric, rtol=1e-5, atol=1e-5)


def test_impossible_counts_leave_the_other_prompts_of_a_lane_alone():
    markov = in_numpy(
        np.array([[1.0, 0.0, 0.0]]),
        np.eye(3)[None, None],
        emissions.Ternary().log_prob(num_successes=np.array([0, 0, 8]), num_rollouts=np.array([0, 8, 8])),
    )
    symbols = np.array([[1, 1, 1], [0, 2, 1], [1, 0, 1]], np.uint8)  # the second turns from none to all solved
    packed = Sequences.packed(symbols, 0 * symbols, num_lanes=1)
    with jax.enable_x64(True):
        counts = jax.device_get(kernels.expected_counts(markov, packed))
    assert counts.log_marginal[1] < -700
    np.testing.assert_allclose(counts.log_marginal[np.array([0, 2])], 0.0, atol=1e-12)
    assert counts.initial.sum() + counts.transition.sum() < packed.path_length - 0.5
    # All observations that are explained, and a guess.
    np.testing.assert_allclose(counts.emission[0, 1:].sum(), 5.0 + 1 / 3)
    initial, transition, emission = map(torch.tensor, markov)
    again = torch_kernels.log_marginal(initial, transition, emission, packed)
    np.testing.assert_allclose(again, counts.log_marginal)


@pytest.mark.parametrize(("num_prompts", "num_clusters"), [(1, 1), (7, 3), (1000, 3), (3000, 40)])
def test_lanes_hold_every_observation_once(num_prompts, num_clusters):
    rng = np.random.default_rng(num_prompts)
    num_steps = 20
    cluster_index = rng.integers(0, num_clusters, num_prompts)
    seen = rng.random((num_steps, num_prompts)) < rng.beta(0.5, 3.0, num_prompts)
    symbols = np.where(seen, rng.integers(1, 10, seen.shape), 0).astype(np.uint8)
    exposure = np.where(seen, rng.integers(0, 3, seen.shape), 0).astype(np.uint8)
    laid = Sequences.packed(symbols, exposure, cluster_index, num_lanes=50)
    held = laid.owner < num_prompts
    for prompt in rng.choice(num_prompts, min(num_prompts, 20), replace=False):
        lanes = np.unique(np.nonzero(laid.owner == prompt)[1])
        if not seen[:, prompt].any():
            assert len(lanes) == 0
            continue
        (lane,) = lanes
        cells = np.flatnonzero(laid.owner[:, lane] == prompt)
        moves = laid.moves[cells, lane]
        np.testing.assert_array_equal(laid.cluster_index[moves], cluster_index[prompt])
        np.testing.assert_array_equal(np.flatnonzero(laid.level[moves] == FRESH), [0])
        steps = np.cumsum(laid.gap[moves]) - 1
        shown = np.zeros(num_steps, np.uint8)
        shown[steps] = laid.symbols[cells, lane]
        np.testing.assert_array_equal(shown, symbols[:, prompt])
        left = np.zeros(num_steps, np.uint8)
        left[steps[:-1]] = laid.level[moves[1:]]
        np.testing.assert_array_equal(left[: steps[-1]], exposure[: steps[-1], prompt])
    # Little stands empty, and parts are the whole.
    assert laid.symbols.size <= 2 * held.sum() + 20
    assert sum(part.path_length for part in laid.chunks(3)) == laid.path_length
    batches = laid.batches(1, seed=0)
    assert sum(next(batches).path_length for _ in range(laid.num_lanes)) == laid.path_length


def test_sampled_paths_have_the_posterior_of_paths():
    markov, symbols, exposure, cluster_index = random_case(5, 3, 4, 3, 3, "binomial")
    sequences = Sequences.whole(symbols, exposure, cluster_index)
    num_samples = 4000
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), num_samples)
        draws = np.asarray(jax.vmap(lambda key: kernels.sample_paths(markov, sequences, key))(keys))
    for i in range(NUM_PROMPTS):
        chain = of_prompt(markov, cluster_index, i)
        chances = joint(*chain, symbols[:, i], exposure[:, i], len(symbols))
        total = sum(chances.values())
        drawn = [tuple(path) for path in draws[:, :, i]]
        for path in product(range(3), repeat=4):
            p = chances[path] / total
            # Five standard errors, and a draw or two of a rare path.
            assert abs(drawn.count(path) - num_samples * p) <= 5 * np.sqrt(num_samples * p * (1 - p)) + 2


def test_single_precision_agrees_with_double():
    markov, symbols, exposure, _ = random_case(7, 3, 200, 3, 1, "binomial")
    sequences = Sequences.whole(symbols, exposure)
    single = kernels.filter(in_numpy(*map(np.float32, markov)), sequences)
    with jax.enable_x64(True):
        double = kernels.filter(markov, sequences)
        np.testing.assert_allclose(single.filtered, double.filtered, atol=1e-5)
        np.testing.assert_allclose(single.log_marginal, double.log_marginal, rtol=1e-5)


def test_large_groups_do_not_underflow_in_single_precision():
    """0 of 512 in a state with p = 0.9 has likelihood 1e-512: scaled, it is a number; unscaled, 0 / 0."""
    initial, transition = np.array([[0.5, 0.5]]), np.array([[[[0.9, 0.1], [0.1, 0.9]]]])
    log_emission = emissions.Binomial(np.array([0.5, 0.9])).log_prob(np.array([0, 0, 512]), np.array([0, 512, 512]))
    symbols = np.array([[1], [2], [0]], np.uint8)
    markov = in_numpy(*map(np.float32, (initial, transition, log_emission)))
    result = kernels.filter(markov, Sequences.whole(symbols, symbols))
    truth = path_sums(initial[0], transition[:, 0], log_emission, symbols[:, 0], [0] * 3)
    np.testing.assert_allclose(result.filtered[:, :, 0], truth.filtered, atol=1e-6)
    np.testing.assert_allclose(result.log_marginal[0], truth.log_marginal, rtol=1e-5)


@pytest.mark.filterwarnings("ignore")  # the peer's own dependencies warn on import
def test_filter_and_smoother_equal_dynamax_on_a_larger_case():
    from dynamax.hidden_markov_model import hmm_smoother

    markov, symbols, exposure, _ = random_case(11, 4, 150, 1, 1, "binomial")
    sequences = Sequences.whole(symbols, exposure)
    with jax.enable_x64(True):
        ours_filtered = kernels.filter(markov, sequences)
        ours_smoothed = np.asarray(kernels.smoother(markov, sequences))
        for i in range(NUM_PROMPTS):
            log_likelihoods = jnp.asarray(markov.log_emission.T[symbols[:, i]])
            peer = hmm_smoother(markov.initial[0], markov.transition[0, 0], log_likelihoods)
            np.testing.assert_allclose(ours_filtered.log_marginal[i], peer.marginal_loglik, rtol=1e-9)
            np.testing.assert_allclose(ours_filtered.filtered[:, :, i], peer.filtered_probs, atol=1e-9)
            np.testing.assert_allclose(ours_smoothed[:, :, i], peer.smoothed_probs, atol=1e-9)
