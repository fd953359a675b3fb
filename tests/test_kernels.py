"""The recursions against enumeration of every path, against each other, against finite differences and a peer."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from brute_force import joint, path_sums
from promptdyn.kernels import jax as kernels
from promptdyn.kernels import torch as torch_kernels
from promptdyn.models import emissions

NUM_PROMPTS = 4
COUNTS = np.array([(0, 0)] + [(n, k) for n in (1, 4, 8) for k in range(n + 1)])


def random_case(seed: int, num_states: int, num_steps: int, num_exposures: int, num_clusters: int, emission: str):
    """A random chain with groups of 1, 4 and 8 rollouts, about half of the cells missing."""
    rng = np.random.default_rng(seed)
    shown = emissions.Binomial(np.sort(rng.uniform(0.01, 0.99, num_states)))
    if emission == "ternary":
        shown = emissions.Ternary(noise=0.1)
    shape = (num_steps, NUM_PROMPTS)
    symbols = np.where(rng.random(shape) < 0.5, rng.integers(1, len(COUNTS), shape), 0).astype(np.uint8)
    markov = kernels.Markov(
        initial=rng.dirichlet(np.ones(num_states), num_clusters),
        transition=rng.dirichlet(np.ones(num_states), (num_exposures, num_clusters, num_states)),
        log_emission=shown.log_prob(COUNTS),
    )
    places = None if num_clusters == 1 else rng.integers(0, num_clusters, NUM_PROMPTS)
    return markov, symbols, rng.integers(0, 3, shape).astype(np.uint8), places


def of_prompt(markov: kernels.Markov, places: np.ndarray | None, i: int) -> tuple[np.ndarray, ...]:
    """Prompt i's own initial, transition and log-emission."""
    place = 0 if places is None else places[i]
    return markov.initial[place], markov.transition[:, place], markov.log_emission


CASES = [
    (num_states, num_steps, num_exposures, num_clusters, emission)
    for num_states, num_steps, emission in [
        (2, 6, "binomial"),
        (3, 5, "binomial"),
        (3, 5, "ternary"),
        (4, 1, "binomial"),
    ]
    for num_exposures in (1, 2, 3)
    for num_clusters in (1, 3)
]
# Above the number of states whose sums are unrolled.
LARGE = [(kernels.UNROLLED_STATES + 1, 3, 2, 1, "binomial"), (kernels.UNROLLED_STATES + 1, 3, 3, 3, "binomial")]


@pytest.mark.parametrize("case", CASES + LARGE, ids=str)
@pytest.mark.parametrize("seed", range(2))
def test_recursions_equal_the_sum_over_paths(case, seed):
    markov, symbols, exposure, places = random_case(seed, *case)
    sequences = kernels.Sequences.of(symbols, exposure, places)
    with jax.enable_x64(True):
        filtered = kernels.filter(markov, sequences)
        smoothed = np.asarray(kernels.smoother(markov, sequences))
        counts = kernels.expected_counts(markov, sequences)
        alone = np.asarray(kernels.log_marginal(markov, sequences))
        paths = np.asarray(kernels.viterbi(markov, sequences))

    initial, transition = np.zeros_like(markov.initial), np.zeros_like(markov.transition)
    emission = np.zeros_like(markov.log_emission)
    for i in range(NUM_PROMPTS):
        c = 0 if places is None else places[i]
        chain = of_prompt(markov, places, i)
        truth = path_sums(*chain, symbols[:, i], exposure[:, i])
        np.testing.assert_allclose(alone[i], truth.log_marginal, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(filtered.log_marginal[i], truth.log_marginal, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(counts.log_marginal[i], truth.log_marginal, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(filtered.filtered[:, :, i], truth.filtered, atol=1e-12)
        np.testing.assert_allclose(filtered.predicted[:, i], truth.predicted, atol=1e-12)
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


@pytest.mark.parametrize("case", [CASES[3], CASES[9], CASES[14], LARGE[1]], ids=str)
def test_gradients_equal_finite_differences_and_torch(case):
    markov, symbols, exposure, places = random_case(3, *case)
    sequences = kernels.Sequences.of(symbols, exposure, places)
    weight = np.arange(1.0, NUM_PROMPTS + 1)

    with jax.enable_x64(True):

        def total(*arrays):
            return weight @ kernels.log_marginal(kernels.Markov(*arrays), sequences)

        value, slopes = jax.value_and_grad(total, argnums=(0, 1, 2))(*map(jnp.asarray, markov))
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

    tensors = [torch.tensor(part, requires_grad=True) for part in markov]
    index = None if places is None else torch.tensor(places)
    result = torch_kernels.log_marginal(*tensors, torch.tensor(symbols), torch.tensor(exposure), index)
    loss = torch.tensor(weight) @ result
    loss.backward()
    np.testing.assert_allclose(loss.item(), value, rtol=1e-12)
    for tensor, slope in zip(tensors, slopes, strict=True):
        np.testing.assert_allclose(tensor.grad, slope, rtol=1e-9, atol=1e-10)


def test_sampled_paths_have_the_posterior_of_paths():
    markov, symbols, exposure, places = random_case(5, 3, 4, 3, 3, "binomial")
    sequences = kernels.Sequences.of(symbols, exposure, places)
    num_draws = 4000
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), num_draws)
        draws = np.asarray(jax.vmap(lambda key: kernels.sample_paths(markov, sequences, key))(keys))
    for i in range(NUM_PROMPTS):
        chain = of_prompt(markov, places, i)
        chances = joint(*chain, symbols[:, i], exposure[:, i], len(symbols))
        total = sum(chances.values())
        drawn = [tuple(path) for path in draws[:, :, i]]
        for path in product(range(3), repeat=4):
            p = chances[path] / total
            # Five standard errors, and a draw or two of a rare path.
            assert abs(drawn.count(path) - num_draws * p) <= 5 * np.sqrt(num_draws * p * (1 - p)) + 2


@pytest.mark.parametrize(("num_prompts", "num_clusters"), [(1, 1), (7, 3), (100, 100), (1000, 3), (3000, 5)])
def test_blocks_hold_every_prompt_once_with_its_own_cluster(num_prompts, num_clusters):
    rng = np.random.default_rng(num_prompts)
    places = rng.integers(0, num_clusters, num_prompts)
    symbols = np.arange(1, num_prompts + 1, dtype=np.int32)[None]
    laid = kernels.Sequences.of(symbols, symbols, places)
    np.testing.assert_array_equal(laid.by_prompt(laid.symbols), symbols)
    np.testing.assert_array_equal(np.sort(laid.symbols, axis=None)[-num_prompts:], symbols[0])
    lanes = laid.symbols.shape[2]
    np.testing.assert_array_equal(np.asarray(laid.places)[laid.slots // lanes], places)
    assert float(laid.filled(np.float32).sum()) == num_prompts
    # Little stands empty, whatever the clusters.
    assert laid.symbols.size <= 1.5 * num_prompts + 8


def test_pools_of_a_size_are_laid_out_alike():
    shapes = set()
    for seed in range(5):
        places = np.random.default_rng(seed).choice(3, 500, p=[0.8, 0.15, 0.05])
        symbols = np.zeros((2, 500), np.uint8)
        shapes.add(kernels.Sequences.of(symbols, symbols, places).symbols.shape)
    assert len(shapes) == 1


def test_single_precision_agrees_with_double():
    markov, symbols, exposure, _ = random_case(7, 3, 200, 3, 1, "binomial")
    sequences = kernels.Sequences.of(symbols, exposure)
    single = kernels.filter(kernels.Markov(*map(np.float32, markov)), sequences)
    with jax.enable_x64(True):
        double = kernels.filter(markov, sequences)
        np.testing.assert_allclose(single.filtered, double.filtered, atol=1e-5)
        np.testing.assert_allclose(single.log_marginal, double.log_marginal, rtol=1e-5)


def test_large_groups_do_not_underflow_in_single_precision():
    """0 of 512 in a state with p = 0.9 has likelihood 1e-512: scaled, it is a number; unscaled, 0 / 0."""
    initial, transition = np.array([[0.5, 0.5]]), np.array([[[[0.9, 0.1], [0.1, 0.9]]]])
    log_emission = emissions.Binomial(np.array([0.5, 0.9])).log_prob(np.array([(0, 0), (512, 0), (512, 512)]))
    symbols = np.array([[1], [2], [0]], np.uint8)
    markov = kernels.Markov(*map(np.float32, (initial, transition, log_emission)))
    result = kernels.filter(markov, kernels.Sequences.of(symbols, symbols))
    truth = path_sums(initial[0], transition[:, 0], log_emission, symbols[:, 0], [0] * 3)
    np.testing.assert_allclose(result.filtered[:, :, 0], truth.filtered, atol=1e-6)
    np.testing.assert_allclose(result.log_marginal[0], truth.log_marginal, rtol=1e-5)


@pytest.mark.filterwarnings("ignore")  # the peer's own dependencies warn on import
def test_filter_and_smoother_equal_dynamax_on_a_larger_case():
    from dynamax.hidden_markov_model import hmm_smoother

    markov, symbols, exposure, _ = random_case(11, 4, 150, 1, 1, "binomial")
    sequences = kernels.Sequences.of(symbols, exposure)
    with jax.enable_x64(True):
        ours_filtered = kernels.filter(markov, sequences)
        ours_smoothed = np.asarray(kernels.smoother(markov, sequences))
        for i in range(NUM_PROMPTS):
            log_likelihoods = jnp.asarray(markov.log_emission.T[symbols[:, i]])
            peer = hmm_smoother(markov.initial[0], markov.transition[0, 0], log_likelihoods)
            np.testing.assert_allclose(ours_filtered.log_marginal[i], peer.marginal_loglik, rtol=1e-9)
            np.testing.assert_allclose(ours_filtered.filtered[:, :, i], peer.filtered_probs, atol=1e-9)
            np.testing.assert_allclose(ours_smoothed[:, :, i], peer.smoothed_probs, atol=1e-9)
