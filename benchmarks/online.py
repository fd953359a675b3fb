"""Live cost at 1,000,000 prompts: absorb a step of 1,024 groups, rank the pool, pick the next 1,024.

Every prompt has been seen once, so that none is cheap by being untouched. The peer for DPS is the recursion of
the paper as a loop over a dict of prompts, timed on a share of the pool and scaled to all of it.
"""

from __future__ import annotations

import time

import numpy as np

from benchmarks.timing import timed
from promptdyn.models import DPS, BetaBernoulli, InformativeRate, Stacked, emissions
from promptdyn.online import DiscountedBeta, FrozenChain, OnlineModel
from promptdyn.prompts import Prompts
from promptdyn.selection import Selector, Session

NUM_PROMPTS, NUM_CLUSTERS, BATCH, NUM_GENERATIONS = 1_000_000, 1_000, 1_024, 8
LOOP_PROMPTS = 10_000


def run() -> list[dict[str, object]]:
    ids = [f"prompt-{i}" for i in range(NUM_PROMPTS)]
    rng = np.random.default_rng(0)

    def frozen(num_states: int) -> FrozenChain:
        rates = np.linspace(0.01, 0.99, num_states)
        sticky = 0.97 * np.eye(num_states) + 0.03 / num_states
        chain = np.full((1, num_states), 1 / num_states), np.stack([sticky, sticky])[:, None]
        return FrozenChain("hmm", *chain, emissions.Binomial(rates).log_prob)

    pool = Prompts(ids, {"cluster": [f"cluster-{i}" for i in rng.integers(0, NUM_CLUSTERS, NUM_PROMPTS)]})
    pooled: dict[str, OnlineModel] = {
        "rate of 1,000 clusters, proportional": InformativeRate(cluster="cluster"),
        "MoPPS pooled over 1,000 clusters, proportional": BetaBernoulli(cluster="cluster"),
        "DPS pooled over 1,000 clusters, proportional": DPS(cluster="cluster"),
        "Stacked, experts pooled over 1,000 clusters, proportional": Stacked(cluster="cluster"),
    }
    alone: dict[str, OnlineModel] = {
        "DPS (transitions per prompt)": DPS(),
        "MoPPS": BetaBernoulli(),
        "fixed HMM, 3 states": frozen(3),
        "fixed HMM, 8 states": frozen(8),
        "grid of 50 states": frozen(50),
        "the same by its moments": DiscountedBeta(frozen(50)),
    }
    rows = []
    for name, model in {**pooled, **alone}.items():
        strategy = "proportional" if name in pooled else "top"
        selector = Selector(model.online(pool), strategy, num_generations=NUM_GENERATIONS)
        selector.online.step(ids, rng.integers(0, NUM_GENERATIONS + 1, NUM_PROMPTS), NUM_GENERATIONS)
        rewards = (rng.random((BATCH, NUM_GENERATIONS)) < rng.random((BATCH, 1))).astype(float)
        chosen = selector.select(BATCH)

        def step(selector: Selector = selector, rewards: np.ndarray = rewards, chosen: list[str] = chosen) -> None:
            selector.observe(chosen, rewards)
            chosen[:] = selector.select(BATCH)

        rows.append(_row(name, timed(step).median, selector.online.nbytes / NUM_PROMPTS))
        if isinstance(model, DPS) and name in alone:
            session = Session(selector, block=BATCH)

            def one_by_one(session: Session = session, rewards: np.ndarray = rewards) -> None:
                for group in rewards:
                    session.end(session.take()[0], group)
                session.step()

            rows.append(_row("the same, prompt by prompt in a session", timed(one_by_one).median, float("nan")))
    rows.append(_row("DPS as a loop over prompts (scaled)", _loop_over_prompts(rng), float("nan")))
    return rows


def _row(name: str, seconds: float, nbytes: float) -> dict[str, object]:
    return {
        "selector": name,
        "ms": round(seconds * 1e3, 1),
        "bytes a prompt": round(nbytes) if nbytes == nbytes else "-",
    }


def _loop_over_prompts(rng: np.random.Generator) -> float:
    """Seconds of one DPS step over the whole pool, written prompt by prompt with small NumPy arrays."""
    alpha = {i: np.ones((3, 3)) for i in range(LOOP_PROMPTS)}
    posterior = {i: np.full(3, 1 / 3) for i in range(LOOP_PROMPTS)}
    prior = dict(posterior)
    observed = {i: int(rng.integers(3)) for i in range(BATCH * LOOP_PROMPTS // NUM_PROMPTS)}
    start = time.perf_counter()
    for i in range(LOOP_PROMPTS):
        before, after = posterior[i], np.eye(3)[observed[i]] if i in observed else prior[i]
        transition = alpha[i] / alpha[i].sum(axis=0)
        alpha[i] = 0.7 * alpha[i] + 0.3
        if i in observed:
            xi = after[:, None] * before * transition
            alpha[i] += xi / xi.sum()
        posterior[i] = after
        prior[i] = alpha[i] / alpha[i].sum(axis=0) @ after
    sorted(prior, key=lambda i: -prior[i][1])
    return (time.perf_counter() - start) * NUM_PROMPTS / LOOP_PROMPTS
