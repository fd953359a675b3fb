"""Simulation-based calibration (Talts et al. 2018) of the programs and NUTS, by simuk: `make sbc`.

Parameters are drawn from a model's prior, counts from the parameters, and the posterior of the counts by NUTS: where
program, kernel and sampler agree, the rank of a parameter among its posterior's draws is uniform, and 95 % intervals
hold it 95 % of the time. Writes docs/sbc.json (the ranks) and docs/sbc.png; prints a table.
"""

from __future__ import annotations

import argparse
import json
import tempfile
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
from promptdyn.models import BetaState, DiscreteHMM, DynamicsLike, HierarchicalHMM
from promptdyn.storage import atomic

DOCS = Path(__file__).parents[1] / "docs"
MODELS = {
    "DiscreteHMM": DiscreteHMM(num_states=3, num_exposures=2),
    "HierarchicalHMM": HierarchicalHMM(num_states=2, num_exposures=2, cluster="task"),
    "BetaState": BetaState(num_states=9, cluster="task"),
}
NUM_DRAWS, THINNING = 100, 4
# Draws at either end of an interval's outside, of 101 ranks: it holds the truth 94.1 % of the time.
OUTSIDE = 3
# Simulations after which the results so far are written.
BATCH = 20


def design(num_prompts: int = 40, num_steps: int = 20, seed: int = 0) -> promptdyn.RewardHistory:
    """Groups of 4 rollouts in half of the cells, some not trained on, in four clusters."""
    rng = np.random.default_rng(seed)
    step, prompt = np.nonzero(rng.random((num_steps, num_prompts)) < 0.5)
    return promptdyn.RewardHistory.from_columns(
        step,
        prompt,
        num_successes=rng.integers(0, 5, len(step)),
        num_rollouts=np.full(len(step), 4),
        trained=rng.random(len(step)) < 0.6,
        columns={"task": prompt % 4},
    )


def ranks(model: DynamicsLike, begin: int, end: int, seed: int) -> dict[str, list]:
    """Site -> (simulation entry) posterior draws, of `NUM_DRAWS`, below the truth, of some simulations."""
    observed = promptdyn.program(model, design())

    def program(num_successes: jax.Array | None = None) -> None:
        if num_successes is None:
            uncondition(observed)()
        else:
            condition(observed, {"num_successes": num_successes})()

    dense = design().dense()
    found = simuk.SBC(
        NUTS(program, target_accept_prob=0.9),
        num_simulations=end - begin,
        sample_kwargs={"num_warmup": 300, "num_samples": NUM_DRAWS * THINNING, "thinning": THINNING},
        seed=seed * 1_000_000 + begin,
        data_dir={"num_successes": dense.counts.num_successes[dense.symbols].T},
    )
    found.run_simulations()
    # Every simulation loads compiled code anew, and a process may map only so much.
    jax.clear_caches()
    group = found.simulations["prior_sbc"]
    return {name: np.asarray(group[name])[0].reshape(end - begin, -1).tolist() for name in group.data_vars}


def scores(found: list) -> dict[str, float]:
    """Share of truths between the third draw from either end; chance of ranks less even (Kolmogorov-Smirnov)."""
    entries = np.asarray(found)
    # Ties cannot be: draws are continuous. A rank is one of 0 .. NUM_DRAWS, each as likely as the others.
    p = [kstest((entry + 0.5) / (NUM_DRAWS + 1), "uniform").pvalue for entry in entries.T]
    return {
        "coverage": float(((entries >= OUTSIDE) & (entries <= NUM_DRAWS - OUTSIDE)).mean()),
        "least_p": float(min(1.0, min(p) * len(p))),
    }


def draw(results: dict[str, dict]) -> None:
    figure, axes = plt.subplots(1, len(results), figsize=(12, 3.6), sharey=True, layout="constrained", squeeze=False)
    grid = np.linspace(0, 1, 201)
    for (name, result), axis in zip(results.items(), axes[0], strict=True):
        num = result["simulations"]
        for found in result["ranks"].values():
            for entry in (np.asarray(found).T + 0.5) / (NUM_DRAWS + 1):
                below = np.searchsorted(np.sort(entry), grid, side="right") / num
                axis.plot(grid, below - grid, color="tab:blue", alpha=0.25, lw=0.8)
        low, high = (binom.ppf(q, num, grid) / num - grid for q in (0.005, 0.995))
        axis.fill_between(grid, low, high, color="0.85", zorder=0, label="99 % of uniform ranks, pointwise")
        axis.set(title=f"{name}, {num} simulations", xlabel="rank / draws")
    axes[0, 0].set_ylabel("share of ranks below, less expected")
    axes[0, 0].legend(loc="upper right", fontsize=8)
    figure.savefig(DOCS / "sbc.png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS), help="the others stay as they are")
    parser.add_argument(
        "--simulations",
        type=int,
        default=100,
        help="of each model, 10 to 40 s each; a run goes on from what docs/sbc.json holds",
    )
    parser.add_argument("--seed", type=int, default=0)
    settings = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    file = DOCS / "sbc.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    # What is compiled for one simulation is read from here for the next.
    with tempfile.TemporaryDirectory() as cache:
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
        for name in settings.models:
            kept = results.setdefault(name, {"seed": settings.seed, "draws": NUM_DRAWS, "simulations": 0, "ranks": {}})
            if kept["seed"] != settings.seed:
                parser.error(f"{file} holds {name} of seed {kept['seed']}: go on with it, or remove it")
            for begin in range(kept["simulations"], settings.simulations, BATCH):
                end = min(begin + BATCH, settings.simulations)
                for site, found in ranks(MODELS[name], begin, end, settings.seed).items():
                    kept["ranks"].setdefault(site, []).extend(found)
                kept["simulations"] = end
                with atomic(file) as part:
                    part.write_text(json.dumps(results) + "\n")
    draw(results)
    nominal = (NUM_DRAWS + 1 - 2 * OUTSIDE) / (NUM_DRAWS + 1)
    print(
        f"| model | site | entries | {nominal:.1%} interval holds the truth | least p of uniform ranks, times entries |"
    )
    print("|---|---|---:|---:|---:|")
    for name, result in results.items():
        for site, found in result["ranks"].items():
            row = scores(found)
            print(f"| {name} | `{site}` | {len(found[0])} | {row['coverage']:.3f} | {row['least_p']:.2f} |")


if __name__ == "__main__":
    main()
