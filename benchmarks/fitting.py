"""Ten iterations of EM on 2,000 prompts x 200 steps x 3 states, 20 % observed: ours, hmmlearn's, dynamax's."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import timed
from promptdyn.errors import ConvergenceWarning
from promptdyn.history import RewardHistory
from promptdyn.inference import fit
from promptdyn.models import DiscreteHMM

NUM_PROMPTS, NUM_STEPS, NUM_STATES, ITERATIONS = 2_000, 200, 3, 10


def run() -> list[dict[str, object]]:
    from hmmlearn.hmm import CategoricalHMM

    rng = np.random.default_rng(0)
    rates = np.array([0.05, 0.5, 0.95])
    transition = np.array([[0.97, 0.03, 0.0], [0.02, 0.95, 0.03], [0.0, 0.03, 0.97]])
    state = np.zeros((NUM_STEPS, NUM_PROMPTS), int)
    for t in range(1, NUM_STEPS):
        cumulative = transition[state[t - 1]].cumsum(axis=1)
        state[t] = (rng.random(NUM_PROMPTS)[:, None] > cumulative).sum(axis=1)
    successes = rng.binomial(8, rates[state])
    seen = rng.random(successes.shape) < 0.2
    seen[0] = True
    step, prompt = np.nonzero(seen)
    history = RewardHistory.from_columns(step, [f"p{i}" for i in prompt], np.full(len(step), 8), successes[seen])

    warnings.simplefilter("ignore", ConvergenceWarning)
    model = DiscreteHMM(num_states=NUM_STATES, num_exposures=1, concentration=1e-6)
    ours = timed(lambda: fit(model, history, tolerance=-1.0, max_iterations=ITERATIONS), repeats=3)
    result = fit(model, history, tolerance=-1.0, max_iterations=ITERATIONS)

    # hmmlearn has no missing observations and no binomial: a categorical over 0..8 and "missing" is its nearest model.
    symbols = np.where(seen, successes, 9).T.reshape(-1, 1)
    lengths = [NUM_STEPS] * NUM_PROMPTS

    def peer() -> object:
        hmm = CategoricalHMM(NUM_STATES, n_iter=ITERATIONS, tol=-np.inf, random_state=0, n_features=10)
        return hmm.fit(symbols, lengths)

    hmmlearn = timed(peer, repeats=1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own dependencies
        from dynamax.hidden_markov_model import CategoricalHMM as DynamaxHMM

    other = DynamaxHMM(NUM_STATES, emission_dim=1, num_classes=10)
    params, properties = other.initialize(jax.random.key(0))
    emissions = jnp.asarray(np.where(seen, successes, 9).T[..., None])
    dynamax = timed(lambda: other.fit_em(params, properties, emissions, num_iters=ITERATIONS, verbose=False), repeats=1)
    return [
        {
            "EM, 2,000 x 200 x 3, 10 iterations": name,
            "s": round(timing.median, 2),
            "first call s": round(timing.first, 2),
            "times ours": round(timing.median / ours.median, 1),
        }
        for name, timing in {
            f"promptdyn (log marginal {result.log_marginal:.0f})": ours,
            "hmmlearn CategoricalHMM": hmmlearn,
            "dynamax CategoricalHMM": dynamax,
        }.items()
    ]
