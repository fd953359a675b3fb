"""Whether draws of a posterior have converged: R-hat, effective draws, divergences, and the verdict in words."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from promptdyn.inference._arviz import from_dict, load_arviz

__all__ = ["judged", "rhat_and_ess"]

# R-hat above, or effective draws per chain below, are not converged (Vehtari et al. 2021).
MAX_RHAT = 1.01
MIN_ESS = 50


def rhat_and_ess(draws: Mapping[str, NDArray]) -> tuple[dict[str, float], dict[str, float]]:
    """Rank-normalized split R-hat and bulk effective sample size of every entry that moves, by "site[index]".

    Those of Vehtari et al. 2021; R-hat is that of the draws, not also of the folded ones, which among hundreds of
    entries exceeds any strict bound by chance.
    """
    az = load_arviz()

    def chains(value: NDArray) -> NDArray:
        """A single chain as its two halves: ArviZ wants two."""
        half = value.shape[1] // 2
        return value if len(value) > 1 else np.stack([value[0, :half], value[0, -half:]])

    data = from_dict({"posterior": {name: chains(np.asarray(value)) for name, value in draws.items()}}, {}, {})

    def entries(of: Any) -> dict[str, float]:
        made = of(data)
        dataset = made.posterior.dataset if hasattr(made, "posterior") else made
        found = {}
        for name in draws:
            for place, value in np.ndenumerate(dataset[name].values):
                label = f"{name}[{', '.join(map(str, place))}]" if place else name
                if not np.isnan(value):
                    found[label] = float(value)
        return found

    return entries(partial(az.rhat, method="z_scale")), entries(az.ess)


def judged(
    rhat: Mapping[str, float], ess: Mapping[str, float], divergences: int, num_chains: int
) -> tuple[bool, str, dict[str, float]]:
    """Whether draws have converged, the verdict in words, and the numbers behind it.

    Numbers are rounded to their worse side, so that none is said to be above, or below, what it looks equal to.

    Args:
        rhat: entry -> R-hat, of those that move.
        ess: entry -> effective draws, likewise.
        divergences: draws that diverged.
        num_chains: chains that they are of.
    """
    wrong = []
    # Where no entry ever moved there is neither.
    worst_rhat, worst_ess = max(rhat.values(), default=np.inf), min(ess.values(), default=0.0)
    shown_rhat, shown_ess, least_ess = np.ceil(1000 * worst_rhat) / 1000, np.floor(worst_ess), MIN_ESS * num_chains
    if not rhat:
        wrong.append("no draw moved from where its chain began: check the program's priors")
    elif not worst_rhat <= MAX_RHAT:
        where = max(rhat, key=lambda entry: rhat[entry])
        wrong.append(f"R-hat of {where} is {shown_rhat:.3f}, above {MAX_RHAT}: raise num_warmup and num_samples")
    if ess and not worst_ess >= least_ess:
        where = min(ess, key=lambda entry: ess[entry])
        wrong.append(f"{where} has {shown_ess:.0f} effective draws, below {least_ess}: raise num_samples")
    if divergences:
        wrong.append(f"{divergences} draws diverged: raise target_accept, or reparameterize the program")
    if wrong:
        verdict = f"not converged: {'; '.join(wrong)}"
    else:
        verdict = f"converged: R-hat at most {shown_rhat:.3f}, at least {shown_ess:.0f} effective draws, no divergence"
    return not wrong, verdict, {"max_rhat": worst_rhat, "min_ess": worst_ess, "divergences": divergences}
