"""Filter, smoother, log marginal and expected counts against enumeration of every path, and against a peer."""

import jax
import numpy as np
import pytest

from brute_force import path_sums
from promptdyn.inference import kernels
from promptdyn.models import DiscreteHMM

NUM_PROMPTS = 4


def random_case(seed: int, num_states: int, num_steps: int, num_exposures: int, num_clusters: int, emission: str):
    """A random model with groups of 1, 4 and 8 rollouts, about half of the cells missing."""
    rng = np.random.default_rng(seed)
    noise = 0.1 if emission == "ternary" else 0.0
    model = DiscreteHMM(num_states=num_states, emission=emission, exposure=num_exposures == 2, noise=noise)
    params = {
        "initial": rng.dirichlet(np.ones(num_states), num_clusters),
        "transition": rng.dirichlet(np.ones(num_states), (num_exposures, num_clusters, num_states)),
        "success_rates": np.sort(rng.uniform(0.01, 0.99, num_states)),
    }
    counts = np.array([(0, 0)] + [(n, k) for n in (1, 4, 8) for k in range(n + 1)])
    shape = (num_steps, NUM_PROMPTS)
    symbols = np.where(rng.random(shape) < 0.5, rng.integers(1, len(counts), shape), 0).astype(np.uint8)
    exposure = rng.random(shape) < 0.5
    return model.components(params, counts), symbols, exposure, rng.integers(0, num_clusters, NUM_PROMPTS)


CASES = [
    (num_states, num_steps, num_exposures, num_clusters, emission)
    for num_states, num_steps, emission in [
        (2, 6, "binomial"),
        (3, 5, "binomial"),
        (3, 5, "ternary"),
        (4, 1, "binomial"),
    ]
    for num_exposures in (1, 2)
    for num_clusters in (1, 3)
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_recursions_equal_the_sum_over_paths(case, seed):
    components, symbols, exposure, cluster = random_case(seed, *case)
    with jax.enable_x64(True):
        markov = kernels.Markov.create(*components, cluster=None if case[3] == 1 else cluster)
        arrays = jax.numpy.asarray(symbols), jax.numpy.asarray(exposure)
        filtered = kernels.filter(markov, *arrays)
        smoothed = np.asarray(kernels.smoother(markov, *arrays))
        counts = kernels.expected_counts(markov, *arrays)
        alone = np.asarray(kernels.log_marginal(markov, *arrays))

    emission = np.zeros_like(components.log_emission)
    for i in range(NUM_PROMPTS):
        c = cluster[i] if case[3] > 1 else 0
        truth = path_sums(
            components.initial[c],
            components.transition[:, c],
            components.log_emission,
            symbols[:, i],
            exposure[:, i],
        )
        np.testing.assert_allclose(alone[i], truth.log_marginal, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(filtered.log_marginal[i], truth.log_marginal, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(counts.log_marginal[i], truth.log_marginal, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(filtered.filtered[:, :, i], truth.filtered, atol=1e-12)
        np.testing.assert_allclose(filtered.predicted[:, i], truth.predicted, atol=1e-12)
        np.testing.assert_allclose(smoothed[:, :, i], truth.smoothed, atol=1e-12)
        np.testing.assert_allclose(counts.initial[:, i], truth.smoothed[0], atol=1e-12)
        np.testing.assert_allclose(counts.transition[..., i], truth.transitions, atol=1e-12)
        for t, symbol in enumerate(symbols[:, i]):
            emission[:, symbol] += truth.smoothed[t]
    np.testing.assert_allclose(counts.emission, emission, atol=1e-12)


def test_single_precision_agrees_with_double():
    components, symbols, exposure, _ = random_case(7, 3, 200, 2, 1, "binomial")
    single = kernels.filter(kernels.Markov.create(*map(np.float32, components)), symbols, exposure)
    with jax.enable_x64(True):
        double = kernels.filter(kernels.Markov.create(*components), symbols, exposure)
        np.testing.assert_allclose(single.filtered, double.filtered, atol=1e-5)
        np.testing.assert_allclose(single.log_marginal, double.log_marginal, rtol=1e-5)


def test_large_groups_do_not_underflow_in_single_precision():
    """0 of 512 in a state with p = 0.9 has likelihood 1e-512: scaled, it is a number; unscaled, 0 / 0."""
    model = DiscreteHMM(num_states=2, exposure=False)
    params = {
        "initial": np.array([[0.5, 0.5]]),
        "transition": np.array([[[[0.9, 0.1], [0.1, 0.9]]]]),
        "success_rates": np.array([0.5, 0.9]),
    }
    components = model.components(params, np.array([(0, 0), (512, 0), (512, 512)]))
    symbols = np.array([[1], [2], [0]], np.uint8)
    result = kernels.filter(kernels.Markov.create(*map(np.float32, components)), symbols, symbols > 0)
    truth = path_sums(params["initial"][0], params["transition"][:, 0], components.log_emission, symbols[:, 0], [0] * 3)
    np.testing.assert_allclose(result.filtered[:, :, 0], truth.filtered, atol=1e-6)
    np.testing.assert_allclose(result.log_marginal[0], truth.log_marginal, rtol=1e-5)


@pytest.mark.filterwarnings("ignore")  # the peer's own dependencies warn on import
def test_filter_and_smoother_equal_dynamax_on_a_larger_case():
    from dynamax.hidden_markov_model import hmm_smoother

    components, symbols, exposure, _ = random_case(11, 4, 150, 1, 1, "binomial")
    with jax.enable_x64(True):
        markov = kernels.Markov.create(*components)
        ours_filtered = kernels.filter(markov, symbols, exposure)
        ours_smoothed = np.asarray(kernels.smoother(markov, symbols, exposure))
        for i in range(NUM_PROMPTS):
            log_likelihoods = components.log_emission.T[symbols[:, i]]
            peer = hmm_smoother(components.initial[0], components.transition[0, 0], jax.numpy.asarray(log_likelihoods))
            np.testing.assert_allclose(ours_filtered.log_marginal[i], peer.marginal_loglik, rtol=1e-9)
            np.testing.assert_allclose(ours_filtered.filtered[:, :, i], peer.filtered_probs, atol=1e-9)
            np.testing.assert_allclose(ours_smoothed[:, :, i], peer.smoothed_probs, atol=1e-9)
