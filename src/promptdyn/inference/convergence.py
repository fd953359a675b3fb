"""Judge whether draws of a posterior have converged: R-hat, effective sample size, divergences, and a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from promptdyn.inference._arviz import from_dict, load_arviz

__all__ = ["judge", "rhat_and_ess"]

# Draws with a larger R-hat, or fewer effective draws per chain, have not converged (Vehtari et al. 2021).
MAX_RHAT = 1.01
MIN_ESS = 50


def rhat_and_ess(draws: Mapping[str, NDArray]) -> tuple[dict[str, float], dict[str, float]]:
    """Return rank-normalized split R-hat and bulk effective sample size of every entry that moves, by "site[index]".

    They are those of Vehtari et al. 2021, but R-hat is of the draws alone and not of the folded draws too, whose
    largest value over hundreds of entries exceeds any strict bound by chance.
    """
    az = load_arviz()

    def chains(value: NDArray) -> NDArray:
        """Return a single chain as two chains, its halves, since ArviZ needs two."""
        half = value.shape[1] // 2
        return value if len(value) > 1 else np.stack([value[0, :half], value[0, -half:]])

    data = from_dict({"posterior": {name: chains(np.asarray(value)) for name, value in draws.items()}}, {}, {})

    def entries(statistic: Any) -> dict[str, float]:
        result = statistic(data)
        dataset = result.posterior.dataset if hasattr(result, "posterior") else result
        values = {}
        for name in draws:
            for index, value in np.ndenumerate(dataset[name].values):
                label = f"{name}[{', '.join(map(str, index))}]" if index else name
                if not np.isnan(value):
                    values[label] = float(value)
        return values

    return entries(partial(az.rhat, method="z_scale")), entries(az.ess)


def judge(
    rhat: Mapping[str, float], ess: Mapping[str, float], divergences: int, num_chains: int
) -> tuple[bool, str, dict[str, float]]:
    """Return whether draws have converged, the verdict in words, and the numbers behind it.

    Numbers are rounded to their worse side, so that a number in the text is never equal to the bound that it breaks.

    Args:
        rhat: entry -> R-hat, of entries that move.
        ess: entry -> effective sample size, of entries that move.
        divergences: number of draws that diverged.
        num_chains: number of chains.
    """
    problems = []
    # There are no numbers if no entry ever moved.
    worst_rhat, worst_ess = max(rhat.values(), default=np.inf), min(ess.values(), default=0.0)
    rounded_rhat, rounded_ess, least_ess = np.ceil(1000 * worst_rhat) / 1000, np.floor(worst_ess), MIN_ESS * num_chains
    if not rhat:
        problems.append("no draw moved from where its chain began: check the program's priors")
    elif not worst_rhat <= MAX_RHAT:
        entry = max(rhat, key=lambda name: rhat[name])
        problems.append(f"R-hat of {entry} is {rounded_rhat:.3f}, above {MAX_RHAT}: raise num_warmup and num_samples")
    if ess and not worst_ess >= least_ess:
        entry = min(ess, key=lambda name: ess[name])
        problems.append(f"{entry} has {rounded_ess:.0f} effective draws, below {least_ess}: raise num_samples")
    if divergences:
        problems.append(f"{divergences} draws diverged: raise target_accept, or reparameterize the program")
    if problems:
        verdict = f"not converged: {'; '.join(problems)}"
    else:
        verdict = (
            f"converged: R-hat at most {rounded_rhat:.3f}, at least {rounded_ess:.0f} effective draws, no divergence"
        )
    return not problems, verdict, {"max_rhat": worst_rhat, "min_ess": worst_ess, "divergences": divergences}
