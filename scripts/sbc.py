"""Simulation-based calibration (Talts et al. 2018) of the programs and NUTS, by simuk: `make sbc`.

Parameters are drawn from a model's prior, counts from the parameters, and the posterior of the counts by NUTS: where
program, kernel and sampler agree, the rank of a parameter among its posterior's draws is uniform, and 95 % intervals
hold it 95 % of the time. Writes docs/sbc.json and docs/sbc.png; prints a table.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import jax
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import simuk
from numpyro.handlers import condition, uncondition
from numpyro.infer import NUTS
from scipy.stats import binom, kstest

import promptdyn
from promptdyn.models import BetaState, DiscreteHMM, HierarchicalHMM

DOCS = Path(__file__).parents[1] / "docs"
MODELS = {
    "DiscreteHMM": DiscreteHMM(num_states=3, num_exposures=2),
    "HierarchicalHMM": HierarchicalHMM(num_states=2, num_exposures=2, cluster="task"),
    "BetaState": BetaState(num_states=9, cluster="task"),
}
NUM_DRAWS, THINNING = 100, 4


def design(num_prompts: int = 40, num_steps: int = 20, seed: int = 0) -> promptdyn.RewardHistory:
    """Groups of 4 rollouts in half of the cells, some not trained on, in four clusters."""
    rng = np.random.default_rng(seed)
    step, prompt = np.nonzero(rng.random((num_steps, num_prompts)) < 0.5)
    return promptdyn.RewardHistory.from_columns(
        step,
        prompt,
        np.full(len(step), 4),
        rng.integers(0, 5, len(step)),
        trained=rng.random(len(step)) < 0.6,
        clusters={"task": prompt % 4},
    )


def ranks(model: object, num_simulations: int, seed: int) -> dict[str, np.ndarray]:
    """Site -> (simulation ...) posterior draws, of `NUM_DRAWS`, below the truth."""
    observed = promptdyn.program(model, design())

    def program(num_successes: jax.Array | None = None) -> None:
        if num_successes is None:
            uncondition(observed)()
        else:
            condition(observed, {"num_successes": num_successes})()

    dense = design().dense()
    found = simuk.SBC(
        NUTS(program, target_accept_prob=0.9),
        num_simulations=num_simulations,
        sample_kwargs={"num_warmup": 300, "num_samples": NUM_DRAWS * THINNING, "thinning": THINNING},
        seed=seed,
        data_dir={"num_successes": dense.counts[dense.symbols, 1].T},
    )
    found.run_simulations()
    group = found.simulations["prior_sbc"]
    return {name: np.asarray(group[name])[0] for name in group.data_vars}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--simulations", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    settings = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    figure, axes = plt.subplots(1, len(MODELS), figsize=(12, 3.6), sharey=True, layout="constrained")
    table = []
    # simuk makes a sampler for each simulation: compiled once, it is read from here.
    with tempfile.TemporaryDirectory() as cache:
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
        for (name, model), axis in zip(MODELS.items(), axes, strict=True):
            begun = time.perf_counter()
            by_site = ranks(model, settings.simulations, settings.seed)
            for site, found in by_site.items():
                # Ties cannot be: draws are continuous. A rank is one of 0 .. NUM_DRAWS.
                entries = (found.reshape(len(found), -1) + 0.5) / (NUM_DRAWS + 1)
                inside = ((entries > 0.025) & (entries < 0.975)).mean(axis=0)
                p = [kstest(entry, "uniform").pvalue for entry in entries.T]
                table.append(
                    {
                        "model": name,
                        "site": site,
                        "entries": entries.shape[1],
                        "coverage_95": float(inside.mean()),
                        "least_p": float(min(1.0, min(p) * len(p))),
                    }
                )
                grid = np.linspace(0, 1, 201)
                for entry in entries.T:
                    below = np.searchsorted(np.sort(entry), grid, side="right") / len(entry)
                    axis.plot(grid, below - grid, color="tab:blue", alpha=0.25, lw=0.8)
            low, high = (binom.ppf(q, settings.simulations, grid) / settings.simulations - grid for q in (0.005, 0.995))
            axis.fill_between(grid, low, high, color="0.85", zorder=0, label="99 % of uniform ranks, pointwise")
            axis.set(title=f"{name}, {(time.perf_counter() - begun) / 60:.0f} min", xlabel="rank / draws")
    axes[0].set_ylabel("share of ranks below, less expected")
    axes[0].legend(loc="upper right", fontsize=8)
    figure.savefig(DOCS / "sbc.png", dpi=120)
    result = {"simulations": settings.simulations, "seed": settings.seed, "draws": NUM_DRAWS, "sites": table}
    (DOCS / "sbc.json").write_text(json.dumps(result, indent=2) + "\n")
    print(f"{'model':16} {'site':22} {'entries':>7} {'95 % interval holds':>20} {'least p':>8}")
    for row in table:
        print(f"{row['model']:16} {row['site']:22} {row['entries']:7} {row['coverage_95']:20.3f} {row['least_p']:8.3f}")


if __name__ == "__main__":
    main()
