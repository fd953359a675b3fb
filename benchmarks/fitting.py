"""EM from one start to one log likelihood, on 2,000 prompts x 200 steps x 3 states: ours, hmmlearn's, dynamax's.

With flat priors the three fit one model by the same recursion, and after as many iterations they stand at the same log
likelihood, which the table shows. The peers know no missing steps: there they get groups of no rollouts.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import gammaln

from benchmarks.timing import Timing, timed
from promptdyn.errors import ConvergenceWarning
from promptdyn.history import RewardHistory
from promptdyn.inference import fit
from promptdyn.models import DiscreteHMM
from promptdyn.models.base import Pool
from promptdyn.ppl import load_backend

NUM_PROMPTS, NUM_STEPS, NUM_STATES, NUM_GENERATIONS, ITERATIONS = 2_000, 200, 3, 8, 20


def run() -> list[dict[str, object]]:
    return [row for observed in (0.2, 1.0) for row in race(observed)]


def race(observed: float) -> list[dict[str, object]]:
    """Rows of the table for a history of which this share of cells is observed."""
    successes, num_rollouts = counts(observed)
    step, prompt = np.nonzero(num_rollouts)
    seen = step, prompt
    history = RewardHistory.from_columns(step, prompt, num_successes=successes[seen], num_rollouts=num_rollouts[seen])
    model = DiscreteHMM(num_states=NUM_STATES, num_exposures=1, concentration=1e-9)
    start = load_backend("numpyro").Program(model, Pool(np.zeros(NUM_PROMPTS, np.int32), ("all",))).start
    initial, transition = start["initial"][0], start["transition"][0, 0]
    rates = np.cumsum(start["gaps"])[:-1]
    # Both peers take a vector of counts for each group: successes and failures.
    both = np.stack([successes, num_rollouts - successes], axis=-1).swapaxes(0, 1)
    emission = np.stack([rates, 1.0 - rates], axis=-1)

    def ours() -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return fit(model, history, "em", tolerance=-1.0, max_iterations=ITERATIONS).log_marginal

    def hmmlearn() -> float:
        from hmmlearn.hmm import MultinomialHMM

        logging.getLogger("hmmlearn").setLevel(logging.ERROR)
        peer = MultinomialHMM(
            NUM_STATES,
            n_trials=num_rollouts.T.ravel(),
            n_iter=ITERATIONS,
            tol=-np.inf,
            init_params="",
            implementation="scaling",
        )
        peer.startprob_, peer.transmat_, peer.emissionprob_ = initial, transition, emission
        lengths = [NUM_STEPS] * NUM_PROMPTS
        return float(peer.fit(both.reshape(-1, 2), lengths).score(both.reshape(-1, 2), lengths))

    @jax.enable_x64(True)  # as the others
    def dynamax() -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own dependencies
            from dynamax.hidden_markov_model import MultinomialHMM
        flat = 1.0 + 1e-9
        peer = MultinomialHMM(NUM_STATES, 1, 2, NUM_GENERATIONS, flat, flat, 0.0, flat)
        params, properties = peer.initialize(
            jax.random.key(0),
            initial_probs=jnp.asarray(initial),
            transition_matrix=jnp.asarray(transition),
            emission_probs=jnp.asarray(emission[:, None]),
        )
        groups = jnp.asarray(both[:, :, None], float)
        # The iteration after the last one tells the log joint that it led to. A flat prior's density is a constant, and
        # so is what this multinomial makes of a group of none.
        params, log_joints = peer.fit_em(params, properties, groups, num_iters=ITERATIONS + 1, verbose=False)
        missing = (num_rollouts == 0).sum() * gammaln(NUM_GENERATIONS + 1)
        return float(log_joints[-1] - peer.log_prior(params) - missing)

    def measured(fitted: Callable[[], float], repeats: int) -> tuple[Timing, float]:
        reached: list[float] = []
        return timed(lambda: reached.append(fitted()), repeats), reached[-1]

    rows = {
        "promptdyn": measured(ours, 3),
        "hmmlearn MultinomialHMM": measured(hmmlearn, 1),
        "dynamax MultinomialHMM": measured(dynamax, 1),
    }
    return [
        {
            f"{ITERATIONS} iterations": name,
            "observed": f"{observed:.0%}",
            "log likelihood": round(reached, 1),
            "s": round(timing.median, 2),
            "first call s": round(timing.first, 2),
            "times ours": round(timing.median / rows["promptdyn"][0].median, 1),
        }
        for name, (timing, reached) in rows.items()
    ]


def counts(observed: float) -> tuple[np.ndarray, np.ndarray]:
    """(step, prompt) successes of 8 rollouts drawn from three states, and rollouts: none in what is not observed."""
    rng = np.random.default_rng(0)
    rates = np.array([0.05, 0.5, 0.95])
    transition = np.array([[0.97, 0.03, 0.0], [0.02, 0.95, 0.03], [0.0, 0.03, 0.97]])
    state = np.zeros((NUM_STEPS, NUM_PROMPTS), int)
    for t in range(1, NUM_STEPS):
        cumulative = transition[state[t - 1]].cumsum(axis=1)
        state[t] = (rng.random(NUM_PROMPTS)[:, None] > cumulative).sum(axis=1)
    num_rollouts = np.where(rng.random(state.shape) < observed, NUM_GENERATIONS, 0)
    num_rollouts[0] = NUM_GENERATIONS  # where every chain begins
    return rng.binomial(num_rollouts, rates[state]), num_rollouts
