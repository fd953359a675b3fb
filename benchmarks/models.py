"""Models fitted to the first 120 steps of docs/data, then forecasting the others: seconds, memory, scores.

"ECE" is the expected calibration error.
"""

from __future__ import annotations

import multiprocessing

from benchmarks.timing import memory_before, peak_memory

JOBS = (
    ("hmm", "em"),
    ("hierarchical", "em"),
    ("hierarchical", "svi"),
    ("beta", "map"),
    ("hierarchical:num_states=3", "nuts"),
)


def run() -> list[dict[str, object]]:
    rows = []
    for job in JOBS:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows.append(pool.apply(_measure, job))
    return rows


def _measure(text: str, method: str) -> dict[str, object]:
    import warnings

    import promptdyn
    from promptdyn.models import MODELS
    from promptdyn.models.checks import check_dynamics

    warnings.simplefilter("ignore", promptdyn.ConvergenceWarning)
    history = promptdyn.read_history("docs/data/arithmetic_grpo_history.parquet")
    before = memory_before()
    fit = promptdyn.fit(check_dynamics(MODELS.parse_one(text)), history.before(120), method)
    peak = peak_memory() - before
    (score,) = promptdyn.compare({text: fit}, history, fit_steps=120).scores
    return {
        "model": text,
        "method": method,
        "s": round(fit.seconds, 1),
        "MB taken": round(peak),
        "log loss": round(score.log_loss, 3),
        "AUROC": round(score.auroc, 3),
        "precision": round(score.precision, 3),
        "ECE": round(score.calibration_error, 3),
        "verdict": fit.verdict,
    }
