"""Engines on 100,000 prompts x 200 steps, 3 states, 20 % observed, each in its own process.

"start" is until the first iteration; SVI makes one pass in batches of 512 prompts.
"""

from __future__ import annotations

import multiprocessing
import time
import warnings
from typing import Any

import numpy as np

from benchmarks.timing import memory_before, peak_memory

NUM_PROMPTS, NUM_STEPS = 100_000, 200
JOBS = {
    "EM, 10 iterations": ("em", "numpyro", {"max_iterations": 10, "tolerance": -1.0}),
    "MAP, 10 iterations": ("map", "numpyro", {"max_iterations": 10, "tolerance": -1.0}),
    "SVI, one pass": ("svi", "numpyro", {"num_steps": NUM_PROMPTS // 512, "num_samples": 10}),
    "SVI, one pass, Pyro": ("svi", "pyro", {"num_steps": NUM_PROMPTS // 512, "num_samples": 10}),
}


def run() -> list[dict[str, object]]:
    context = multiprocessing.get_context("spawn")
    rows: list[dict[str, object]] = []
    for name, job in JOBS.items():
        with context.Pool(1) as pool:
            total, first, before, peak = pool.apply(_measure, job)
        rows.append(
            {
                "engine": name,
                "start s": round(first, 1),
                "then s": round(total - first, 1),
                "MB before": round(before),
                "MB at peak": round(peak),
            }
        )
    return rows


def _measure(method: str, backend: Any, options: dict[str, Any]) -> tuple[float, float, float, float]:
    from promptdyn.errors import ConvergenceWarning
    from promptdyn.history import RewardHistory
    from promptdyn.inference import fit
    from promptdyn.models import DiscreteHMM

    warnings.simplefilter("ignore", ConvergenceWarning)
    rng = np.random.default_rng(0)
    step, prompt = np.nonzero(rng.random((NUM_STEPS, NUM_PROMPTS), np.float32) < 0.2)
    rate = rng.beta(0.4, 0.4, NUM_PROMPTS)
    history = RewardHistory.from_columns(
        step, prompt.astype(str), num_successes=rng.binomial(8, rate[prompt]), num_rollouts=np.full(len(step), 8)
    )
    before = memory_before()
    marks: list[float] = []
    begun = time.perf_counter()
    fit(
        DiscreteHMM(num_states=3),
        history,
        method,
        backend=backend,
        progress=lambda *_: marks.append(time.perf_counter()),
        **options,
    )
    done = time.perf_counter() - begun
    return done, marks[0] - begun, before, peak_memory()
